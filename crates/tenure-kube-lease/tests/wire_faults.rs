//! What an API server can answer, and what becomes of a term then: a proxy in front of the real one
//! answers in its place, loses its answers and ends its watches.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use support::{Connects as _, config_of};
use tenure_core::{
    Acquired, CampaignId, Candidate, Election, Error, ErrorKind, Grant, Identity, LockBackend as _,
    Policy, Renewal,
};
use tenure_kube_lease::{KubeLeaseBackend, connect};
use tenure_testkit::kube::Server;
use tenure_testkit::kube::faulty_api::{Answer, Fault, FaultyApi, Kind, applied_but, instead};
use tenure_testkit::{lock, until, within_limit};

/// With it nothing happens by time while a test runs.
const LONG: Duration = Duration::from_secs(600);

/// An event that says that the watch cannot go on from where it was.
const GONE: &str = "{\"type\":\"ERROR\",\"object\":{\"kind\":\"Status\",\"apiVersion\":\"v1\",\
    \"status\":\"Failure\",\"message\":\"too old resource version\",\"reason\":\"Expired\",\
    \"code\":410}}\n";

const ALWAYS: usize = usize::MAX;

async fn start() -> Option<(Server, FaultyApi, KubeLeaseBackend)> {
    let server = Server::start().await?;
    let api = FaultyApi::start(&server).await;
    let backend = connect(config_of(&api, &server)).await.unwrap();
    Some((server, api, backend))
}

fn candidate(identity: &str, campaign: u64) -> Candidate {
    Candidate::new(Identity::new(identity).unwrap(), CampaignId::new(campaign))
}

async fn acquire(
    backend: &KubeLeaseBackend,
    name: &str,
    candidate: &Candidate,
) -> Result<Option<Grant>, Error> {
    let outcome = backend.acquire(&lock(name), candidate, LONG).await?;
    Ok(match outcome {
        Acquired::Held(grant) => Some(grant),
        _ => None,
    })
}

async fn renew(backend: &KubeLeaseBackend, grant: &Grant) -> Result<Grant, Error> {
    match backend.renew(grant, backend.clock().now()).await? {
        Renewal::Renewed(grant) => Ok(grant),
        other => panic!("not renewed: {other:?}"),
    }
}

fn election(backend: &KubeLeaseBackend, name: &str, identity: &str, policy: &Policy) -> Election {
    Election::builder(Arc::new(backend.clone()), lock(name))
        .identity(Identity::new(identity).unwrap())
        .policy(policy.clone())
        .build()
        .unwrap()
}

fn long() -> Policy {
    Policy::builder().lease(LONG).build().unwrap()
}

fn version(lease: &serde_json::Value) -> u64 {
    let text = lease["metadata"]["resourceVersion"].as_str().unwrap();
    text.parse().unwrap()
}

