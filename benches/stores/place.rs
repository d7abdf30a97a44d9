//! The stores, as an application names them: by URL.

use std::path::Path;
use std::sync::Arc;

use tenure::{CampaignId, Candidate, Identity, LockBackend, LockName};

/// A store, by its URL.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) name: &'static str,
    pub(crate) url: String,
}

impl Place {
    pub(crate) async fn connect(&self) -> Arc<dyn LockBackend> {
        tenure::connect(&self.url).await.unwrap()
    }

    /// What a process cannot share with another one.
    pub(crate) fn is_of_one_process(&self) -> bool {
        self.name == "memory"
    }
}

/// All that can be reached.
pub(crate) fn all(directory: &Path) -> Vec<Place> {
    let variable = |name: &str| std::env::var(name).ok();
    let kube = |scheme: &str| {
        let kubeconfig = variable("TENURE_TEST_KUBECONFIG")?;
        Some(format!("{scheme}://default?kubeconfig={kubeconfig}"))
    };
    let candidates = [
        ("memory", Some("memory:".to_owned())),
        ("file", Some(format!("file://{}", directory.display()))),
        ("redis", variable("TENURE_TEST_REDIS_URL")),
        (
            "postgres",
            // A server that has started a moment ago grants nothing for a lease's time, for the
            // sake of those who led before; here nobody did.
            variable("TENURE_TEST_POSTGRES_URL").map(|url| url + "?restart_grace=off"),
        ),
        ("etcd", variable("TENURE_TEST_ETCD_URL")),
        ("kube-lease", kube("kube-lease")),
        ("kube-configmap", kube("kube-configmap")),
    ];
    let wanted = variable("TENURE_BENCH_STORES");
    let mut places = Vec::new();
    for (name, url) in candidates {
        if let Some(wanted) = &wanted
            && !wanted.split(',').any(|one| one == name)
        {
            continue;
        }
        match url {
            Some(url) => places.push(Place { name, url }),
            None => println!("LEFT OUT: no URL of {name}; `cargo xtask stores env` prints them"),
        }
    }
    places
}

/// A lock of its own for what is measured.
pub(crate) fn lock(name: &str) -> LockName {
    LockName::new(format!("bench-{name}-{:08x}", fastrand::u32(..))).unwrap()
}

pub(crate) fn identity(number: usize) -> Identity {
    Identity::new(format!("candidate-{number}-{:08x}", fastrand::u32(..))).unwrap()
}

/// A campaign that nobody has made before.
pub(crate) fn candidate(identity: &Identity) -> Candidate {
    Candidate::new(identity.clone(), CampaignId::new(fastrand::u64(..)))
}
