//! The engine on paused time: what a service relies on, one behaviour a test.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::future::{self, Future as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt as _;
use tenure_core::testing::TestBackend;
use tenure_core::{
    Acquired, Both, CampaignId, Candidate, Capabilities, Cause, Changes, Election, ElectionBuilder,
    ElectionState, Error, ErrorKind, Event, Generation, Grant, Hint, Identity, InGeneration,
    LockBackend, LockName, MemoryBackend, Next, NotLeading, Observation, Observer, Occupancy,
    Policy, PublishedValue, Renewal, RunError, SharedClock, Time,
};
use tokio::sync::{broadcast, oneshot};

const SECOND: Duration = Duration::from_secs(1);

fn lock() -> LockName {
    LockName::new("test").unwrap()
}

fn candidate(store: &TestBackend, identity: &str) -> ElectionBuilder {
    Election::builder(Arc::new(store.clone()), lock()).identity(Identity::new(identity).unwrap())
}

fn election(store: &TestBackend, identity: &str) -> Election {
    candidate(store, identity).build().unwrap()
}

fn now(store: &TestBackend) -> Time {
    store.clock().now()
}

async fn event(events: &mut broadcast::Receiver<Event>, wanted: fn(&Event) -> bool) {
    while !wanted(&events.recv().await.unwrap()) {}
}

#[tokio::test(start_paused = true)]
async fn a_free_lock_is_taken_at_once_and_handed_over_at_once() {
    let store = TestBackend::new();
    let first = election(&store, "first").campaign().await.unwrap();
    let second = election(&store, "second");
    let waiting = tokio::spawn(async move { second.campaign().await });
    tokio::time::sleep(30 * SECOND).await;
    assert!(first.is_valid() && !waiting.is_finished());

    let term = first.term();
    let before = now(&store);
    first.resign().await.unwrap();
    assert!(!term.is_valid());
    let second = waiting.await.unwrap().unwrap();
    assert!(second.token() > term.token());
    assert!(
        now(&store).since(before) < Duration::from_millis(10),
        "woken, not polled"
    );
}

#[tokio::test(start_paused = true)]
async fn when_the_store_is_frozen_the_leader_stops_before_its_lease_ends() {
    let store = TestBackend::new();
    let leadership = election(&store, "a").campaign().await.unwrap();
    let policy = Policy::default();
    store.freeze();
    let start = now(&store);

    leadership.cancelled().await;
    let worked = now(&store).since(start);
    // tokio's timer rounds up to the next millisecond or two.
    let deadline = policy.validity().checked_sub(policy.stop_grace()).unwrap();
    assert!(worked <= deadline + Duration::from_millis(2), "{worked:?}");
    assert!(worked > 14 * SECOND, "{worked:?}");
    assert!(
        leadership.is_valid(),
        "the work is exclusive while it stops"
    );
    assert_eq!(leadership.cause(), Some(Cause::HeartbeatsMissed));

    leadership.lost().await;
    assert!(!leadership.is_valid());
    assert!(now(&store).since(start) < policy.lease());
    assert!(matches!(
        leadership.permit(Duration::ZERO),
        Err(NotLeading::Over { .. })
    ));
}

#[tokio::test(start_paused = true)]
async fn a_failed_heartbeat_is_retried_until_it_gets_through() {
    let store = TestBackend::new();
    let election = election(&store, "a");
    let mut events = election.events();
    let leadership = election.campaign().await.unwrap();
    store.fail_with(Some(ErrorKind::Unavailable));
    event(&mut events, |event| {
        matches!(event, Event::HeartbeatMissed { attempts: 2, .. })
    })
    .await;
    store.fail_with(None);
    event(&mut events, |event| matches!(event, Event::Renewed { .. })).await;
    tokio::time::sleep(100 * SECOND).await;
    assert!(leadership.is_valid() && !leadership.is_cancelled());
}

#[tokio::test(start_paused = true)]
async fn a_deleted_lock_is_noticed_with_the_next_heartbeat_and_not_written_again() {
    let store = TestBackend::new();
    let leadership = election(&store, "a").campaign().await.unwrap();
    let start = now(&store);
    store.lose(&lock());
    leadership.lost().await;
    let policy = Policy::default();
    assert!(now(&store).since(start) <= policy.heartbeat() + policy.request_timeout());
    assert_eq!(leadership.cause(), Some(Cause::Lost));
    assert_eq!(store.holder(&lock()).await.unwrap(), Occupancy::Free);
}