#[tokio::test]
async fn each_answer_has_its_kind_and_costs_no_term() {
    let Some((server, api, backend)) = start().await else {
        return;
    };
    let throttled = |seconds: u64| ErrorKind::Throttled {
        retry_after: Some(Duration::from_secs(seconds)),
    };
    let answers = [
        (Answer::Status(410, None), ErrorKind::Unavailable),
        (
            Answer::Status(429, None),
            ErrorKind::Throttled { retry_after: None },
        ),
        (Answer::Status(429, Some(7)), throttled(7)),
        (Answer::Status(500, None), ErrorKind::Unavailable),
        (Answer::Status(503, None), ErrorKind::Unavailable),
        (Answer::Status(503, Some(3)), throttled(3)),
        (Answer::Status(504, None), ErrorKind::Timeout),
        (Answer::Closed, ErrorKind::Unavailable),
        // What a proxy on the way says of itself.
        (Answer::Text("<html>"), ErrorKind::Misconfigured),
    ];
    for (number, (answer, kind)) in answers.into_iter().enumerate() {
        let name = &*format!("kinds-{number}");
        let campaign = u64::try_from(number).unwrap();
        let us = candidate("us", campaign);
        for request in [Kind::Get, Kind::Post] {
            api.fail(request, instead(answer), 1);
            let error = acquire(&backend, name, &us).await.unwrap_err();
            assert_eq!(error.kind(), kind, "{request:?} {answer:?}: {error}");
        }
        let (status, _) = server.send("GET", &server.lease_path(name), None).await;
        assert_eq!(status, 404, "nothing was granted, and nothing told");
        let grant = acquire(&backend, name, &us).await.unwrap().unwrap();

        let before = server.lease(name).await;
        api.fail(Kind::Put, instead(answer), 2);
        let error = renew(&backend, &grant).await.unwrap_err();
        assert_eq!(error.kind(), kind, "renewing, {answer:?}: {error}");
        let error = backend.release(&grant).await.unwrap_err();
        assert_eq!(error.kind(), kind, "releasing, {answer:?}: {error}");
        assert_eq!(server.lease(name).await, before);
        let renewed = renew(&backend, &grant).await.unwrap();
        assert_eq!(renewed.token, grant.token);
        backend.release(&renewed).await.unwrap();

        api.fail(Kind::Put, instead(answer), 1);
        let next = candidate("us", 100 + campaign);
        let error = acquire(&backend, name, &next).await.unwrap_err();
        assert_eq!(error.kind(), kind, "taking over, {answer:?}: {error}");
        assert_eq!(server.lease(name).await["spec"]["holderIdentity"], "");
    }
}

/// Somebody changes the object whenever we want to write it.
#[tokio::test]
async fn a_conflict_is_looked_into_and_given_up_after_a_few_attempts() {
    let Some((_server, api, backend)) = start().await else {
        return;
    };
    let us = candidate("us", 1);
    api.fail(Kind::Post, instead(Answer::Status(409, None)), ALWAYS);
    let before = api.count();
    let error = acquire(&backend, "conflict", &us).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    assert_eq!(
        api.count() - before,
        6,
        "three times it looked and tried to write"
    );
    api.mend();
    let grant = acquire(&backend, "conflict", &us).await.unwrap().unwrap();

    api.fail(Kind::Put, instead(Answer::Status(409, None)), 1);
    let grant = renew(&backend, &grant).await.unwrap();
    api.fail(Kind::Put, instead(Answer::Status(409, None)), ALWAYS);
    let before = api.count();
    for outcome in [
        renew(&backend, &grant).await.map(|_| ()),
        backend.release(&grant).await,
    ] {
        assert_eq!(outcome.unwrap_err().kind(), ErrorKind::Conflict);
    }
    assert_eq!(api.count() - before, 12);
    api.mend();
    let renewed = renew(&backend, &grant).await.unwrap();
    assert_eq!(renewed.token, grant.token);
}

/// The write that acquires is applied, and its answer lost in every way that an answer can be.
#[tokio::test]
async fn what_was_granted_without_an_answer_is_adopted_or_taken_back() {
    let Some((server, api, backend)) = start().await else {
        return;
    };
    let losses = [
        Answer::Closed,
        Answer::Status(500, None),
        Answer::Status(504, None),
        Answer::Text("{\"kind\":"),
        // Others, and so the second attempt of ours too, see their own write as another's.
        Answer::Silence,
    ];
    for (number, loss) in losses.into_iter().enumerate() {
        let name = &*format!("lost-{number}");
        let others = connect(server.config()).await.unwrap();
        // The first of a Lease, and then the one that takes over what was released.
        for (campaign, request) in [(1, Kind::Post), (2, Kind::Put)] {
            let us = candidate("us", campaign);
            api.fail(request, applied_but(loss), 1);
            let lost = acquire(&backend, name, &us);
            if loss == Answer::Silence {
                // The caller's deadline, which comes while the answer is outstanding.
                let written = async || {
                    let path = server.lease_path(name);
                    let (_, lease) = server.send("GET", &path, None).await;
                    lease["spec"]["holderIdentity"] == "us"
                };
                tokio::select! {
                    outcome = lost => panic!("{outcome:?}"),
                    () = until("it is applied", written) => {}
                }
            } else {
                assert!(lost.await.is_err(), "no term is told of: {loss:?}");
            }
            let orphan = server.lease(name).await;
            assert_eq!(orphan["spec"]["holderIdentity"], "us");
            let other = candidate("other", 7);
            assert!(acquire(&others, name, &other).await.unwrap().is_none());

            // The next attempt of the same campaign has it, by a write of its own.
            let grant = acquire(&backend, name, &us).await.unwrap().unwrap();
            let adopted = server.lease(name).await;
            assert_eq!(grant.token.as_u64(), version(&adopted));
            assert!(version(&adopted) > version(&orphan));
            backend.release(&grant).await.unwrap();
        }
        // A campaign that does not try again takes back what it may have left.
        let us = candidate("us", 3);
        api.fail(Kind::Put, applied_but(Answer::Closed), 1);
        assert!(acquire(&backend, name, &us).await.is_err());
        backend.withdraw(&lock(name), &us).await.unwrap();
        assert_eq!(server.lease(name).await["spec"]["holderIdentity"], "");
    }
}

