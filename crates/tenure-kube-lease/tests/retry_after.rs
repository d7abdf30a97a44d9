//! What becomes of an election when the API server, or a proxy before it, asks for a pause: a short
//! one is kept, and nobody waits for minutes or hours for a server that is well again.
//!
//! Each answer asks for ten minutes or more, and each test waits for less. So a pause without a
//! bound fails it.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::join_all;
use support::{Connects as _, config_of};
use tenure_core::{Election, Identity, LockBackend as _, Observation, Observer, Policy};
use tenure_kube_lease::{KubeLeaseBackend, connect};
use tenure_testkit::kube::Server;
use tenure_testkit::kube::faulty_api::{Answer, FaultyApi, Kind, Seen, instead};
use tenure_testkit::{lock, until, within_limit};

/// With it nothing happens by time while a test runs.
const LONG: Duration = Duration::from_secs(600);

const ALWAYS: usize = usize::MAX;

/// What a header can hold: much too long, and no number of seconds.
const ASKED: [&[&str]; 8] = [
    &["600"],
    &["86400"],
    &["18446744073709551615"],
    &["99999999999999999999999999"],
    &["-600"],
    &["Fri, 31 Dec 2999 23:59:59 GMT"],
    &["soon"],
    &["soon", "600", "1"],
];

fn answers() -> impl Iterator<Item = Answer> {
    let each = |asked| [Answer::Asks(429, asked), Answer::Asks(503, asked)];
    ASKED.into_iter().flat_map(each)
}

async fn start() -> Option<(Server, FaultyApi, KubeLeaseBackend)> {
    let server = Server::start().await?;
    let api = FaultyApi::start(&server).await;
    let backend = connect(config_of(&api, &server)).await.unwrap();
    Some((server, api, backend))
}

fn election(backend: &KubeLeaseBackend, identity: &str, policy: &Policy) -> Election {
    Election::builder(Arc::new(backend.clone()), lock("asked"))
        .identity(Identity::new(identity).unwrap())
        .policy(policy.clone())
        .build()
        .unwrap()
}

/// Beats fast, and leaves much time for a machine that is busy.
fn patient() -> Policy {
    let policy = Policy::builder()
        .lease(Duration::from_secs(120))
        .heartbeat(Duration::from_secs(2))
        .request_timeout(Duration::from_secs(2))
        .retry_interval(Duration::from_millis(20));
    policy.build().unwrap()
}

/// Runs one election for each answer, at one time.
async fn with_each_answer(test: impl AsyncFn(Server, FaultyApi, KubeLeaseBackend, Answer)) {
    let test = &test;
    let all = answers().map(async |answer| {
        let Some((server, api, backend)) = start().await else {
            return;
        };
        println!("{answer:?}");
        test(server, api, backend, answer).await;
    });
    join_all(all).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_candidate_leads_once_the_server_is_well_again() {
    with_each_answer(async |_server, api, backend, answer| {
        for kind in [Kind::Get, Kind::Post] {
            api.fail(kind, instead(answer), 1);
        }
        let us = election(&backend, "us", &patient());
        let leader = within_limit("the election", us.campaign()).await.unwrap();
        assert_eq!(api.seen(Kind::Post).len(), 2, "the first write was refused");
        leader.resign().await.unwrap();

        // The same where the Lease is there already.
        api.fail(Kind::Put, instead(answer), 1);
        let leader = within_limit("the election", us.campaign()).await.unwrap();
        assert!(leader.is_valid());
    })
    .await;
}

/// The one heartbeat that its validity has room for is the one that is refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_comes_again_before_its_work_is_told_to_stop() {
    let policy = Policy::builder()
        .lease(Duration::from_secs(20))
        .heartbeat(Duration::from_secs(10))
        .request_timeout(Duration::from_secs(8))
        .stop_grace(Duration::from_secs(1));
    let policy = policy.build().unwrap();
    with_each_answer(async |_server, api, backend, answer| {
        let us = election(&backend, "us", &policy);
        let leader = within_limit("the election", us.campaign()).await.unwrap();
        api.fail(Kind::Put, instead(answer), 1);
        // The refused heartbeat, its retry, and the next one: it goes on as before.
        tokio::select! {
            () = until("it has renewed", async || renewals(&api) >= 3) => {}
            () = leader.cancelled() => panic!("{answer:?}: {:?}", leader.cause()),
        }
        assert!(leader.is_valid(), "{answer:?}: {:?}", leader.cause());
    })
    .await;
}

fn renewals(api: &FaultyApi) -> usize {
    let answered = |seen: &&Seen| seen.answered.is_some();
    api.seen(Kind::Put).iter().filter(answered).count()
}