/// Others may have the lock in the same moment. Also where the store is one of two, or in a
/// generation.
#[tokio::test(start_paused = true)]
async fn the_end_of_its_session_ends_a_term_at_once() {
    let store = TestBackend::new();
    let plain: Arc<dyn LockBackend> = Arc::new(store.clone());
    let other = Arc::new(MemoryBackend::with_clock(store.clock()));
    let later = InGeneration::new(plain.clone(), Generation::new(2).unwrap());
    let stores: [Arc<dyn LockBackend>; 4] = [
        plain.clone(),
        Arc::new(Both::new(plain.clone(), other.clone()).unwrap()),
        Arc::new(Both::new(other, plain.clone()).unwrap()),
        Arc::new(later),
    ];
    for backend in stores {
        let election = Election::builder(backend, lock()).build().unwrap();
        let leadership = election.campaign().await.unwrap();
        let term = leadership.term();
        let (before, calls) = (now(&store), store.calls());
        store.end_session(&lock());
        leadership.lost().await;
        assert!(!term.is_valid());
        assert!(now(&store).since(before) < SECOND, "not by a heartbeat");
        assert_eq!(store.calls(), calls, "nothing is asked");
        leadership.resign().await.unwrap();
        // What is left in the other store ends with its lease.
        tokio::time::sleep(30 * SECOND).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_term_that_ran_out_in_a_pause_is_not_brought_back() {
    let store = TestBackend::new();
    let leadership = election(&store, "a").campaign().await.unwrap();
    let token = leadership.token();
    // The heartbeat is under way when the process is stopped; its answer comes after the pause.
    store.freeze();
    tokio::time::sleep(11 * SECOND).await;
    store.jump(60 * SECOND);
    assert!(
        !leadership.is_valid(),
        "right at once, whatever the engine does"
    );
    store.thaw();
    tokio::time::sleep(60 * SECOND).await;
    assert!(!leadership.is_valid());
    drop(leadership);
    let next = election(&store, "b").campaign().await.unwrap();
    assert!(next.token() > token);
}

/// The work looks at the clock by itself, before the engine does.
#[tokio::test(start_paused = true)]
async fn after_a_pause_the_work_and_the_events_name_one_cause() {
    let store = TestBackend::new();
    let election = election(&store, "a");
    let mut events = election.events();
    let leadership = election.campaign().await.unwrap();
    store.freeze();
    tokio::time::sleep(11 * SECOND).await;
    store.jump(60 * SECOND);
    assert_eq!(leadership.cause(), Some(Cause::Expired));
    event(&mut events, |event| {
        matches!(event, Event::SteppedDown(Cause::Expired))
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_dropped_campaign_withdraws_and_a_dropped_leadership_releases() {
    let store = TestBackend::new();
    let first = election(&store, "first");
    let leadership = first.campaign().await.unwrap();
    let second = election(&store, "second");
    let campaign = tokio::time::timeout(5 * SECOND, second.campaign()).await;
    assert!(campaign.is_err());
    second.settled().await;
    drop(leadership);
    first.settled().await;
    assert_eq!(store.holder(&lock()).await.unwrap(), Occupancy::Free);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_came_too_late_leaves_no_orphan() {
    let store = TestBackend::new();
    let election = election(&store, "a");
    store.freeze();
    let campaign = tokio::time::timeout(SECOND, election.campaign()).await;
    assert!(campaign.is_err());
    store.thaw();
    election.settled().await;
    assert_eq!(store.holder(&lock()).await.unwrap(), Occupancy::Free);
}

#[tokio::test(start_paused = true)]
async fn one_election_has_one_campaign_or_term_at_a_time() {
    let store = TestBackend::new();
    let election = election(&store, "a");
    let leadership = election.campaign().await.unwrap();
    let second = election.campaign().await.unwrap_err();
    assert_eq!(second.kind(), ErrorKind::InvalidInput);
    let token = leadership.token();
    drop(leadership);
    assert!(election.campaign().await.unwrap().token() > token);
}

#[tokio::test(start_paused = true)]
async fn what_somebody_has_to_mend_fails_at_the_start_and_is_an_event_later() {
    let store = TestBackend::new();
    store.fail_with(Some(ErrorKind::Forbidden));
    let election = election(&store, "a");
    let error = election.campaign().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Forbidden);

    store.fail_with(None);
    let leadership = election.campaign().await.unwrap();
    store.fail_with(Some(ErrorKind::Forbidden));
    let mut events = election.events();
    event(&mut events, |event| {
        matches!(event, Event::HeartbeatMissed { .. })
    })
    .await;
    store.fail_with(None);
    event(&mut events, |event| matches!(event, Event::Renewed { .. })).await;
    assert!(leadership.is_valid());
}

#[tokio::test(start_paused = true)]
async fn a_right_that_is_revoked_between_two_terms_does_not_end_the_service() {
    let store = TestBackend::new();
    let election = election(&store, "a");
    drop(election.campaign().await.unwrap());
    election.settled().await;
    store.fail_with(Some(ErrorKind::Forbidden));
    let mut events = election.events();
    let campaign = tokio::spawn({
        let election = election.clone();
        async move { election.campaign().await }
    });
    event(&mut events, |event| matches!(event, Event::StoreFailed(_))).await;
    store.fail_with(None);
    assert!(campaign.await.unwrap().unwrap().is_valid());
}

#[tokio::test(start_paused = true)]
async fn an_outage_at_the_start_is_waited_out() {
    let store = TestBackend::new();
    store.fail_with(Some(ErrorKind::Unavailable));
    let election = election(&store, "a");
    let mut events = election.events();
    let campaign = tokio::spawn({
        let election = election.clone();
        async move { election.campaign().await }
    });
    event(&mut events, |event| matches!(event, Event::StoreFailed(_))).await;
    store.fail_with(None);
    assert!(campaign.await.unwrap().unwrap().is_valid());
}

#[tokio::test(start_paused = true)]
async fn on_shutdown_the_term_is_kept_up_until_the_work_has_returned() {
    let store = TestBackend::new();
    let election = election(&store, "a");
    let (stop, stopped) = oneshot::channel::<()>();
    let (started, running) = oneshot::channel();
    let mut started = Some(started);
    let observed = store.clone();
    let run = tokio::spawn(async move {
        let shutdown = async { drop(stopped.await) };
        election
            .run_until(shutdown, move |term| {
                let started = started.take().unwrap();
                let store = observed.clone();
                async move {
                    started.send(()).unwrap();
                    term.cancelled().await;
                    assert_eq!(term.cause(), Some(Cause::Shutdown));
                    // Longer than the validity: only heartbeats keep the term up meanwhile.
                    tokio::time::sleep(22 * SECOND).await;
                    assert!(term.is_valid());
                    assert!(matches!(
                        store.holder(&lock()).await.unwrap(),
                        Occupancy::Led(_)
                    ));
                    Ok::<_, std::io::Error>(Next::Campaign)
                }
            })
            .await
    });
    running.await.unwrap();
    stop.send(()).unwrap();
    run.await.unwrap().unwrap();
    assert_eq!(store.holder(&lock()).await.unwrap(), Occupancy::Free);
}

#[tokio::test(start_paused = true)]
async fn work_that_never_stops_is_kept_exclusive_for_the_drain_limit_only() {
    let store = TestBackend::new();
    let election = candidate(&store, "a")
        .drain_limit(30 * SECOND)
        .build()
        .unwrap();
    let mut events = election.events();
    let leadership = election.campaign().await.unwrap();
    leadership.stop(Cause::Shutdown);
    let start = now(&store);
    event(&mut events, |event| matches!(event, Event::Overrun)).await;
    let kept = now(&store).since(start);
    assert!(kept >= 30 * SECOND && kept < 50 * SECOND, "{kept:?}");
    assert!(!leadership.is_valid());
}

/// What comes after it follows from it: work that was told to stop returns, and its owner resigns.
#[tokio::test(start_paused = true)]
async fn a_term_ends_for_the_first_reason_for_which_its_work_was_told_to_stop() {
    let store = TestBackend::new();
    let election = election(&store, "a");
    let mut events = election.events();

    let leadership = election.campaign().await.unwrap();
    store.freeze();
    leadership.cancelled().await;
    store.thaw();
    leadership.resign().await.unwrap();
    assert_eq!(end(&mut events).await, Cause::HeartbeatsMissed);

    let leadership = election.campaign().await.unwrap();
    leadership.stop(Cause::Shutdown);
    leadership.cancelled().await;
    drop(leadership);
    assert_eq!(end(&mut events).await, Cause::Shutdown);

    let leadership = election.campaign().await.unwrap();
    leadership.stop(Cause::Shutdown);
    leadership.cancelled().await;
    store.lose(&lock());
    assert_eq!(end(&mut events).await, Cause::Shutdown);
    drop(leadership);

    let leadership = election.campaign().await.unwrap();
    leadership.resign().await.unwrap();
    assert_eq!(end(&mut events).await, Cause::Resigned);
}

/// The owner may be quicker than the engine, and sleep through the end.
#[tokio::test(start_paused = true)]
async fn the_first_reason_counts_also_where_the_owner_resigns_before_the_engine_knows_it() {
    let store = TestBackend::new();
    let election = election(&store, "a");
    let mut events = election.events();
    let policy = Policy::default();

    let leadership = election.campaign().await.unwrap();
    leadership.stop(Cause::Shutdown);
    assert_eq!(leadership.cause(), Some(Cause::Shutdown), "told at once");
    leadership.resign().await.unwrap();
    assert_eq!(end(&mut events).await, Cause::Shutdown);

    let leadership = election.campaign().await.unwrap();
    leadership.stop(Cause::Shutdown);
    drop(leadership);
    assert_eq!(end(&mut events).await, Cause::Shutdown);

    for (slept, cause) in [
        (policy.lease(), Cause::Expired),
        (
            policy.validity().checked_sub(SECOND).unwrap(),
            Cause::HeartbeatsMissed,
        ),
    ] {
        let leadership = election.campaign().await.unwrap();
        store.jump(slept);
        leadership.resign().await.unwrap();
        assert_eq!(end(&mut events).await, cause);

        let leadership = election.campaign().await.unwrap();
        store.jump(slept);
        drop(leadership);
        assert_eq!(end(&mut events).await, cause);

        let leadership = election.campaign().await.unwrap();
        store.jump(slept);
        leadership.stop(Cause::Shutdown);
        assert_eq!(leadership.cause(), Some(cause));
        leadership.resign().await.unwrap();
        assert_eq!(end(&mut events).await, cause);
    }
}

/// Why the next term to end has ended.
async fn end(events: &mut broadcast::Receiver<Event>) -> Cause {
    loop {
        if let Event::SteppedDown(cause) = events.recv().await.unwrap() {
            return cause;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn work_that_overruns_is_reported_and_delays_the_release() {
    let store = TestBackend::new();
    let election = election(&store, "a");
    let mut events = election.events();
    let leadership = election.campaign().await.unwrap();
    store.freeze();
    event(&mut events, |event| {
        matches!(event, Event::SteppedDown(Cause::HeartbeatsMissed))
    })
    .await;
    event(&mut events, |event| matches!(event, Event::Overrun)).await;
    store.thaw();
    tokio::time::sleep(5 * SECOND).await;
    let state = election.state().borrow().clone();
    assert!(
        matches!(state, ElectionState::SteppingDown { .. }),
        "{state:?}"
    );
    drop(leadership);
    election.settled().await;
    assert_eq!(*election.state().borrow(), ElectionState::Idle);
}

#[tokio::test(start_paused = true)]
async fn a_panic_of_the_work_gives_the_term_back() {
    let store = TestBackend::new();
    let election = election(&store, "a");
    let running = election.clone();
    let task = tokio::spawn(async move {
        let work = |_| async { panic!("the work's own bug") };
        let outcome: Result<(), RunError<std::io::Error>> =
            running.run_until(future::pending(), work).await;
        outcome
    });
    assert!(task.await.unwrap_err().is_panic());
    election.settled().await;
    assert_eq!(store.holder(&lock()).await.unwrap(), Occupancy::Free);
}

#[tokio::test(start_paused = true)]
async fn the_work_says_what_comes_next() {
    let store = TestBackend::new();
    let election = election(&store, "a");
    let mut terms = 0;
    election
        .run_until(future::pending(), |term| {
            terms += 1;
            let next = if terms < 3 {
                Next::Campaign
            } else {
                Next::Stop
            };
            async move {
                assert!(term.is_valid());
                Ok::<_, std::io::Error>(next)
            }
        })
        .await
        .unwrap();
    assert_eq!(terms, 3);

    let failed = election
        .run_until(future::pending(), |_| async {
            Err(std::io::Error::other("broken"))
        })
        .await;
    assert!(matches!(failed, Err(RunError::Work(_))));
    assert_eq!(store.holder(&lock()).await.unwrap(), Occupancy::Free);
}

#[tokio::test(start_paused = true)]
async fn an_unhealthy_application_loses_the_lead_and_gets_it_back() {
    let store = TestBackend::new();
    let healthy = Arc::new(AtomicBool::new(true));
    let probe = healthy.clone();
    let election = candidate(&store, "a")
        .health(move || probe.load(Ordering::Relaxed))
        .build()
        .unwrap();
    let leadership = election.campaign().await.unwrap();
    healthy.store(false, Ordering::Relaxed);
    leadership.lost().await;
    drop(leadership);
    let again = tokio::time::timeout(60 * SECOND, election.campaign()).await;
    assert!(again.is_err(), "it does not campaign while it is unhealthy");
    healthy.store(true, Ordering::Relaxed);
    assert!(election.campaign().await.unwrap().is_valid());
}

#[tokio::test(start_paused = true)]
async fn a_published_value_is_seen_by_observers() {
    let store = TestBackend::new();
    let value = |text: &str| PublishedValue::new(text).unwrap();
    let leadership = candidate(&store, "a")
        .value(value("10.0.0.1:80"))
        .build()
        .unwrap()
        .campaign()
        .await
        .unwrap();
    let observer = Observer::new(Arc::new(store.clone()), lock(), Policy::default());
    let Observation::Led {
        value: published,
        token,
        ..
    } = observer.look().await.unwrap()
    else {
        panic!("somebody leads");
    };
    assert_eq!(published.as_deref(), Some("10.0.0.1:80"));
    assert_eq!(token, Some(leadership.token()));

    leadership
        .publish(Some(value("10.0.0.2:80")))
        .await
        .unwrap();
    let Observation::Led {
        value: published, ..
    } = observer.look().await.unwrap()
    else {
        panic!("somebody leads");
    };
    assert_eq!(published.as_deref(), Some("10.0.0.2:80"));

    store.lose(&lock());
    assert!(leadership.publish(None).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_term_is_confirmed_by_a_heartbeat_sent_after_the_question() {
    let store = TestBackend::new();
    let leadership = election(&store, "a").campaign().await.unwrap();
    let calls = store.calls();
    let _permit = leadership.confirm().await.unwrap();
    assert_eq!(store.calls(), calls + 1);

    store.fail_with(Some(ErrorKind::Unavailable));
    assert!(matches!(
        leadership.confirm().await,
        Err(NotLeading::Unconfirmed { .. })
    ));
    store.fail_with(None);
    store.lose(&lock());
    assert!(matches!(
        leadership.confirm().await,
        Err(NotLeading::Over { .. })
    ));
}

#[tokio::test(start_paused = true)]
async fn an_observer_sees_each_change_and_a_silent_store() {
    let store = TestBackend::new();
    let observer = Observer::new(Arc::new(store.clone()), lock(), Policy::default());
    let mut seen = observer.watch();
    assert_eq!(seen.next().await, Some(Observation::Free));
    let leadership = election(&store, "a").campaign().await.unwrap();
    let led = seen.next().await.unwrap();
    assert!(
        matches!(&led, Observation::Led { identity, .. } if identity == "a"),
        "{led:?}"
    );
    store.freeze();
    assert_eq!(
        seen.next().await,
        Some(Observation::Unknown { recorded: None })
    );
    store.thaw();
    assert!(matches!(seen.next().await, Some(Observation::Led { .. })));
    leadership.resign().await.unwrap();
    assert_eq!(seen.next().await, Some(Observation::Free));
}

#[tokio::test(start_paused = true)]
async fn a_permit_asks_for_enough_time() {
    let store = TestBackend::new();
    let leadership = election(&store, "a").campaign().await.unwrap();
    assert!(leadership.permit(19 * SECOND).is_ok());
    assert!(matches!(
        leadership.permit(21 * SECOND),
        Err(NotLeading::TooShort { .. })
    ));
    let term = leadership.term();
    let work = term.until_cancelled(future::pending::<()>());
    store.freeze();
    assert!(work.await.is_err());
}

#[tokio::test(start_paused = true)]
async fn ten_candidates_lead_one_after_the_other() {
    let store = TestBackend::new();
    let mut tasks = Vec::new();
    for number in 0..10 {
        let election = election(&store, &format!("candidate-{number}"));
        tasks.push(tokio::spawn(async move {
            let leadership = election.campaign().await.unwrap();
            tokio::time::sleep(SECOND).await;
            assert!(leadership.is_valid());
            let token = leadership.token();
            leadership.resign().await.unwrap();
            token
        }));
    }
    let mut tokens = Vec::new();
    for task in tasks {
        tokens.push(task.await.unwrap());
    }
    tokens.sort_unstable();
    tokens.dedup();
    assert_eq!(tokens.len(), 10);
}

#[tokio::test(start_paused = true)]
async fn a_policy_the_store_cannot_grant_is_refused_with_the_numbers() {
    let store = TestBackend::new();
    let mut capabilities = store.capabilities();
    capabilities.min_lease = 60 * SECOND;
    let error = Policy::default()
        .check_for(&capabilities)
        .unwrap_err()
        .to_string();
    assert!(error.contains("20s") && error.contains("60s"), "{error}");
    capabilities.min_lease = SECOND;
    capabilities.lease_granularity = 3 * SECOND;
    assert!(Policy::default().check_for(&capabilities).is_err());
}

#[test]
fn without_a_runtime_a_campaign_fails_with_what_to_do() {
    let backend = Arc::new(tenure_core::MemoryBackend::private());
    let election = Election::builder(backend, lock()).build().unwrap();
    let mut campaign = std::pin::pin!(election.campaign());
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    let std::task::Poll::Ready(Err(error)) = campaign.as_mut().poll(&mut context) else {
        panic!("nothing to wait for");
    };
    assert!(error.to_string().contains("runtime"), "{error}");
}

/// The store may free the lock as soon as nobody holds the grant any more.
#[test]
fn a_term_ends_with_the_runtime_of_its_engine() {
    let backend = Arc::new(tenure_core::MemoryBackend::private());
    let election = Election::builder(backend, lock()).build().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let leadership = runtime.block_on(election.campaign()).unwrap();
    assert!(leadership.is_valid());
    drop(runtime);
    assert!(!leadership.is_valid());
}

/// Nobody is left to answer then, so the question must not be kept.
#[tokio::test(start_paused = true)]
async fn an_ended_term_is_neither_confirmed_nor_published_for() {
    let store = TestBackend::new();
    let lost = election(&store, "lost").campaign().await.unwrap();
    store.lose(&lock());
    lost.lost().await;
    let day = 86_400 * SECOND;
    let confirmed = tokio::time::timeout(day, lost.confirm()).await;
    assert!(matches!(confirmed, Ok(Err(NotLeading::Over { .. }))));
    let published = tokio::time::timeout(day, lost.publish(None)).await;
    assert!(matches!(published, Ok(Err(_))));
    drop(lost);

    let expired = election(&store, "expired").campaign().await.unwrap();
    store.freeze();
    expired.lost().await;
    tokio::time::sleep(SECOND).await;
    store.thaw();
    let confirmed = tokio::time::timeout(day, expired.confirm()).await;
    assert!(matches!(confirmed, Ok(Err(NotLeading::Over { .. }))));
}

#[tokio::test(start_paused = true)]
async fn work_that_confirms_after_a_loss_returns_and_campaigns_again() {
    let store = TestBackend::new();
    let election = election(&store, "confirming");
    let losing = store.clone();
    let mut terms = 0;
    let outcome = election.run_until(future::pending(), |term| {
        terms += 1;
        let last = terms == 3;
        let store = losing.clone();
        async move {
            if last {
                return Ok::<_, NotLeading>(Next::Stop);
            }
            store.lose(&lock());
            term.lost().await;
            assert!(term.confirm().await.is_err());
            Ok(Next::Campaign)
        }
    });
    let outcome = tokio::time::timeout(86_400 * SECOND, outcome).await;
    assert!(matches!(outcome, Ok(Ok(()))), "{outcome:?}");
}

/// A heartbeat that was under way when the value was published went out without it.
#[tokio::test(start_paused = true)]
async fn a_published_value_is_in_the_store_when_that_is_said() {
    let store = TestBackend::new();
    let election = election(&store, "a");
    let leadership = Arc::new(election.campaign().await.unwrap());
    let before = store.calls();
    store.freeze();
    while store.calls() == before {
        tokio::time::sleep(SECOND / 10).await;
    }
    let publishing = tokio::spawn({
        let leadership = leadership.clone();
        async move {
            let value = PublishedValue::new("10.0.0.2:80").unwrap();
            leadership.publish(Some(value)).await
        }
    });
    tokio::time::sleep(SECOND / 10).await;
    store.thaw();
    publishing.await.unwrap().unwrap();
    let Occupancy::Led(holder) = store.holder(&lock()).await.unwrap() else {
        panic!("somebody leads");
    };
    assert_eq!(holder.value.as_deref(), Some("10.0.0.2:80"));
}

fn ask_for_ten_minutes(store: &TestBackend) {
    store.fail_with(Some(ErrorKind::Throttled {
        retry_after: Some(600 * SECOND),
    }));
}

#[tokio::test(start_paused = true)]
async fn a_store_that_asks_for_ten_minutes_has_its_candidate_back_after_a_heartbeat() {
    let store = TestBackend::new();
    let election = election(&store, "a");
    let mut events = election.events();
    ask_for_ten_minutes(&store);
    let before = now(&store);
    let campaign = tokio::spawn(async move { election.campaign().await });
    event(&mut events, |event| matches!(event, Event::StoreFailed(_))).await;
    store.fail_with(None);
    assert!(campaign.await.unwrap().unwrap().is_valid());
    assert!(now(&store).since(before) <= Policy::default().heartbeat() + SECOND / 10);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_asks_a_leader_for_ten_minutes_does_not_cost_it_the_term() {
    let store = TestBackend::new();
    let election = election(&store, "a");
    let mut events = election.events();
    let leadership = election.campaign().await.unwrap();
    ask_for_ten_minutes(&store);
    event(&mut events, |event| {
        matches!(event, Event::HeartbeatMissed { .. })
    })
    .await;
    store.fail_with(None);
    tokio::time::sleep(100 * SECOND).await;
    assert!(leadership.is_valid() && !leadership.is_cancelled());
}

#[tokio::test(start_paused = true)]
async fn nor_a_watcher_its_sight_for_longer_than_a_heartbeat() {
    let store = TestBackend::new();
    // Nothing is renewed, so no hint ends the pause.
    let holder = Candidate::new(Identity::new("a").unwrap(), CampaignId::new(1));
    store
        .acquire(&lock(), &holder, 3600 * SECOND)
        .await
        .unwrap();
    ask_for_ten_minutes(&store);
    let observer = Observer::new(Arc::new(store.clone()), lock(), Policy::default());
    let mut watch = observer.watch();
    let blind = watch.next().await.unwrap();
    assert!(matches!(blind, Observation::Unknown { .. }), "{blind:?}");
    store.fail_with(None);
    let before = now(&store);
    let seen = watch.next().await.unwrap();
    assert!(matches!(seen, Observation::Led { .. }), "{seen:?}");
    assert!(now(&store).since(before) <= Policy::default().heartbeat() + SECOND / 10);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_asks_for_ten_minutes_does_not_hold_a_resigning_leader() {
    let store = TestBackend::new();
    let leadership = election(&store, "a").campaign().await.unwrap();
    ask_for_ten_minutes(&store);
    let before = now(&store);
    let failed = leadership.resign().await.unwrap_err();
    assert!(matches!(failed.kind(), ErrorKind::Throttled { .. }));
    assert!(now(&store).since(before) <= Policy::default().lease() + SECOND / 10);
}

#[tokio::test(start_paused = true)]
async fn an_unhealthy_candidate_leaves_while_it_waits_and_comes_back() {
    let store = TestBackend::new();
    let first = election(&store, "first").campaign().await.unwrap();
    let healthy = Arc::new(AtomicBool::new(true));
    let probe = healthy.clone();
    let second = candidate(&store, "second")
        .health(move || probe.load(Ordering::Relaxed))
        .build()
        .unwrap();
    let mut events = second.events();
    let waiting = tokio::spawn(async move { second.campaign().await });
    tokio::time::sleep(30 * SECOND).await;
    healthy.store(false, Ordering::Relaxed);
    let before = now(&store);
    event(&mut events, |event| matches!(event, Event::Unhealthy)).await;
    assert!(now(&store).since(before) <= Policy::default().retry_interval());
    first.resign().await.unwrap();
    tokio::time::sleep(60 * SECOND).await;
    assert_eq!(store.holder(&lock()).await.unwrap(), Occupancy::Free);
    healthy.store(true, Ordering::Relaxed);
    assert!(waiting.await.unwrap().unwrap().is_valid());
}

/// Nothing was asked of the store, so nothing has failed.
#[tokio::test(start_paused = true)]
async fn a_candidate_that_is_unwell_reports_no_call() {
    let store = TestBackend::new();
    let election = candidate(&store, "a").health(|| false).build().unwrap();
    let mut events = election.events();
    let campaign = tokio::time::timeout(60 * SECOND, election.campaign()).await;
    assert!(campaign.is_err());
    let mut seen = Vec::new();
    while let Ok(event) = events.try_recv() {
        seen.push(event);
    }
    assert!(
        matches!(seen[..], [Event::Campaigning, Event::Unhealthy]),
        "{seen:?}"
    );
    assert_eq!(store.calls(), 0);
}

/// A store that takes so long for each heartbeat's answer.
#[derive(Debug)]
struct Slow {
    store: TestBackend,
    takes: Duration,
    /// The same for the answers to candidates.
    acquires_take: Duration,
    overlaps: bool,
    /// So many heartbeats get no answer.
    loses: AtomicU64,
}

#[async_trait]
impl LockBackend for Slow {
    fn capabilities(&self) -> Capabilities {
        self.store.capabilities()
    }

    fn clock(&self) -> SharedClock {
        self.store.clock()
    }

    async fn acquire(
        &self,
        lock: &LockName,
        candidate: &Candidate,
        lease: Duration,
    ) -> Result<Acquired, Error> {
        let acquired = self.store.acquire(lock, candidate, lease).await;
        tokio::time::sleep(self.acquires_take).await;
        acquired
    }

    async fn renew(&self, grant: &Grant, not_before: Time) -> Result<Renewal, Error> {
        let lose = |left: u64| left.checked_sub(1);
        if self
            .loses
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, lose)
            .is_ok()
        {
            return future::pending().await;
        }
        let renewal = self.store.renew(grant, not_before).await;
        tokio::time::sleep(self.takes).await;
        renewal
    }

    fn may_go_on(&self, _began_at: Time) -> bool {
        self.overlaps
    }

    async fn release(&self, grant: &Grant) -> Result<(), Error> {
        let released = self.store.release(grant).await;
        tokio::time::sleep(self.acquires_take).await;
        released
    }

    async fn withdraw(&self, lock: &LockName, candidate: &Candidate) -> Result<(), Error> {
        let withdrawn = self.store.withdraw(lock, candidate).await;
        tokio::time::sleep(self.acquires_take).await;
        withdrawn
    }

    async fn holder(&self, lock: &LockName) -> Result<Occupancy, Error> {
        self.store.holder(lock).await
    }

    fn changes(&self, lock: &LockName) -> Changes {
        self.store.changes(lock)
    }
}

/// A leader of five minutes on a store whose answers take so long; and how many heartbeats it sent.
async fn leads_on(takes: Duration, overlaps: bool) -> (bool, u64) {
    let store = TestBackend::new();
    let slow = Arc::new(Slow {
        store: store.clone(),
        takes,
        acquires_take: Duration::ZERO,
        overlaps,
        loses: AtomicU64::new(0),
    });
    let election = Election::builder(slow, lock()).build().unwrap();
    let leadership = election.campaign().await.unwrap();
    let before = store.calls();
    tokio::time::sleep(300 * SECOND).await;
    let led = !leadership.is_cancelled();
    (led, store.calls() - before)
}

/// An attempt that has no answer goes on while the next one is made, and its answer counts.
#[tokio::test(start_paused = true)]
async fn a_store_that_takes_seconds_for_each_answer_costs_no_term() {
    for (takes, most) in [(2, 32), (4, 96), (6, 192)] {
        let (led, heartbeats) = leads_on(takes * SECOND, true).await;
        assert!(led, "{takes} s");
        assert!(heartbeats < most, "{heartbeats} heartbeats at {takes} s");
    }
}

/// The connection of the first attempt is dead, and the store is slow: an attempt after it has the
/// time to be answered.
#[tokio::test(start_paused = true)]
async fn a_lost_attempt_at_a_slow_store_costs_no_term() {
    let slow = Arc::new(Slow {
        store: TestBackend::new(),
        takes: 4 * SECOND,
        acquires_take: Duration::ZERO,
        overlaps: true,
        loses: AtomicU64::new(1),
    });
    let election = Election::builder(slow.clone(), lock()).build().unwrap();
    let leadership = election.campaign().await.unwrap();
    tokio::time::sleep(60 * SECOND).await;
    assert!(!leadership.is_cancelled());
    assert_eq!(slow.loses.load(Ordering::Relaxed), 0);
}

/// As the backend says: there the next attempt would wait for the one before.
#[tokio::test(start_paused = true)]
async fn where_heartbeats_do_not_overlap_a_call_ends_before_the_next() {
    let (led, _) = leads_on(2 * SECOND, false).await;
    assert!(led, "within the request timeout");
    let (led, _) = leads_on(4 * SECOND, false).await;
    assert!(!led);
}

/// An election at a store that takes so long for every answer.
fn far(store: &TestBackend, takes: Duration) -> Election {
    let slow = Arc::new(Slow {
        store: store.clone(),
        takes,
        acquires_take: takes,
        overlaps: true,
        loses: AtomicU64::new(0),
    });
    let far = Election::builder(slow, lock()).identity(Identity::new("far").unwrap());
    far.build().unwrap()
}

/// Its answers take longer than the request timeout, and less than a term can live with.
#[tokio::test(start_paused = true)]
async fn a_candidate_at_a_slow_store_is_elected_and_stays() {
    for takes in [4, 8] {
        let store = TestBackend::new();
        let election = far(&store, takes * SECOND);
        let limit = tokio::time::timeout(60 * SECOND, election.campaign());
        let leadership = limit.await.expect("it is elected").unwrap();
        tokio::time::sleep(60 * SECOND).await;
        assert!(!leadership.is_cancelled(), "{takes} s");
    }
}

/// Each of its attempts is granted, but no answer is in time for a term.
#[tokio::test(start_paused = true)]
async fn a_candidate_that_cannot_hear_its_answers_leaves_the_lock_to_others() {
    let store = TestBackend::new();
    let far = far(&store, 15 * SECOND);
    let waiting = tokio::spawn(async move { far.campaign().await.map(drop) });
    until_held_by(&store, "far").await;
    let near = election(&store, "near");
    let limit = tokio::time::timeout(120 * SECOND, near.campaign());
    let leadership = limit.await.expect("the near one is elected").unwrap();
    tokio::time::sleep(120 * SECOND).await;
    assert!(leadership.is_valid());
    assert!(!waiting.is_finished());
}

async fn until_held_by(store: &TestBackend, identity: &str) {
    loop {
        match store.holder(&lock()).await.unwrap() {
            Occupancy::Led(holder) if holder.identity == identity => return,
            _ => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_loss_in_one_of_two_stores_is_seen_while_the_other_is_silent() {
    let (first, second) = (TestBackend::new(), TestBackend::new());
    let both = Both::new(Arc::new(first.clone()), Arc::new(second.clone())).unwrap();
    let election = Election::builder(Arc::new(both), lock()).build().unwrap();
    let leadership = election.campaign().await.unwrap();
    second.freeze();
    first.lose(&lock());
    leadership.lost().await;
    assert_eq!(leadership.cause(), Some(Cause::Lost));
}

/// What is published during a slow heartbeat is not in it, and does not wait for it.
#[tokio::test(start_paused = true)]
async fn a_late_answer_does_not_say_yes_to_a_value_that_came_after_it() {
    let store = TestBackend::new();
    let slow = Arc::new(Slow {
        store: store.clone(),
        takes: 4 * SECOND,
        acquires_take: Duration::ZERO,
        overlaps: true,
        loses: AtomicU64::new(0),
    });
    let election = Election::builder(slow, lock()).build().unwrap();
    let leadership = Arc::new(election.campaign().await.unwrap());
    // The heartbeat at 10 s has left.
    tokio::time::sleep(12 * SECOND).await;
    let publishing = leadership.clone();
    let published = tokio::spawn(async move {
        publishing
            .publish(Some(PublishedValue::new("new").unwrap()))
            .await
    });
    // The next heartbeat, which has it, is answered after the request timeout.
    let error = published.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    tokio::time::sleep(10 * SECOND).await;
    assert!(!leadership.is_cancelled());
    let Occupancy::Led(holder) = store.holder(&lock()).await.unwrap() else {
        panic!("nobody leads");
    };
    assert_eq!(holder.value.as_deref(), Some("new"));
}

/// A store whose stream of hints is always ready.
#[derive(Debug)]
struct Flooding(MemoryBackend);

#[async_trait]
impl LockBackend for Flooding {
    fn capabilities(&self) -> Capabilities {
        self.0.capabilities()
    }

    fn clock(&self) -> SharedClock {
        self.0.clock()
    }

    async fn acquire(
        &self,
        lock: &LockName,
        candidate: &Candidate,
        lease: Duration,
    ) -> Result<Acquired, Error> {
        self.0.acquire(lock, candidate, lease).await
    }

    async fn renew(&self, grant: &Grant, not_before: Time) -> Result<Renewal, Error> {
        self.0.renew(grant, not_before).await
    }

    async fn release(&self, grant: &Grant) -> Result<(), Error> {
        self.0.release(grant).await
    }

    async fn withdraw(&self, lock: &LockName, candidate: &Candidate) -> Result<(), Error> {
        self.0.withdraw(lock, candidate).await
    }

    async fn holder(&self, lock: &LockName) -> Result<Occupancy, Error> {
        self.0.holder(lock).await
    }

    fn changes(&self, _lock: &LockName) -> Changes {
        Box::pin(futures_util::stream::repeat(Hint::HeldFor(20 * SECOND)))
    }
}

#[test]
fn a_flood_of_hints_does_not_starve_the_runtime() {
    let flooded = async {
        let store = MemoryBackend::private();
        let holder = Candidate::new(Identity::new("a").unwrap(), CampaignId::new(1));
        store.acquire(&lock(), &holder, 60 * SECOND).await.unwrap();
        let election = Election::builder(Arc::new(Flooding(store)), lock())
            .build()
            .unwrap();
        let waiting = tokio::spawn(async move { election.campaign().await.map(|_| ()) });
        // Each needs its turn beside the engine's.
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        waiting.abort();
    };
    let (done, outcome) = std::sync::mpsc::channel();
    // A runtime that is starved never comes back: it is left behind with its thread.
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        runtime.block_on(flooded);
        done.send(()).unwrap();
        std::mem::forget(runtime);
    });
    outcome.recv_timeout(60 * SECOND).unwrap();
}
