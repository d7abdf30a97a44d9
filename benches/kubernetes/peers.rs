//! One hand-over of each peer: from the call by which its leader gives up until the other one knows
//! that it leads.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use k8s_openapi_of_kubert::api::coordination::v1::Lease;
use kube_leader_election::{LeaseLock, LeaseLockParams, LeaseLockResult};
use kube_lease_manager::LeaseManagerBuilder;
use kubert::LeaseManager;
use kubert::lease::ClaimParams;
use serde_json::json;
use tenure_testkit::kube::Server;

/// The client of one version of the library, by the kubeconfig of the environment.
macro_rules! client {
    ($kube:ident) => {{
        let file: PathBuf = std::env::var_os("TENURE_TEST_KUBECONFIG").unwrap().into();
        let read = $kube::config::Kubeconfig::read_from(file).unwrap();
        let options = $kube::config::KubeConfigOptions::default();
        let config = $kube::Config::from_custom_kubeconfig(read, &options).await;
        $kube::Client::try_from(config.unwrap()).unwrap()
    }};
}

/// As client-go's.
const LEASE: Duration = Duration::from_secs(15);

/// How often the example of `kube-leader-election` asks.
const ASKING: Duration = Duration::from_secs(5);

/// `kube-lease-manager` and `kubert` renew so long before the end.
const GRACE: Duration = Duration::from_secs(5);

/// The clients bring several cryptographies along, and none of them chooses.
pub(crate) fn choose_cryptography() {
    let ring = rustls::crypto::ring::default_provider();
    ring.install_default().unwrap();
}

/// Somewhere in the rhythm of the one who waits.
pub(crate) async fn pause() {
    tokio::time::sleep(Duration::from_secs(1) + Duration::from_secs(3).mul_f64(fastrand::f64()))
        .await;
}

pub(crate) async fn leader_election(namespace: &str, lock: String) -> Duration {
    let client = client!(kube_of_leader_election);
    let candidate = |holder: &str| {
        let params = LeaseLockParams {
            lease_name: lock.clone(),
            holder_id: holder.to_owned(),
            lease_ttl: LEASE,
        };
        LeaseLock::new(client.clone(), namespace, params)
    };
    let (leader, next) = (candidate("first"), candidate("second"));
    assert!(leads(&leader).await);
    let waiting = tokio::spawn(async move {
        while !leads(&next).await {
            tokio::time::sleep(ASKING).await;
        }
        Instant::now()
    });
    pause().await;
    let begun = Instant::now();
    leader.step_down().await.unwrap();
    waiting.await.unwrap() - begun
}

async fn leads(candidate: &LeaseLock) -> bool {
    let tried = candidate.try_acquire_or_renew().await.unwrap();
    matches!(tried, LeaseLockResult::Acquired(_))
}

pub(crate) async fn lease_manager(namespace: &str, lock: String) -> Duration {
    let client = client!(kube);
    let candidate = async |identity: &str| {
        LeaseManagerBuilder::new(client.clone(), &lock)
            .with_namespace(namespace)
            .with_identity(identity)
            .with_duration(LEASE.as_secs())
            .with_grace(GRACE.as_secs())
            .build()
            .await
            .unwrap()
    };
    let leader = candidate("first").await;
    while !leader.changed().await.unwrap() {}
    let (mut leads, task) = candidate("second").await.watch().await;
    pause().await;
    let begun = Instant::now();
    leader.release().await.unwrap();
    leads.wait_for(|leads| *leads).await.unwrap();
    let taken = begun.elapsed();
    task.abort();
    taken
}

pub(crate) async fn kubert(server: &Server, lock: String) -> Duration {
    // It makes none itself.
    let path = server.lease_path("");
    let made = json!({ "metadata": { "name": lock } });
    let (status, answer) = server
        .send("POST", path.trim_end_matches('/'), Some(&made))
        .await;
    assert_eq!(status, 201, "{answer}");
    let client = client!(kube_of_kubert);
    let api = kube_of_kubert::Api::<Lease>::namespaced(client, &server.namespace);
    let params = ClaimParams {
        lease_duration: LEASE,
        renew_grace_period: GRACE,
    };
    let leader = LeaseManager::init(api.clone(), &lock).await.unwrap();
    leader.ensure_claimed("first", &params).await.unwrap();
    let next = LeaseManager::init(api, &lock).await.unwrap();
    let (mut claims, task) = next.spawn("second", params).await.unwrap();
    pause().await;
    let begun = Instant::now();
    assert!(leader.vacate("first").await.unwrap());
    let second = claims.wait_for(|claim| claim.holder == "second").await;
    assert!(second.unwrap().is_current());
    let taken = begun.elapsed();
    task.abort();
    taken
}