/// Its retry comes before it gives up, and so the next candidate need not wait for the lease.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_release_is_tried_again() {
    with_each_answer(async |server, api, backend, answer| {
        let us = election(&backend, "us", &patient());
        let leader = within_limit("the election", us.campaign()).await.unwrap();
        api.fail(Kind::Put, instead(answer), 1);
        within_limit("the release", leader.resign()).await.unwrap();
        let lease = server.lease("asked").await;
        assert_eq!(lease["spec"]["holderIdentity"], "", "{answer:?}");
    })
    .await;
}

/// No time would tell the candidate: only the watch, or the look that follows its beginning.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_begins_once_the_server_is_well_again() {
    let policy = Policy::builder().lease(LONG).build().unwrap();
    with_each_answer(async |server, api, backend, answer| {
        let direct = connect(server.config()).await.unwrap();
        let leader = election(&direct, "leader", &policy);
        let leader = within_limit("the election", leader.campaign()).await;
        let leader = leader.unwrap();
        api.fail(Kind::Watch, instead(answer), 1);
        let waiting = election(&backend, "waiting", &policy);
        let campaign = tokio::spawn(async move { waiting.campaign().await });
        until("the watch begins", async || {
            let watches = api.seen(Kind::Watch);
            watches.len() >= 2 && watches[1].answered.is_some()
        })
        .await;
        leader.resign().await.unwrap();
        let next = within_limit("the hand-over", campaign).await.unwrap();
        assert!(next.unwrap().is_valid(), "{answer:?}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_observer_looks_again_once_the_server_is_well_again() {
    with_each_answer(async |server, api, backend, answer| {
        let direct = connect(server.config()).await.unwrap();
        let leader = election(&direct, "leader", &patient());
        let _leader = within_limit("the election", leader.campaign()).await;
        // Nothing but time tells it to look again.
        api.fail(Kind::Watch, instead(answer), ALWAYS);
        api.fail(Kind::Get, instead(answer), 1);
        let observer = Observer::new(Arc::new(backend), lock("asked"), patient());
        let mut watch = observer.watch();
        let seen = async {
            loop {
                if let Some(Observation::Led { identity, .. }) = watch.next().await {
                    return identity;
                }
            }
        };
        assert_eq!(within_limit("the leader", seen).await, "leader");
    })
    .await;
}

/// From each answer to the next request of its kind.
fn pauses(seen: &[Seen]) -> Vec<Duration> {
    let pairs = seen.iter().zip(&seen[1..]);
    pairs
        .map(|(before, after)| after.asked - before.answered.unwrap())
        .collect()
}

/// It is shorter than a heartbeat, so all of it is kept.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_short_pause_that_is_asked_for_is_kept() {
    const PAUSE: Duration = Duration::from_secs(1);
    let Some((_server, api, backend)) = start().await else {
        return;
    };
    for answer in [Answer::Status(429, Some(1)), Answer::Status(503, Some(1))] {
        // A candidate: its looks, and its watch.
        for kind in [Kind::Get, Kind::Watch] {
            api.fail(kind, instead(answer), ALWAYS);
        }
        let from = [Kind::Get, Kind::Watch].map(|kind| api.seen(kind).len());
        let us = election(&backend, "us", &patient());
        let campaign = tokio::spawn(async move { us.campaign().await });
        for (kind, from) in [Kind::Get, Kind::Watch].into_iter().zip(from) {
            until("it has come again", async || {
                api.seen(kind).len() >= from + 3
            })
            .await;
            for pause in pauses(&api.seen(kind)[from..]) {
                assert!(pause >= PAUSE, "{kind:?} after {pause:?}");
            }
        }
        api.mend();
        let leader = within_limit("the election", campaign).await.unwrap();
        let leader = leader.unwrap();

        let from = api.seen(Kind::Put).len();
        api.fail(Kind::Put, instead(answer), 3);
        until("it has come again", async || {
            api.seen(Kind::Put).len() >= from + 4
        })
        .await;
        for pause in pauses(&api.seen(Kind::Put)[from..from + 4]) {
            assert!(pause >= PAUSE, "{pause:?}");
        }
        assert!(leader.is_valid());
        leader.resign().await.unwrap();
    }
}

/// The error tells callers of the backend what was asked for, whatever it is.
#[tokio::test]
async fn the_error_keeps_what_was_asked_for() {
    let Some((_server, api, backend)) = start().await else {
        return;
    };
    for (asked, seconds) in [
        (ASKED[0], Some(600)),
        (ASKED[2], Some(u64::MAX)),
        (ASKED[3], None),
        (ASKED[4], None),
        (ASKED[5], None),
        (ASKED[7], Some(600)),
    ] {
        for status in [429, 503] {
            api.fail(Kind::Get, instead(Answer::Asks(status, asked)), 1);
            let error = backend.holder(&lock("asked")).await.unwrap_err();
            let seconds = seconds.map(Duration::from_secs);
            assert_eq!(error.retry_after(), seconds, "{status} {asked:?}: {error}");
        }
    }
}
