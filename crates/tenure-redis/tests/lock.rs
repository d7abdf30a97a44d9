//! The contract of the lock, on one real server.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod support;

use std::cell::Cell;
use std::collections::HashSet;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use support::Connects as _;
use tenure_core::{
    Acquired, ErrorKind, Grant, Hint, LockBackend as _, Occupancy, PublishedValue, Renewal, Time,
};
use tenure_testkit::redis::start;
use tenure_testkit::{
    LONG, candidate, held, is_lost, is_taken, lock, renewed, until, within_limit,
};

#[tokio::test]
async fn a_term_from_acquire_to_release() {
    let Some(server) = start(&[]) else { return };
    let backend = server.connect().await;
    let lock = lock("a-term");
    let a =
        candidate("host:\"1\"\\{}", 1).with_value(PublishedValue::new("grün  http://x").unwrap());
    let b = candidate("b", 2);
    let before = backend.clock().now();

    let grant = held(backend.acquire(&lock, &a, LONG).await.unwrap());
    assert!(grant.proven_at >= before && grant.proven_at <= backend.clock().now());
    assert_eq!(grant.lease, LONG);
    let Acquired::Taken {
        holder, free_in, ..
    } = backend.acquire(&lock, &b, LONG).await.unwrap()
    else {
        panic!("two hold it");
    };
    let holder = holder.unwrap();
    assert_eq!(holder.identity, "host:\"1\"\\{}");
    assert_eq!(holder.value.as_deref(), Some("grün  http://x"));
    assert_eq!(holder.token, Some(grant.token));
    assert!(free_in.unwrap() <= LONG + Duration::from_millis(1));
    assert!(free_in.unwrap() > LONG / 2);

    let grant2 = renewed(backend.renew(&grant, Time::ZERO).await.unwrap());
    assert!(grant2.proven_at > grant.proven_at);
    assert_eq!(grant2.token, grant.token);
    let Occupancy::Led(holder) = backend.holder(&lock).await.unwrap() else {
        panic!("it is held");
    };
    assert_eq!(holder.value.as_deref(), Some("grün  http://x"));

    backend.release(&grant2).await.unwrap();
    backend.release(&grant2).await.unwrap();
    assert_eq!(backend.holder(&lock).await.unwrap(), Occupancy::Free);
    let next = held(backend.acquire(&lock, &b, LONG).await.unwrap());
    assert!(next.token > grant.token);
    // The old term cannot touch it.
    backend.release(&grant2).await.unwrap();
    assert!(is_lost(&backend.renew(&grant2, Time::ZERO).await.unwrap()));
    renewed(backend.renew(&next, Time::ZERO).await.unwrap());
}

#[tokio::test]
async fn an_attempt_whose_answer_was_lost_is_adopted_or_withdrawn() {
    let Some(server) = start(&[]) else { return };
    let backend = server.connect().await;
    let lock = lock("lost-answers");
    let a = candidate("a", 1);
    let first = held(backend.acquire(&lock, &a, LONG).await.unwrap());
    server.command(&["PEXPIRE", "tenure:{lost-answers}", "5000"]);
    let again = held(backend.acquire(&lock, &a, LONG).await.unwrap());
    assert_eq!(again.token, first.token);
    assert!(again.proven_at > first.proven_at);
    assert!(
        server.number(&["PTTL", "tenure:{lost-answers}"]) > 5000,
        "a fresh lease"
    );

    // Another campaign of the same identity is another candidate.
    let other = candidate("a", 2);
    assert!(is_taken(
        &backend.acquire(&lock, &other, LONG).await.unwrap()
    ));
    backend.withdraw(&lock, &other).await.unwrap();
    renewed(backend.renew(&first, Time::ZERO).await.unwrap());

    backend.withdraw(&lock, &a).await.unwrap();
    assert_eq!(backend.holder(&lock).await.unwrap(), Occupancy::Free);
    backend.withdraw(&lock, &a).await.unwrap();
}

