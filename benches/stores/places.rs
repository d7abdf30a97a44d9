//! The stores of this bench: those that the facade is built with, by the URLs of the environment.

use std::path::Path;
use std::sync::Arc;

use tenure::{LockBackend, Reach, Store};
use tenure_benches::{ours, wants};

use crate::counters::{Counter, parameters, variable};

/// A store, by its URL as an application has it.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) name: &'static str,
    pub(crate) url: String,
    /// How the store counts requests, where it does.
    pub(crate) counter: Option<Counter>,
}

impl Place {
    pub(crate) async fn connect(&self) -> Arc<dyn LockBackend> {
        ours::connect(&self.url).await
    }

    /// Whether other processes cannot reach it.
    pub(crate) fn is_of_one_process(&self) -> bool {
        Store::of(&self.url).unwrap().reach() == Reach::Process
    }
}

/// All that can be reached.
pub(crate) fn all(directory: &Path) -> Vec<Place> {
    let mut places = Vec::new();
    for store in Store::all() {
        let name = store.name();
        if !wants("TENURE_BENCH_STORES", name) {
            continue;
        }
        let url = match store.reach() {
            Reach::Process => Some(format!("{name}:")),
            Reach::Host => Some(format!("{name}://{}", directory.display())),
            _ if name.starts_with("kube-") => {
                let in_file = |file| format!("{name}://default?kubeconfig={file}");
                variable("KUBECONFIG").map(in_file)
            }
            _ => variable(&format!("{}_URL", name.to_uppercase())),
        };
        match url {
            Some(url) => places.push(Place {
                name,
                counter: Counter::of(name, &url),
                url: url + parameters(name),
            }),
            None => println!("LEFT OUT: no URL of {name}; `cargo xtask stores env` prints them"),
        }
    }
    places
}
