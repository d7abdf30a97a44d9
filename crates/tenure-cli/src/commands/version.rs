//! `tenure version`: what was compiled in.

use serde_json::json;
use tenure::{Registry, Store};

use crate::failure::Failure;
use crate::options::VersionArgs;
use crate::output::print;

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Prints it; asks no store.
pub(crate) fn version(args: &VersionArgs, registry: &Registry) -> Result<u8, Failure> {
    let features = built_in(registry);
    if args.json {
        let stores = registry.stores().iter().map(|store| {
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

/// The stores that are compiled in.
fn built_in(registry: &Registry) -> Vec<&'static str> {
    let built_in = registry.stores().iter().filter(|it| it.is_built_in());
    let mut names: Vec<_> = built_in.map(Store::name).collect();
    names.sort_unstable();
    names
}
