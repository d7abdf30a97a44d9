//! Users and passwords, on servers with authentication turned on.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tenure_core::{Election, Error, ErrorKind, LockBackend as _, Occupancy, Policy};
use tenure_etcd::{EtcdBackend, EtcdConfig};
use tenure_testkit::etcd::{Cluster, start_with};
use tenure_testkit::{LONG, candidate, held, lock, renewed, until, within_limit};

const PASSWORD: &str = "correct-horse-battery";

/// `app` may read and write below `app/`, `eye` may read there.
fn start(more: &[&str]) -> Option<Cluster> {
    let mut arguments = vec!["--bcrypt-cost", "4"];
    arguments.extend(more);
    let mut cluster = start_with(1, &arguments)?;
    for (user, rights) in [("app", "readwrite"), ("eye", "read")] {
        cluster.ctl(&["role", "add", user]);
        cluster.ctl(&[
            "role",
            "grant-permission",
            user,
            "--prefix=true",
            rights,
            "app/",
        ]);
        cluster.ctl(&["user", "add", &format!("{user}:{PASSWORD}")]);
        cluster.ctl(&["user", "grant-role", user, user]);
    }
    cluster.ctl(&["user", "add", &format!("root:{PASSWORD}")]);
    cluster.ctl(&["user", "grant-role", "root", "root"]);
    cluster.ctl(&["auth", "enable"]);
    cluster.flags = vec![format!("--user=root:{PASSWORD}")];
    Some(cluster)
}

fn config(cluster: &Cluster, user: &str, prefix: &str) -> EtcdConfig {
    let address = cluster.members[0].address();
    EtcdConfig::from_url(&format!("etcd://{user}{address}/{prefix}")).unwrap()
}

async fn refusal(config: EtcdConfig) -> Error {
    let connecting = Box::pin(EtcdBackend::connect(config));
    within_limit("a refusal", connecting).await.unwrap_err()
}

fn forbidden(error: &Error, advice: &str) {
    assert_eq!(error.kind(), ErrorKind::Forbidden, "{error}");
    let told = format!("{error} {error:?}");
    assert!(told.contains(advice), "{told}");
    assert!(!told.contains("horse"), "{told}");
}

#[tokio::test]
async fn what_a_user_may_not_do_is_told_with_the_remedy() {
    let Some(cluster) = start(&[]) else { return };
    let app = format!("app:{PASSWORD}@");
    let backend = EtcdBackend::connect(config(&cluster, &app, "app"))
        .await
        .unwrap();
    let (job, me) = (lock("job"), candidate("ann", 1));
    let grant = held(backend.acquire(&job, &me, LONG).await.unwrap());
    let grant = renewed(backend.renew(&grant, backend.clock().now()).await.unwrap());

    // An observer needs the right to read and nothing else; a candidate is told.
    let eye = EtcdBackend::lazy(config(&cluster, &format!("eye:{PASSWORD}@"), "app")).unwrap();
    let Occupancy::Led(holder) = eye.holder(&job).await.unwrap() else {
        panic!("it is led");
    };
    assert_eq!(holder.identity, "ann");
    let refused = eye.acquire(&job, &candidate("eye", 2), LONG).await;
    forbidden(&refused.unwrap_err(), "role grant-permission");
    // Not for many locks at a time either, which go in one transaction.
    let names: Vec<_> = (0..20)
        .map(|number| lock(&format!("job-{number}")))
        .collect();
    let me = candidate("eye", 2);
    let asking = names.iter().map(|name| eye.acquire(name, &me, LONG));
    for refused in join_all(asking).await {
        forbidden(&refused.unwrap_err(), "role grant-permission");
    }
    backend.release(&grant).await.unwrap();
    for name in &names {
        assert!(cluster.queue(&format!("app/{name}")).is_empty());
    }

    let elsewhere = EtcdBackend::connect(config(&cluster, &app, "other"))
        .await
        .unwrap();
    let refused = elsewhere.acquire(&job, &candidate("ann", 3), LONG).await;
    forbidden(&refused.unwrap_err(), "role grant-permission");

    let wrong = config(&cluster, "app:wrong-horse@", "app");
    forbidden(&refusal(wrong).await, "check user and password");
    let unknown = config(&cluster, "nobody:wrong-horse@", "app");
    forbidden(&refusal(unknown).await, "check user and password");
    // Such a server grants leases to everybody, but no locks.
    let nobody = EtcdBackend::connect(config(&cluster, "", "app"))
        .await
        .unwrap();
    let refused = nobody.acquire(&job, &candidate("ann", 4), LONG).await;
    forbidden(&refused.unwrap_err(), "give a user and password");
}