#[tokio::test]
async fn renewals_and_releases_whose_answer_is_lost_can_be_repeated() {
    let Some((server, api, backend)) = start().await else {
        return;
    };
    let mut grant = acquire(&backend, "repeated", &candidate("us", 1))
        .await
        .unwrap()
        .unwrap();
    let token = grant.token;
    for loss in [Answer::Closed, Answer::Status(500, None), Answer::Text("")] {
        let before = version(&server.lease("repeated").await);
        api.fail(Kind::Put, applied_but(loss), 1);
        assert!(renew(&backend, &grant).await.is_err());
        assert!(version(&server.lease("repeated").await) > before);
        grant = renew(&backend, &grant).await.unwrap();
        assert_eq!(grant.token, token);
    }
    api.fail(Kind::Put, applied_but(Answer::Closed), 1);
    assert!(backend.release(&grant).await.is_err());
    // Somebody else has it before we try again.
    let others = connect(server.config()).await.unwrap();
    let successor = acquire(&others, "repeated", &candidate("other", 2))
        .await
        .unwrap()
        .unwrap();
    let theirs = server.lease("repeated").await;
    backend.release(&grant).await.unwrap();
    assert_eq!(server.lease("repeated").await, theirs);
    assert!(successor.token > token);
    let outcome = backend.renew(&grant, backend.clock().now()).await.unwrap();
    assert!(matches!(outcome, Renewal::Lost { .. }), "{outcome:?}");
}

/// An election whose every first write is applied without an answer leads by the grant that it has
/// seen, and by no other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_election_leads_by_what_the_store_has_granted() {
    let Some((server, api, backend)) = start().await else {
        return;
    };
    let policy = Policy::builder()
        .lease(LONG)
        .heartbeat(Duration::from_secs(30))
        .request_timeout(Duration::from_secs(1))
        .retry_interval(Duration::from_millis(50));
    let policy = policy.build().unwrap();
    for (turn, loss) in [Answer::Closed, Answer::Silence].into_iter().enumerate() {
        let written = if turn == 0 { Kind::Post } else { Kind::Put };
        api.fail(written, applied_but(loss), 1);
        let campaign = election(&backend, "granted", &format!("us-{turn}"), &policy);
        let leader = within_limit("the election", campaign.campaign())
            .await
            .unwrap();
        assert_eq!(
            leader.token().as_u64(),
            version(&server.lease("granted").await)
        );
        // The release is repeated until it is answered.
        api.fail(Kind::Put, applied_but(Answer::Closed), 1);
        within_limit("the release", leader.resign()).await.unwrap();
        assert_eq!(server.lease("granted").await["spec"]["holderIdentity"], "");
    }
}

