//! A process that leads on one lock until it is killed, for `kubernetes.rs`.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed benchmark")]

#[path = "../../crates/tenure-kube/tests/support/mod.rs"]
mod support;

use std::io::Read as _;
use std::sync::Arc;

use support::{Server, lock};
use tenure_core::{Election, Policy};

#[tokio::main(flavor = "multi_thread", worker_threads = 1)]
async fn main() {
    let name = std::env::args().nth(1).unwrap();
    let server = Server::of_environment().unwrap();
    let backend = tenure_kube_lease::connect(server.config()).await.unwrap();
    let election = Election::builder(Arc::new(backend), lock(&name))
        .policy(Policy::default())
        .build()
        .unwrap();
    let leader = election.campaign().await.unwrap();
    println!();
    // Until it is killed, or the benchmark is gone.
    let waiting = tokio::task::spawn_blocking(|| std::io::stdin().read(&mut [0]));
    let _gone = waiting.await;
    drop(leader);
}