/// As forked workers have it that drew from one generator in memory: identities of their own, and
/// one campaign's number.
#[tokio::test]
async fn of_candidates_with_one_campaign_number_one_holds_the_lock() {
    let Some(server) = start(&[]) else { return };
    let backend = server.connect().await;
    let lock = lock("one-number");
    let key = "tenure:{one-number}";
    let value = |text: &str| PublishedValue::new(text).unwrap();
    // The beginning of another identity is not that identity.
    let [a, b, c] = ["a", "ab", "A"].map(|identity| candidate(identity, 1));
    let first = held(backend.acquire(&lock, &a, LONG).await.unwrap());
    for other in [&b, &c] {
        let Acquired::Taken { holder, .. } = backend.acquire(&lock, other, LONG).await.unwrap()
        else {
            panic!("two hold it");
        };
        assert_eq!(holder.unwrap().identity, "a");
        // A grant as the other would have it, had it adopted the lock.
        let stolen = Grant::new(
            lock.clone(),
            other.clone().with_value(value("theirs")),
            first.token,
            LONG,
            first.proven_at,
        );
        let Renewal::Lost { holder, .. } = backend.renew(&stolen, Time::ZERO).await.unwrap() else {
            panic!("two renew it");
        };
        assert_eq!(holder.unwrap().identity, "a");
        backend.release(&stolen).await.unwrap();
        backend.withdraw(&lock, other).await.unwrap();
        assert_eq!(server.number(&["EXISTS", key]), 1, "{other:?} ended it");
    }
    // The owner can do all of that, also with another lease and value than the server has.
    let mut changed = first.clone();
    changed.candidate.value = Some(value("a value  with spaces"));
    changed.lease = LONG / 2;
    let renewed_by_owner = renewed(backend.renew(&changed, Time::ZERO).await.unwrap());
    let adopted = held(
        backend
            .acquire(&lock, &changed.candidate, LONG)
            .await
            .unwrap(),
    );
    assert_eq!(adopted.token, first.token);
    backend.release(&renewed_by_owner).await.unwrap();
    let next = held(backend.acquire(&lock, &b, LONG).await.unwrap());
    assert!(next.token > first.token);
    backend.withdraw(&lock, &b).await.unwrap();
    assert_eq!(backend.holder(&lock).await.unwrap(), Occupancy::Free);
}

/// What the version before wrote, with a published value and without: its records name the
/// identity where this one's do, so a fleet can be updated one by one.
#[tokio::test]
async fn a_lock_that_the_version_before_has_written_is_its_owners() {
    let Some(server) = start(&[]) else { return };
    let backend = server.connect().await;
    let lock = lock("before");
    let key = "tenure:{before}";
    for value in ["a", "a http://a:1/ two  words"] {
        let record = format!("1 0000000000000001 77 {} {value}", LONG.as_millis());
        let put = || server.command(&["SET", key, &record, "PX", "600000"]);
        put();
        let [owner, other] = ["a", "b"].map(|identity| candidate(identity, 1));
        assert!(is_taken(
            &backend.acquire(&lock, &other, LONG).await.unwrap()
        ));
        backend.withdraw(&lock, &other).await.unwrap();
        let adopted = held(backend.acquire(&lock, &owner, LONG).await.unwrap());
        assert_eq!(adopted.token.as_u64(), 77);
        put();
        let adopted = renewed(backend.renew(&adopted, Time::ZERO).await.unwrap());
        put();
        backend.release(&adopted).await.unwrap();
        assert_eq!(server.number(&["EXISTS", key]), 0);
        put();
        backend.withdraw(&lock, &owner).await.unwrap();
        assert_eq!(server.number(&["EXISTS", key]), 0);
    }
}

#[tokio::test]
async fn a_deleted_lock_is_lost_and_never_written_by_a_renewal() {
    let Some(server) = start(&[]) else { return };
    let backend = server.connect().await;
    let lock = lock("deleted");
    let grant = held(
        backend
            .acquire(&lock, &candidate("a", 1), LONG)
            .await
            .unwrap(),
    );
    server.command(&["DEL", "tenure:{deleted}"]);
    let Renewal::Lost { holder: None, .. } = backend.renew(&grant, Time::ZERO).await.unwrap()
    else {
        panic!("there is no lock");
    };
    assert_eq!(server.number(&["EXISTS", "tenure:{deleted}"]), 0);
    backend.release(&grant).await.unwrap();
}

