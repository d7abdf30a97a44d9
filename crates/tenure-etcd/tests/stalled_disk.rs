//! A raft leader whose disk stalls takes itself for one, and answers keepalives, while another is
//! elected in its place.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use tenure_core::{Election, Policy};
use tenure_etcd::{EtcdBackend, EtcdConfig};
use tenure_testkit::environment::program;
use tenure_testkit::etcd::start_with;
use tenure_testkit::{lock, until};

/// Keeps a file from the disk, until it is dropped: the thread that waits for that hangs, and all
/// others of the process go on.
struct Stall(Child);

impl Stall {
    fn of(pid: u32, file: &Path) -> Self {
        let child = Command::new("strace")
            .args([
                "-f",
                "-qq",
                "-o",
                "/dev/null",
                "-e",
                "trace=fsync,fdatasync",
            ])
            .args(["-e", "inject=fsync,fdatasync:delay_enter=600000000"])
            .args(["-p", &pid.to_string(), "-P"])
            .arg(file)
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        Self(child)
    }
}

impl Drop for Stall {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _reaped = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_term_is_not_renewed_by_a_member_that_another_has_followed() {
    let Some(cluster) = start_with(3, &[]) else {
        return;
    };
    if program("strace").is_none() {
        return;
    }
    let stalled = cluster.raft_leader();
    let election = async |number: usize| {
        let url = format!("etcd://{}", cluster.members[number].address());
        let backend = EtcdBackend::connect(EtcdConfig::from_url(&url).unwrap()).await;
        Election::builder(Arc::new(backend.unwrap()), lock("stalled"))
            .policy(Policy::fast())
            .build()
            .unwrap()
    };
    let leader = election(stalled).await.campaign().await.unwrap();
    let other = election((stalled + 1) % 3).await;
    let campaign = tokio::spawn(async move { other.campaign().await.unwrap() });
    until("it waits", async || cluster.queue("stalled").len() == 2).await;

    // Raft's log, and not the database, without which it would answer nothing.
    let log = cluster.dir.path().join(format!(
        "m{stalled}/member/wal/0000000000000000-0000000000000000.wal"
    ));
    assert!(log.exists());
    let stall = Stall::of(cluster.members[stalled].pid(), &log);
    // Something to be written, at which it hangs as soon as its log is kept from the disk.
    let write = || {
        let mut write = cluster.ctl_command(stalled);
        write.args(["put", "something", "new"]);
        write.stdout(Stdio::null()).stderr(Stdio::null());
        write.spawn().unwrap()
    };
    let mut writing = write();
    until("the other one leads", async || {
        if writing.try_wait().unwrap().is_some() {
            writing = write();
        }
        campaign.is_finished()
    })
    .await;
    let valid = leader.is_valid();
    let left = leader.remaining();
    drop(stall);
    let _ended = (writing.kill(), writing.wait());
    let next = campaign.await.unwrap();
    assert!(next.token() > leader.token());
    assert!(!valid, "two leaders for {left:?}");
}
