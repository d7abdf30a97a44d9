//! `tenure version`: what was compiled in.

use serde_json::json;
use tenure::Store;

use crate::failure::Failure;
use crate::options::VersionArgs;
use crate::output::print;

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Prints it; asks no store.
pub(crate) fn version(args: &VersionArgs) -> Result<u8, Failure> {
    let features = features();
    if args.json {
        let stores = Store::all().iter().map(|store| {
            json!({
                "name": store.name(),
                "schemes": store.schemes(),
                "built_in": store.is_built_in(),
            })
        });
        let told = json!({
            "version": VERSION,
            "features": features,
            "stores": stores.collect::<Vec<_>>(),
        });
        print(&told.to_string())?;
    } else {
        print(&format!("tenure {VERSION}, with {}", features.join(", ")))?;
    }
    Ok(0)
}

fn features() -> Vec<&'static str> {
    let all = [
        ("etcd", cfg!(feature = "etcd")),
        ("file", cfg!(feature = "file")),
        ("kube-configmap", cfg!(feature = "kube-configmap")),
        ("kube-lease", cfg!(feature = "kube-lease")),
        ("memory", cfg!(feature = "memory")),
        ("postgres", cfg!(feature = "postgres")),
        ("redis", cfg!(feature = "redis")),
    ];
    let built_in = all.into_iter().filter(|(_, is_built_in)| *is_built_in);
    built_in.map(|(name, _)| name).collect()
}