#[tokio::test]
async fn tokens_rise_over_release_expiry_deletion_and_the_loss_of_everything() {
    let Some(server) = start(&[]) else { return };
    let backend = server.connect().await;
    let lock = lock("tokens");
    let last = Cell::new(None);
    let campaign = Cell::new(0);
    let next = async || {
        campaign.set(campaign.get() + 1);
        let a = candidate("a", campaign.get());
        let grant = held(
            backend
                .acquire(&lock, &a, Duration::from_millis(100))
                .await
                .unwrap(),
        );
        assert!(
            Some(grant.token) > last.get(),
            "{:?} after {last:?}",
            grant.token
        );
        last.set(Some(grant.token));
        grant
    };
    for _ in 0..10 {
        let grant = next().await;
        backend.release(&grant).await.unwrap();
    }
    next().await;
    until("the lease has ended", async || {
        server.number(&["EXISTS", "tenure:{tokens}"]) == 0
    })
    .await;
    next().await;
    server.command(&["DEL", "tenure:{tokens}"]);
    next().await;
    // Not only the lock, the counter too: the server's clock has gone on.
    server.clock_is_past(last.get().unwrap()).await;
    server.command(&["FLUSHALL"]);
    next().await;
    server.command(&["DEL", "tenure:{tokens}"]);
    // A counter ahead of the clock goes on by ones.
    server.command(&["SET", "tenure:{tokens}:fence", "99999999999999"]);
    assert_eq!(next().await.token.as_u64(), 100_000_000_000_000);
}