/// What ends a watch, or keeps it from beginning.
async fn the_watch_comes_back(name: &str, fault: Option<Fault>) {
    const ATTEMPTS: usize = 4;
    let Some((server, api, backend)) = start().await else {
        return;
    };
    let direct = connect(server.config()).await.unwrap();
    let leader = election(&direct, name, "leader", &long());
    let leader = within_limit("the election", leader.campaign())
        .await
        .unwrap();
    if let Some(fault) = fault {
        api.fail(Kind::Watch, fault, ALWAYS);
    }
    let waiting = election(&backend, name, "waiting", &long());
    let campaign = tokio::spawn(async move { waiting.campaign().await });
    until("it has tried again", async || {
        if fault.is_none() {
            api.cut_watches();
        }
        api.seen(Kind::Watch).len() >= ATTEMPTS
    })
    .await;
    // Never at once, and each time later than before.
    let attempts = api.seen(Kind::Watch);
    let mut least = Duration::from_millis(150);
    for (before, after) in attempts.iter().zip(&attempts[1..]) {
        let pause = after.asked - before.asked;
        assert!(pause >= least, "{name}: {pause:?} instead of {least:?}");
        least = least.mul_f64(1.5);
    }
    // Each watch that begins asks for one look.
    let looks = api.seen(Kind::Get).len();
    assert!(looks <= attempts.len() + 2, "{name}: {looks} looks");

    api.mend();
    let so_far = api.seen(Kind::Watch).len();
    until("the watch is back", async || {
        fault.is_none() || api.seen(Kind::Watch).len() > so_far
    })
    .await;
    // No time would tell it: only the watch, or the look that follows its beginning.
    leader.resign().await.unwrap();
    let next = within_limit("the hand-over", campaign).await.unwrap();
    assert!(next.unwrap().is_valid(), "{name}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_comes_back_whatever_ended_it() {
    let faults = [
        ("gone-inside", Some(instead(Answer::Text(GONE)))),
        ("gone-outright", Some(instead(Answer::Status(410, None)))),
        ("internal", Some(instead(Answer::Status(500, None)))),
        ("no-service", Some(instead(Answer::Status(503, None)))),
        ("slower", Some(instead(Answer::Status(429, None)))),
        ("closed", Some(instead(Answer::Closed))),
        ("ended", Some(instead(Answer::Text("")))),
        ("torn", Some(instead(Answer::Text("{\"type\":\"MODI")))),
        ("nonsense", Some(instead(Answer::Text("no event\n")))),
        ("cut", None),
    ];
    let all = faults.map(|(name, fault)| the_watch_comes_back(name, fault));
    futures_util::future::join_all(all).await;
}

/// Of a proxy that has lost its server for a moment, say: the object may well be there.
#[tokio::test]
async fn a_404_that_is_not_the_api_servers_ends_no_term() {
    let Some((server, api, backend)) = start().await else {
        return;
    };
    let us = candidate("us", 1);
    let grant = acquire(&backend, "absent", &us).await.unwrap().unwrap();
    let others = instead(Answer::Status(404, None));
    for kind in [Kind::Put, Kind::Get] {
        // So that the object is looked at too.
        api.fail(
            Kind::Put,
            instead(Answer::Status(409, None)),
            usize::from(kind == Kind::Get),
        );
        api.fail(kind, others, 1);
        let error = renew(&backend, &grant).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Misconfigured, "{error}");
        assert!(error.message().contains("as the test wishes"), "{error}");
        api.mend();
    }
    let grant = renew(&backend, &grant).await.unwrap();
    api.fail(Kind::Get, others, 2);
    assert!(
        acquire(&backend, "absent", &candidate("other", 2))
            .await
            .is_err()
    );
    assert!(backend.holder(&lock("absent")).await.is_err());

    // That of the API server does.
    let path = server.lease_path("absent");
    let (status, _) = server.send("DELETE", &path, None).await;
    assert_eq!(status, 200);
    let outcome = backend.renew(&grant, backend.clock().now()).await.unwrap();
    assert!(matches!(outcome, Renewal::Lost { .. }), "{outcome:?}");
}
