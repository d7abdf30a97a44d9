//! A leader is paused between its check and its write, for longer than its lease, and finds that
//! the write is refused.
//!
//! `cargo run -p tenure-etcd --example paused_leader -- etcd://127.0.0.1:2379/example`
//!
//! The leader is another process, which is really stopped (`kill -STOP`) when it has made sure
//! that it leads and is about to write. Meanwhile this process is elected, and writes. When the
//! other runs on it writes without another look: the transaction under its guard is not committed,
//! whereas a plain put, on a key of its own, is. It makes, and deletes, two keys below
//! `tenure.example/`.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "an example that cannot go on says why and ends; its tests run it without `main`"
)]

use std::io::{BufRead as _, BufReader, Lines, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use tenure_core::{Election, LockName, Policy};
use tenure_etcd::etcd_client::{Client, TxnOp};
use tenure_etcd::{EtcdBackend, EtcdConfig};

/// Whoever finds the store's URL in it is the other process.
const FORMER: &str = "TENURE_EXAMPLE_LEADER";

const GUARDED: &str = "tenure.example/guarded";
const PLAIN: &str = "tenure.example/plain";

/// What the other process says is behind this.
const SAID: &str = "> ";

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    if lead_and_be_paused().await {
        return;
    }
    let url = std::env::args().nth(1).expect("the URL of a cluster");
    let other = Command::new(std::env::current_exe().unwrap());
    Box::pin(show(&url, other)).await;
}

/// `other` runs [`lead_and_be_paused`].
pub async fn show(url: &str, other: Command) {
    let mut store = connect(url).await;
    let mut former = Former::start(other, url);
    println!("another process leads:          {}", former.says());
    println!("it is about to write:           {}", former.says());
    former.signal("STOP");
    println!("it is paused for longer than its lease");

    let backend = Arc::new(EtcdBackend::connect(config(url)).await.unwrap());
    let election = election(backend.clone());
    let leadership = election.campaign().await.unwrap();
    println!(
        "this process leads:             token {}",
        leadership.token()
    );
    let guard = backend.guard(election.lock(), leadership.token()).unwrap();
    let write = guard.txn().and_then([
        TxnOp::put(GUARDED, "of the new leader", None),
        TxnOp::put(PLAIN, "of the new leader", None),
    ]);
    assert!(store.txn(write).await.unwrap().succeeded());

    former.signal("CONT");
    former.go_on();
    println!("the other process goes on, and writes:");
    println!("  under its guard:              {}", former.says());
    println!("  without:                      {}", former.says());
    let guarded = read(&mut store, GUARDED).await;
    let plain = read(&mut store, PLAIN).await;
    println!("what stands there:              {guarded:?} and {plain:?}");
    assert_eq!(guarded, "of the new leader");
    assert_eq!(plain, "of the former leader");

    leadership.resign().await.unwrap();
    for key in [GUARDED, PLAIN] {
        store.delete(key, None).await.unwrap();
    }
}

/// `false`, and nothing, in a process that is not the other one.
pub async fn lead_and_be_paused() -> bool {
    let Ok(url) = std::env::var(FORMER) else {
        return false;
    };
    let mut store = connect(&url).await;
    let backend = Arc::new(EtcdBackend::connect(config(&url)).await.unwrap());
    let election = election(backend.clone());
    let leadership = election.campaign().await.unwrap();
    println!("{SAID}token {}", leadership.token());
    let permit = leadership.term().permit(Duration::ZERO).unwrap();
    let guard = backend.guard(election.lock(), permit.token).unwrap();
    println!("{SAID}it leads, says its clock");

    // Here the process is stopped. It does not look again.
    let line = tokio::task::spawn_blocking(|| std::io::stdin().lines().next());
    line.await.unwrap().unwrap().unwrap();
    let put = TxnOp::put(GUARDED, "of the former leader", None);
    let written = store.txn(guard.txn().and_then([put])).await.unwrap();
    println!("{SAID}{}", committed(written.succeeded()));
    store
        .put(PLAIN, "of the former leader", None)
        .await
        .unwrap();
    println!("{SAID}{}", committed(true));
    true
}

fn committed(committed: bool) -> &'static str {
    if committed { "committed" } else { "refused" }
}

async fn read(store: &mut Client, key: &str) -> String {
    let found = store.get(key, None).await.unwrap();
    found.kvs()[0].value_str().unwrap().to_owned()
}

fn config(url: &str) -> EtcdConfig {
    EtcdConfig::from_url(url).unwrap()
}

fn election(backend: Arc<EtcdBackend>) -> Election {
    let lock = LockName::new("example.paused-leader").unwrap();
    let election = Election::builder(backend, lock).policy(Policy::fast());
    election.build().unwrap()
}

/// A client of the application's own.
async fn connect(url: &str) -> Client {
    let hosts = url.strip_prefix("etcd://").expect("an etcd:// URL");
    let hosts = hosts.split('/').next().unwrap().split(',');
    let hosts: Vec<_> = hosts.collect();
    Client::connect(hosts, None).await.unwrap()
}

/// The process that leads first; killed on drop.
struct Former {
    child: Child,
    input: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Former {
    fn start(mut command: Command, url: &str) -> Self {
        command.env(FORMER, url);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let input = child.stdin.take().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self {
            child,
            input,
            lines,
        }
    }

    fn says(&mut self) -> String {
        loop {
            let line = self.lines.next().expect("the other process ended");
            if let Some((_, said)) = line.unwrap().split_once(SAID) {
                return said.to_owned();
            }
        }
    }

    fn go_on(&mut self) {
        self.input.write_all(b"\n").unwrap();
    }

    fn signal(&self, signal: &str) {
        let mut kill = Command::new("kill");
        kill.arg(format!("-{signal}"));
        let status = kill.arg(self.child.id().to_string()).status();
        assert!(status.unwrap().success());
    }
}

impl Drop for Former {
    fn drop(&mut self) {
        let _gone_already = self.child.kill();
        let _status = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use tenure_testkit::etcd::start;
    use tenure_testkit::within_limit;

    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_paused_leaders_write_is_refused() {
        let Some(cluster) = start() else { return };
        let mut other = Command::new(std::env::current_exe().unwrap());
        other.args(["tests::the_other_process", "--exact", "--nocapture"]);
        let url = format!("{}/example", cluster.url());
        within_limit("the example", Box::pin(show(&url, other))).await;
    }

    /// Does nothing when it is run among the other tests.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn the_other_process() {
        Box::pin(lead_and_be_paused()).await;
    }
}