#[tokio::test]
async fn a_user_where_authentication_is_off_is_told() {
    let Some(cluster) = start_with(1, &[]) else {
        return;
    };
    let config = config(&cluster, &format!("app:{PASSWORD}@"), "app");
    let error = refusal(config).await;
    assert_eq!(error.kind(), ErrorKind::Misconfigured, "{error}");
    assert!(error.to_string().contains("auth enable"), "{error}");
}

/// Leads, by heartbeats more frequent than tokens expire, while `change` happens and until
/// heartbeats are known to go on after it.
async fn keeps_its_term(cluster: &Cluster, config: EtcdConfig, change: impl AsyncFnOnce()) {
    let backend = Arc::new(EtcdBackend::connect(config.clone()).await.unwrap());
    let policy = Policy::builder().lease(Duration::from_secs(60));
    let policy = policy.heartbeat(Duration::from_secs(4)).build().unwrap();
    let election = |backend| {
        let election = Election::builder(backend, lock("job")).policy(policy.clone());
        election.build().unwrap()
    };
    let leadership = election(backend.clone()).campaign().await.unwrap();
    let other = Arc::new(EtcdBackend::connect(config).await.unwrap());
    let rival = election(other.clone());
    let waiting = tokio::spawn(async move { rival.campaign().await });
    until("the rival waits", async || {
        cluster.queue("app/job").len() == 2
    })
    .await;
    let lease = |number: usize| {
        let queue = cluster.queue("app/job");
        queue[number].rsplit_once('/').unwrap().1.to_owned()
    };
    let leases = [lease(0), lease(1)];
    change().await;
    for _ in 0..2 {
        // A proof that is asked for now.
        until("the store confirms the term", async || {
            leadership.confirm().await.is_ok()
        })
        .await;
        let sent = backend.traffic().keepalives;
        let heartbeat = async || backend.traffic().keepalives > sent;
        until("there is a heartbeat", heartbeat).await;
    }
    assert!(leadership.is_valid());
    assert!(!waiting.is_finished(), "there are two leaders");
    assert_eq!([lease(0), lease(1)], leases, "a lease was lost");
    let token = leadership.token();
    leadership.resign().await.unwrap();
    let next = within_limit("the rival", waiting).await.unwrap().unwrap();
    assert!(next.token() > token);
    next.resign().await.unwrap();
}

/// A token that lives for a second is refused by and by; a term is not lost by that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_term_outlives_the_tokens_of_its_user() {
    let Some(cluster) = start(&["--auth-token-ttl", "1"]) else {
        return;
    };
    let config = config(&cluster, &format!("app:{PASSWORD}@"), "app");
    keeps_its_term(&cluster, config, async || {
        let began = Instant::now();
        // Nothing is asserted of the time; it is the tokens' end that is waited for.
        until("tokens have expired", async || {
            began.elapsed() > Duration::from_secs(3)
        })
        .await;
    })
    .await;
}

/// All tokens are refused at once, as when the members were restarted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_term_outlives_a_change_of_the_password() {
    let Some(cluster) = start(&[]) else { return };
    let file = cluster.dir.path().join("password");
    fs::write(&file, format!("{PASSWORD}\n")).unwrap();
    let address = cluster.members[0].address();
    let url = format!("etcd://app@{address}/app?password_file={}", file.display());
    let config = EtcdConfig::from_url(&url).unwrap();
    keeps_its_term(&cluster, config, async || {
        let changed = "another-horse";
        let mut passwd = cluster.ctl_command(0);
        passwd.args(["user", "passwd", "app", "--interactive=false"]);
        let mut child = passwd.stdin(std::process::Stdio::piped()).spawn().unwrap();
        let mut input = child.stdin.take().unwrap();
        std::io::Write::write_all(&mut input, changed.as_bytes()).unwrap();
        drop(input);
        assert!(child.wait().unwrap().success());
        // As a mounted secret that follows a while later.
        tokio::time::sleep(Duration::from_secs(1)).await;
        fs::write(&file, changed).unwrap();
    })
    .await;
}