/// Also in the tenth of each second in which the server's microseconds have fewer digits.
#[tokio::test]
async fn the_first_token_of_a_lock_is_the_time_of_the_server() {
    let Some(server) = start(&[]) else { return };
    let backend = server.connect().await;
    let now = || {
        let time = server.text(&["TIME"]);
        let (seconds, micros) = time.split_once(' ').unwrap();
        (
            seconds.parse::<u64>().unwrap(),
            micros.parse::<u64>().unwrap(),
        )
    };
    let tenths_of_millis = |(seconds, micros)| seconds * 10_000 + micros / 100;
    let (mut few_digits, mut many_digits) = (0, 0);
    let begin = Instant::now();
    for number in 0.. {
        assert!(
            begin.elapsed() < tenure_testkit::LIMIT,
            "no token in each part of a second"
        );
        let name = lock(&format!("first-{number}"));
        let before = now();
        let acquired = backend.acquire(&name, &candidate("a", number), LONG).await;
        let after = now();
        let token = held(acquired.unwrap()).token.as_u64();
        assert!(tenths_of_millis(before) <= token && token <= tenths_of_millis(after));
        match (before, after) {
            ((one, _), (other, micros)) if one == other && micros < 100_000 => few_digits += 1,
            ((_, micros), (..)) if micros >= 100_000 => many_digits += 1,
            _ => {}
        }
        if few_digits >= 3 && many_digits >= 3 {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_candidates_one_holds_the_lock_at_a_time() {
    let Some(server) = start(&[]) else { return };
    let backend = server.connect().await;
    let lock = lock("contention");
    let holders = Arc::new(std::sync::atomic::AtomicU32::new(0));
    let tasks: Vec<_> = (0..50)
        .map(|number| {
            let (backend, lock, holders) = (backend.clone(), lock.clone(), holders.clone());
            tokio::spawn(async move {
                let mut tokens = Vec::new();
                let mut campaign = number * 1000;
                while tokens.len() < 3 {
                    let mut changes = backend.changes(&lock);
                    campaign += 1;
                    let me = candidate("same", campaign);
                    let grant = loop {
                        match backend.acquire(&lock, &me, LONG).await.unwrap() {
                            Acquired::Held(grant) => break grant,
                            _ => {
                                assert_eq!(changes.next().await, Some(Hint::MayBeFree));
                            }
                        }
                    };
                    assert_eq!(holders.fetch_add(1, std::sync::atomic::Ordering::SeqCst), 0);
                    renewed(backend.renew(&grant, Time::ZERO).await.unwrap());
                    tokens.push(grant.token);
                    assert_eq!(holders.fetch_sub(1, std::sync::atomic::Ordering::SeqCst), 1);
                    backend.release(&grant).await.unwrap();
                }
                tokens
            })
        })
        .collect();
    let mut all = HashSet::new();
    for task in tasks {
        for token in within_limit("all candidates to win", task).await.unwrap() {
            assert!(all.insert(token));
        }
    }
    assert_eq!(all.len(), 150);
}

#[tokio::test]
async fn an_acquire_dropped_at_any_await_leaves_nothing_that_withdraw_does_not_take_back() {
    let Some(server) = start(&[]) else { return };
    let backend = server.connect().await;
    let lock = lock("dropped");
    for polls in 0..12 {
        let me = candidate("a", polls);
        let mut attempt = backend.acquire(&lock, &me, LONG);
        for _ in 0..polls {
            let done = poll_fn(|cx| Poll::Ready(attempt.as_mut().poll(cx).is_ready())).await;
            if done {
                break;
            }
            tokio::task::yield_now().await;
        }
        drop(attempt);
        backend.withdraw(&lock, &me).await.unwrap();
        assert_eq!(
            backend.holder(&lock).await.unwrap(),
            Occupancy::Free,
            "after {polls} polls"
        );
    }
}

#[tokio::test]
async fn an_answer_that_nobody_waits_for_any_more_is_a_sign_of_life() {
    let Some(server) = start(&[]) else { return };
    let backend = server.connect().await;
    let lock = lock("dropped-and-answered");
    // So that the server knows the scripts.
    let grant = backend.acquire(&lock, &candidate("a", 0), LONG).await;
    backend.release(&held(grant.unwrap())).await.unwrap();
    let me = candidate("a", 1);
    // The connection on which scripts are run.
    let ours = || {
        let list = server.text(&["CLIENT", "LIST"]);
        let ids = list.lines().filter(|line| line.contains("cmd=eval"));
        ids.map(|line| line.split(' ').next().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    let before = ours();
    assert!(!before.is_empty());

    let mut attempt = backend.acquire(&lock, &me, LONG);
    let sent = Instant::now();
    let done = poll_fn(|cx| Poll::Ready(attempt.as_mut().poll(cx).is_ready())).await;
    assert!(!done);
    until("it has been answered", async || {
        server.number(&["EXISTS", "tenure:{dropped-and-answered}"]) == 1
    })
    .await;
    drop(attempt);
    until("as long as silence is borne", async || {
        sent.elapsed() > Duration::from_millis(150)
    })
    .await;

    // On the same connection, where it cannot overtake what was dropped.
    backend.withdraw(&lock, &me).await.unwrap();
    assert_eq!(ours(), before);
    assert_eq!(backend.holder(&lock).await.unwrap(), Occupancy::Free);
}

#[tokio::test]
async fn a_published_value_is_written_when_it_changes_and_not_otherwise() {
    let Some(server) = start(&[]) else { return };
    let backend = server.connect().await;
    let lock = lock("value");
    let mut grant = held(
        backend
            .acquire(&lock, &candidate("a", 1), LONG)
            .await
            .unwrap(),
    );
    let value = async || match backend.holder(&lock).await.unwrap() {
        Occupancy::Led(holder) => holder.value,
        other => panic!("{other:?}"),
    };
    assert_eq!(value().await, None);
    for text in ["first", "", "second"] {
        grant.candidate.value = Some(PublishedValue::new(text).unwrap());
        grant = renewed(backend.renew(&grant, Time::ZERO).await.unwrap());
        assert_eq!(value().await.as_deref(), Some(text));
        let before = server.text(&["INFO", "commandstats"]);
        grant = renewed(backend.renew(&grant, Time::ZERO).await.unwrap());
        let sets = |stats: &str| {
            let line = stats.lines().find(|line| line.starts_with("cmdstat_set:"));
            line.map(str::to_owned)
        };
        assert_eq!(sets(&server.text(&["INFO", "commandstats"])), sets(&before));
    }
    grant.candidate.value = None;
    renewed(backend.renew(&grant, Time::ZERO).await.unwrap());
    assert_eq!(value().await, None);
}

#[tokio::test]
async fn scripts_survive_being_forgotten() {
    let Some(server) = start(&[]) else { return };
    let backend = server.connect().await;
    let lock = lock("scripts");
    let mut grant = held(
        backend
            .acquire(&lock, &candidate("a", 1), LONG)
            .await
            .unwrap(),
    );
    for _ in 0..3 {
        server.command(&["SCRIPT", "FLUSH"]);
        grant = renewed(backend.renew(&grant, Time::ZERO).await.unwrap());
    }
    server.command(&["SCRIPT", "FLUSH"]);
    backend.release(&grant).await.unwrap();
}

#[tokio::test]
async fn leases_out_of_range_are_refused_before_any_request() {
    let Some(server) = start(&[]) else { return };
    let backend = server.connect().await;
    let lock = lock("range");
    let me = candidate("a", 1);
    for lease in [
        Duration::ZERO,
        Duration::from_micros(900),
        Duration::from_secs(4000),
    ] {
        let error = backend.acquire(&lock, &me, lease).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
    }
    assert_eq!(server.number(&["DBSIZE"]), 0);
}

#[tokio::test]
async fn what_others_have_written_is_no_panic_and_no_wedge() {
    let Some(server) = start(&[]) else { return };
    let backend = server.connect().await;
    let lock = lock("foreign");
    let key = "tenure:{foreign}";
    let me = candidate("a", 1);

    // Of a later version, or of something else: somebody has it until it expires.
    for value in ["2 what ever", "", "1 ab", "{\"v\":3}"] {
        server.command(&["SET", key, value, "PX", "50000"]);
        let Acquired::Taken {
            holder: None,
            free_in,
            ..
        } = backend.acquire(&lock, &me, LONG).await.unwrap()
        else {
            panic!("{value:?} was taken over");
        };
        assert!(free_in.unwrap() <= Duration::from_millis(50_001));
    }
    // It may go at any time, and nobody would tell.
    for value in [
        "foreign",
        "1 ab 5 soon x",
        "1 ab 5 0 x",
        "1 ab 5 2145916800000 x",
    ] {
        server.command(&["SET", key, value, "PX", "2145916800000"]);
        let Acquired::Taken { free_in, .. } = backend.acquire(&lock, &me, LONG).await.unwrap()
        else {
            panic!("{value:?} was taken over");
        };
        assert!(
            free_in.unwrap() <= LONG + Duration::from_millis(1),
            "{value:?}"
        );
    }
    // Without an expiry it would be so for ever.
    server.command(&["SET", key, "something else"]);
    let error = backend.acquire(&lock, &me, LONG).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupted);
    assert!(
        error.to_string().contains("DEL \"tenure:{foreign}\""),
        "{error}"
    );
    assert_eq!(
        backend.holder(&lock).await.unwrap_err().kind(),
        ErrorKind::Corrupted
    );
    // Another type.
    server.command(&["DEL", key]);
    server.command(&["LPUSH", key, "x"]);
    let error = backend.acquire(&lock, &me, LONG).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupted, "{error}");
    server.command(&["DEL", key]);
    // A counter that is none, or beyond all tokens.
    for counter in ["x", "-3", "281474976710655", "99999999999999999999"] {
        server.command(&["SET", "tenure:{foreign}:fence", counter]);
        let error = backend.acquire(&lock, &me, LONG).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupted, "{counter}: {error}");
        assert_eq!(backend.holder(&lock).await.unwrap(), Occupancy::Free);
    }
    server.command(&["DEL", "tenure:{foreign}:fence"]);
    // Ours, but somebody has taken the expiry away: it gets one again.
    let short = Duration::from_millis(200);
    held(
        backend
            .acquire(&lock, &candidate("b", 2), short)
            .await
            .unwrap(),
    );
    server.command(&["PERSIST", key]);
    let Acquired::Taken { free_in, .. } = backend.acquire(&lock, &me, LONG).await.unwrap() else {
        panic!("it was held");
    };
    assert!(free_in.unwrap() <= short + Duration::from_millis(1));
    until("it is free", async || {
        !is_taken(&backend.acquire(&lock, &me, LONG).await.unwrap())
    })
    .await;
    // A lease of 68 years.
    server.command(&["SET", key, "1 00000000000000ff 5 2145916800000 old"]);
    let Acquired::Taken { free_in, .. } = backend
        .acquire(&lock, &candidate("c", 3), LONG)
        .await
        .unwrap()
    else {
        panic!("it was held");
    };
    assert!(free_in.unwrap() <= Duration::from_millis(3_600_001));
}

#[tokio::test]
async fn waiters_are_told_of_a_release_and_of_each_subscription() {
    let Some(server) = start(&[]) else { return };
    let backend = server.connect().await;
    let other = server.connect().await;
    let lock = lock("hints");
    let grant = held(
        backend
            .acquire(&lock, &candidate("a", 1), LONG)
            .await
            .unwrap(),
    );
    let mut changes = other.changes(&lock);
    let mut unrelated = other.changes(&tenure_testkit::lock("unrelated"));
    let hint = async |changes: &mut tenure_core::Changes| {
        within_limit("a hint", changes.next()).await.unwrap()
    };
    assert_eq!(hint(&mut changes).await, Hint::MayBeFree);
    assert_eq!(hint(&mut unrelated).await, Hint::MayBeFree);

    backend.release(&grant).await.unwrap();
    assert_eq!(hint(&mut changes).await, Hint::MayBeFree);
    // Both are on one connection, and a lost one is made anew.
    assert_eq!(server.number(&["CLIENT", "KILL", "TYPE", "pubsub"]), 1);
    assert_eq!(hint(&mut changes).await, Hint::MayBeFree);
    assert_eq!(hint(&mut unrelated).await, Hint::MayBeFree);
    assert_eq!(
        server.text(&["PUBSUB", "NUMSUB", "tenure:{hints}:released"]),
        "tenure:{hints}:released 1"
    );

    drop(unrelated);
    until("the channel is given up", async || {
        server.text(&["PUBSUB", "CHANNELS"]) == "tenure:{hints}:released"
    })
    .await;
    drop(changes);
    until("the connection is closed", async || {
        server
            .text(&["CLIENT", "LIST", "TYPE", "pubsub"])
            .is_empty()
    })
    .await;
    // And opened again when somebody waits again.
    let mut changes = other.changes(&lock);
    assert_eq!(hint(&mut changes).await, Hint::MayBeFree);
}

#[tokio::test]
async fn the_moment_at_which_a_lease_ends_is_told_and_true() {
    let Some(server) = start(&[]) else { return };
    let backend = server.connect().await;
    let lock = lock("expiry");
    for round in 0..20 {
        let (a, b) = (candidate("a", 2 * round), candidate("b", 2 * round + 1));
        let lease = Duration::from_millis(20);
        held(backend.acquire(&lock, &a, lease).await.unwrap());
        match backend.acquire(&lock, &b, lease).await.unwrap() {
            Acquired::Taken { free_in, .. } => {
                tokio::time::sleep(free_in.unwrap()).await;
                let grant = held(backend.acquire(&lock, &b, lease).await.unwrap());
                backend.release(&grant).await.unwrap();
            }
            // The machine was slow.
            Acquired::Held(grant) => backend.release(&grant).await.unwrap(),
            other => panic!("{other:?}"),
        }
    }
}
