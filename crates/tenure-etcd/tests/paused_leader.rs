//! The example of the fence, run against a server of its own.

#[path = "../examples/paused_leader.rs"]
mod example;
use std::process::Command;

use tenure_testkit::etcd::start;
use tenure_testkit::within_limit;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_leaders_write_is_refused() {
    let Some(cluster) = start() else { return };
    let mut other = Command::new(std::env::current_exe().unwrap());
    other.args(["the_other_process", "--exact", "--nocapture"]);
    let url = format!("{}/example", cluster.url());
    within_limit("the example", Box::pin(example::show(&url, other))).await;
}

/// Does nothing when it is run among the other tests.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_other_process() {
    Box::pin(example::lead_and_be_paused()).await;
}
