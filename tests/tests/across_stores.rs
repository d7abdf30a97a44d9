//! One service on one store after the other: memory, a file, and the servers whose URLs
//! `TENURE_TEST_STORES` lists, as `cargo xtask test` sets it. Without it only the embedded ones.
#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "a failed one is a failed test"
)]

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use tenure::{
    Election, FencingToken, Identity, Leadership, LockBackend, LockName, Observation, Observer,
    Policy, PublishedValue,
};

/// Nothing takes so long unless it never comes.
const LIMIT: Duration = Duration::from_secs(120);

/// The stores to try, and the directory of one of them.
struct Stores {
    urls: Vec<String>,
    _directory: tempfile::TempDir,
}

fn stores() -> Stores {
    let directory = tempfile::tempdir().unwrap();
    let mut urls = vec![
        "memory:".to_owned(),
        format!("file://{}", directory.path().display()),
    ];
    match std::env::var("TENURE_TEST_STORES") {
        Ok(servers) => urls.extend(servers.split_whitespace().map(str::to_owned)),
        Err(_) => println!("LEFT OUT: TENURE_TEST_STORES is not set, so no server takes part"),
    }
    Stores {
        urls,
        _directory: directory,
    }
}

/// A name that no earlier run has used on a store that outlives the test.
fn lock(purpose: &str) -> LockName {
    LockName::new(format!("{purpose}-{}", std::process::id())).unwrap()
}

fn election(backend: Arc<dyn LockBackend>, lock: &LockName, name: &str) -> Election {
    Election::builder(backend, lock.clone())
        .identity(Identity::new(name).unwrap())
        .value(PublishedValue::new(format!("{name}.example:80")).unwrap())
        .policy(Policy::fast())
        .build()
        .unwrap()
}

async fn elected(election: &Election) -> Leadership {
    let campaign = tokio::time::timeout(LIMIT, election.campaign());
    campaign.await.expect("somebody is elected").unwrap()
}

/// Waits until an observer sees this leader.
async fn seen(observer: &Observer, name: &str, token: FencingToken) {
    let mut observations = observer.watch();
    let seeing = async {
        while let Some(observation) = observations.next().await {
            if let Observation::Led {
                identity,
                token: Some(seen),
                value: Some(value),
                ..
            } = observation
                && identity == name
            {
                assert_eq!(seen, token);
                assert_eq!(value, format!("{name}.example:80"));
                return;
            }
        }
    };
    let seeing = tokio::time::timeout(LIMIT, seeing);
    seeing.await.expect("the leader is seen");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_service_elects_hands_over_and_is_observed_on_every_store() {
    let lock = lock("same-service");
    for url in &stores().urls {
        println!("{}", tenure::redact(url));
        let alice = election(tenure::connect(url).await.unwrap(), &lock, "alice");
        let bob = election(tenure::connect(url).await.unwrap(), &lock, "bob");
        let third = tenure::connect(url).await.unwrap();
        let observer = Observer::new(third, lock.clone(), Policy::fast());

        let first = elected(&alice).await;
        let term = first.term();
        assert!(term.is_valid());
        seen(&observer, "alice", term.token()).await;
        let waiting = tokio::spawn(async move { (elected(&bob).await, bob) });

        first.resign().await.unwrap();
        assert!(!term.is_valid());
        let (second, _bob) = waiting.await.unwrap();
        assert!(second.term().token() > term.token());
        seen(&observer, "bob", second.term().token()).await;
        second.resign().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_rise_while_a_service_moves_from_store_to_store() {
    let lock = lock("moving-service");
    let mut highest = None;
    for (generation, url) in stores().urls.iter().enumerate() {
        let and = if url.contains('?') { '&' } else { '?' };
        let url = format!("{url}{and}generation={generation}");
        for _ in 0..2 {
            let candidate = election(tenure::connect(&url).await.unwrap(), &lock, "mover");
            let leadership = elected(&candidate).await;
            let token = Some(leadership.term().token());
            assert!(token > highest, "{token:?} after {highest:?}");
            highest = token;
            leadership.resign().await.unwrap();
        }
    }
}
