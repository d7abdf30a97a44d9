//! What doctor says of a cluster is what the next attempt to lead meets.
#![cfg(any(feature = "ring", feature = "aws-lc-rs"))]
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::path::Path;

use tempfile::TempDir;
use tenure_core::{Acquired, LockBackend as _, Verdict};
use tenure_etcd::{EtcdBackend, EtcdConfig, Tls};
use tenure_testkit::certificates::Authority;
use tenure_testkit::etcd::{Cluster, Member, launch, start_newer, start_newer_with, start_with};
use tenure_testkit::{LONG, candidate, lock, within_limit};

fn config(hosts: &[String], user: &str) -> EtcdConfig {
    let hosts = hosts.join(",");
    EtcdConfig::from_url(&format!("etcd://{user}{hosts}?connect_timeout=10s")).unwrap()
}

fn hosts(cluster: &Cluster) -> Vec<String> {
    cluster.members.iter().map(Member::address).collect()
}

/// Asks doctor and then tries to lead, each with a backend of its own.
async fn agree(state: &str, config: EtcdConfig, serves: bool) {
    let name = lock("job");
    let looking = EtcdBackend::lazy(config.clone()).unwrap();
    let checks = within_limit("doctor", looking.checks(&name, LONG)).await;
    let verdict = checks.iter().map(|check| check.verdict).max().unwrap();
    let trying = EtcdBackend::lazy(config).unwrap();
    let me = candidate("me", 1);
    let acquired = within_limit("an attempt", trying.acquire(&name, &me, LONG)).await;
    let met = match &acquired {
        Ok(Acquired::Held(grant)) => {
            trying.release(grant).await.unwrap();
            "it leads".to_owned()
        }
        Ok(taken) => format!("{taken:?}"),
        Err(error) => error.to_string(),
    };
    println!("| {state} | {verdict:?} | {met} |");
    let held = matches!(acquired, Ok(Acquired::Held(_)));
    assert_eq!(held, serves, "{state}: {met}");
    assert_eq!(verdict < Verdict::Unusable, serves, "{state}: {checks:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn doctor_says_of_each_state_what_an_election_meets() {
    println!("| state | doctor | an attempt to lead |\n|---|---|---|");
    let Some(mut cluster) = start_newer() else {
        return;
    };
    agree("one member", config(&hosts(&cluster), ""), true).await;
    let through = cluster.grpc_proxy(&[]);
    let proxy = through.address();
    agree(
        "grpc-proxy alone",
        config(std::slice::from_ref(&proxy), ""),
        false,
    )
    .await;
    let both = [proxy, cluster.members[0].address()];
    agree("grpc-proxy beside a member", config(&both, ""), true).await;
    cluster.add_learner();
    let all = hosts(&cluster);
    agree("learner alone", config(&all[1..], ""), false).await;
    agree("learner beside a voter", config(&all, ""), true).await;

    let Some(full) = start_newer_with(1, &["--quota-backend-bytes=2000000"]) else {
        return;
    };
    let value = "x".repeat(60_000);
    while full
        .try_ctl_at(0, &["put", "filling", &value])
        .status
        .success()
    {}
    agree("alarm NOSPACE", config(&hosts(&full), ""), false).await;

    let Some(guarded) = start_with(1, &["--bcrypt-cost", "4"]) else {
        return;
    };
    for user in ["root:secret", "ann:secret"] {
        guarded.ctl(&["user", "add", user]);
    }
    guarded.ctl(&["user", "grant-role", "root", "root"]);
    guarded.ctl(&["auth", "enable"]);
    let host = hosts(&guarded);
    agree("auth, root", config(&host, "root:secret@"), true).await;
    agree("auth, no rights", config(&host, "ann:secret@"), false).await;
    agree("auth, wrong password", config(&host, "root:wrong@"), false).await;
    agree("auth, no user", config(&host, ""), false).await;

    let Some(mut three) = start_with(3, &[]) else {
        return;
    };
    three.members[0].kill();
    agree("a member down", config(&hosts(&three), ""), true).await;
    three.members[1].kill();
    agree("no quorum", config(&hosts(&three), ""), false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn doctor_and_an_election_refuse_a_server_of_another_authority() {
    let dir = TempDir::new().unwrap();
    let ours = Authority::new(&dir.path().join("ours"));
    let other = Authority::new(&dir.path().join("other"));
    let (cert, key) = ours.certificate("server", &["localhost", "127.0.0.1"]);
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    let (cert, key) = (text(&cert), text(&key));
    let arguments = ["--cert-file", &cert, "--key-file", &key];
    let flags = [format!("--cacert={}", text(&ours.ca()))];
    let (right, wrong) = (ours.ca(), other.ca());
    let Some(cluster) = launch(1, &arguments, "https", &flags, dir) else {
        return;
    };
    let config = |ca: &Path| config(&hosts(&cluster), "").tls(Tls::new().ca(ca));
    agree("TLS", config(&right), true).await;
    agree("TLS, wrong CA", config(&wrong), false).await;
}
