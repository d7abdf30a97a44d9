//! The contract, point by point, on a real server.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a failed unwrap is a failed test"
)]

mod support;

use std::time::Duration;

use futures_util::{FutureExt as _, StreamExt as _};
use support::Connects as _;
use tenure_core::{
    ErrorKind, Hint, LockBackend as _, LockName, Occupancy, PublishedValue, Renewal, Time, Verdict,
};
use tenure_postgres::{AdvisoryKey, PostgresBackend, PostgresConfig};
use tenure_testkit::postgres::{NO_LOCKS, start, until};
use tenure_testkit::{
    LIMIT, LONG, candidate, held, is_taken, leader, lock, renewed, taken, wait, win, within_limit,
};

#[tokio::test]
async fn one_holder_and_adoption_and_release() {
    let Some(server) = start(&[]) else { return };
    let (a, b) = (server.connect().await, server.connect().await);
    let name = lock("batch");
    let (ann, bob) = (candidate("ann", 1), candidate("bob", 2));

    assert_eq!(b.holder(&name).await.unwrap(), Occupancy::Free);
    let grant = held(a.acquire(&name, &ann, LONG).await.unwrap());
    assert_eq!(grant.lease, LONG);
    assert_eq!(
        taken(b.acquire(&name, &bob, LONG).await.unwrap())
            .unwrap()
            .identity,
        "ann"
    );
    // Another campaign of the same candidate, on the same session.
    let again = candidate("ann", 3);
    assert_eq!(
        taken(a.acquire(&name, &again, LONG).await.unwrap())
            .unwrap()
            .identity,
        "ann"
    );

    let adopted = held(a.acquire(&name, &ann, LONG).await.unwrap());
    assert!(adopted.proven_at > grant.proven_at);
    a.release(&adopted).await.unwrap();
    a.release(&adopted).await.unwrap();
    assert_eq!(b.holder(&name).await.unwrap(), Occupancy::Free);

    let next = held(b.acquire(&name, &bob, LONG).await.unwrap());
    assert!(next.token > grant.token);
    // The predecessor touches nothing.
    a.release(&grant).await.unwrap();
    a.withdraw(&name, &ann).await.unwrap();
    assert!(matches!(
        a.renew(&grant, Time::ZERO).await.unwrap(),
        Renewal::Lost { .. }
    ));
    renewed(b.renew(&next, b.clock().now()).await.unwrap());
    b.withdraw(&name, &bob).await.unwrap();
    until(&server.admin().await, NO_LOCKS).await;
}

/// Two processes can draw the same number: a virtual machine that was cloned with its memory.
#[tokio::test]
async fn candidates_with_the_same_campaign_number_are_two() {
    let Some(server) = start(&[]) else { return };
    let backend = server.connect().await;
    // From the fifth identity on they share a session, which holds the locks of all of them.
    for other in ["other-0", "other-1", "other-2", "other-3"] {
        let (name, other) = (lock(other), candidate(other, 1));
        held(backend.acquire(&name, &other, LONG).await.unwrap());
    }
    let name = lock("batch");
    let (ann, bob) = (candidate("ann", 1), candidate("bob", 1));
    let grant = held(backend.acquire(&name, &ann, LONG).await.unwrap());
    let holder = taken(backend.acquire(&name, &bob, LONG).await.unwrap());
    assert_eq!(holder.unwrap().identity, "ann");
    let elsewhere = server.connect().await;
    taken(elsewhere.acquire(&name, &bob, LONG).await.unwrap());

    // Nor does one touch the other's term, from whatever session.
    let mut forged = grant.clone();
    forged.candidate = bob.clone();
    let renewal = backend.renew(&forged, Time::ZERO).await.unwrap();
    assert!(matches!(renewal, Renewal::Lost { .. }), "{renewal:?}");
    backend.release(&forged).await.unwrap();
    for stranger in [&bob, &candidate("other-0", 1)] {
        backend.withdraw(&name, stranger).await.unwrap();
    }
    let grant = renewed(backend.renew(&grant, backend.clock().now()).await.unwrap());
    taken(elsewhere.acquire(&name, &bob, LONG).await.unwrap());
    backend.release(&grant).await.unwrap();
    let next = held(backend.acquire(&name, &bob, LONG).await.unwrap());
    assert!(next.token > grant.token);
}

#[tokio::test]
async fn observers_learn_token_and_value_without_a_table() {
    let Some(server) = start(&[]) else { return };
    let (a, b) = (server.connect().await, server.connect().await);
    let name = lock("batch");
    let identity = "a-very-long-identity-".repeat(8);
    let value = |text| PublishedValue::new(text).unwrap();
    let ann = candidate(&identity, 1).with_value(value("http://one/ -="));

    let mut grant = held(a.acquire(&name, &ann, LONG).await.unwrap());
    // Connected after the announcement: the holder is asked. Its answer may come after the look,
    // which then tells no more than the server knows.
    wait::until("its identity, token and value are seen", async || {
        let seen = leader(b.holder(&name).await.unwrap());
        seen.identity == identity
            && seen.token == Some(grant.token)
            && seen.value.as_deref() == Some("http://one/ -=")
    })
    .await;

    grant.candidate.value = Some(value("two"));
    let grant = renewed(a.renew(&grant, Time::ZERO).await.unwrap());
    wait::until("the new value is seen", async || {
        let seen = leader(b.holder(&name).await.unwrap());
        seen.value.as_deref() == Some("two")
    })
    .await;
    assert_eq!(
        leader(a.holder(&name).await.unwrap()).value.as_deref(),
        Some("two")
    );
    a.release(&grant).await.unwrap();
    assert_eq!(b.holder(&name).await.unwrap(), Occupancy::Free);
}

#[tokio::test]
async fn other_programs_join_by_the_key() {
    let Some(server) = start(&[]) else { return };
    let admin = server.admin().await;
    let name = lock("nightly-batch");
    let row = admin
        .query_one(
            "select ('x' || left(encode(sha256('tenure:nightly-batch'), 'hex'), 16))::bit(64)::bigint",
            &[],
        )
        .await
        .unwrap();
    assert_eq!(AdvisoryKey::of(&name), AdvisoryKey::Big(row.get(0)));

    for config in [
        server.config(),
        server.config().key_class(7).unwrap(),
        server
            .config()
            .key(name.clone(), AdvisoryKey::Pair(-1, -2))
            .unwrap(),
    ] {
        let backend = PostgresBackend::connect(config).await.unwrap();
        let key = backend.key_of(&name);
        admin
            .execute(&format!("select pg_advisory_lock({key})"), &[])
            .await
            .unwrap();
        let ann = candidate("ann", 1);
        let holder = taken(backend.acquire(&name, &ann, LONG).await.unwrap());
        assert_eq!(holder.unwrap().identity, "admin");
        let seen = leader(backend.holder(&name).await.unwrap());
        assert_eq!((seen.identity.as_str(), seen.token), ("admin", None));
        admin
            .execute(&format!("select pg_advisory_unlock({key})"), &[])
            .await
            .unwrap();
        let grant = held(backend.acquire(&name, &ann, LONG).await.unwrap());
        renewed(backend.renew(&grant, backend.clock().now()).await.unwrap());
        backend.release(&grant).await.unwrap();
    }
}

/// Keys of other programs, whose names are no lock names here: the URL joins each by its key.
#[tokio::test]
async fn elections_of_others_are_joined_by_their_keys() {
    let Some(server) = start(&[]) else { return };
    let admin = server.admin().await;
    let name = lock("leader");
    for key in ["42", "-9223372036854775808", "7,42", "-1,-2"] {
        let url = format!("{}&lock_key=leader:{key}", server.url());
        let config = PostgresConfig::from_url(&url).unwrap();
        let backend = PostgresBackend::connect(config).await.unwrap();
        let take = format!("SELECT pg_advisory_lock({key})");
        admin.batch_execute(&take).await.unwrap();
        // Who looks sees who has it, and so does the candidate that waits for it.
        let seen = leader(backend.holder(&name).await.unwrap());
        assert_eq!(seen.identity, "admin");
        let ann = candidate("ann", 1);
        assert!(is_taken(&backend.acquire(&name, &ann, LONG).await.unwrap()));
        let checks = backend.checks(&name, LONG).await;
        assert!(
            checks.iter().all(|check| check.verdict == Verdict::Fine),
            "{checks:?}"
        );
        let free = format!("SELECT pg_advisory_unlock({key})");
        admin.batch_execute(&free).await.unwrap();
        let grant = held(backend.acquire(&name, &ann, LONG).await.unwrap());
        let try_it = format!("SELECT pg_try_advisory_lock({key})");
        let row = admin.query_one(&try_it, &[]).await.unwrap();
        assert!(!row.get::<_, bool>(0), "{key} is ours");
        backend.release(&grant).await.unwrap();
    }
    for wrong in ["x", "1,2,3", "", "1952804469,1", "9223372036854775808"] {
        let url = format!("{}&lock_key=leader:{wrong}", server.url());
        let error = PostgresConfig::from_url(&url).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    }
}

#[tokio::test]
async fn colliding_names_are_told() {
    let Some(server) = start(&[]) else { return };
    let (one, two) = (lock("one"), lock("two"));
    let named = |config: PostgresConfig, name: &LockName, key| {
        config.key(name.clone(), AdvisoryKey::Big(key))
    };
    // Two names of one process that mean one key.
    let own = named(server.config(), &one, 5).unwrap();
    let told = named(own.clone(), &two, 5).unwrap_err();
    assert_eq!(told.kind(), ErrorKind::InvalidInput, "{told}");
    let AdvisoryKey::Big(made) = AdvisoryKey::of(&two) else {
        panic!("not the default");
    };
    let meets = named(server.config(), &one, made).unwrap();
    let backend = PostgresBackend::connect(meets).await.unwrap();
    let told = backend.acquire(&two, &candidate("ann", 2), LONG).await;
    for told in [told.unwrap_err(), backend.holder(&two).await.unwrap_err()] {
        assert_eq!(told.kind(), ErrorKind::InvalidInput, "{told}");
        assert!(told.message().contains("one and two") || told.message().contains("two and one"));
    }
    let checks = backend.checks(&two, LONG).await;
    assert_eq!(checks[0].verdict, Verdict::Unusable, "{checks:?}");
    // Names of two processes.
    let a = PostgresBackend::connect(own).await.unwrap();
    let other = named(server.config(), &two, 5).unwrap();
    let b = PostgresBackend::connect(other).await.unwrap();
    let _grant = held(a.acquire(&one, &candidate("ann", 1), LONG).await.unwrap());
    let told = b.holder(&two).await.unwrap_err();
    assert_eq!(told.kind(), ErrorKind::Misconfigured);
    assert!(told.message().contains("same advisory key"), "{told}");
}

#[tokio::test]
async fn a_dropped_acquire_leaves_neither_lock_nor_waiter() {
    let Some(server) = start(&[]) else { return };
    let admin = server.admin().await;
    let backend = server.connect().await;
    let ann = candidate("ann", 1);
    for polls in 0..200 {
        // A session of its own for the first: the drop hits the connecting, too.
        let lease = if polls < 5 { LONG / (2 + polls) } else { LONG };
        let name = lock("dropped");
        let mut acquiring = backend.acquire(&name, &ann, lease);
        let mut finished = false;
        for _ in 0..polls {
            finished = acquiring.as_mut().now_or_never().is_some();
            if finished {
                break;
            }
            tokio::task::yield_now().await;
        }
        drop(acquiring);
        if finished {
            backend.withdraw(&name, &ann).await.unwrap();
        }
        until(&admin, NO_LOCKS).await;
    }
    let grant = held(backend.acquire(&lock("dropped"), &ann, LONG).await.unwrap());
    backend.release(&grant).await.unwrap();
    until(&admin, NO_LOCKS).await;
}

#[tokio::test]
async fn an_abandoned_grant_is_not_kept_alive_by_others() {
    let Some(server) = start(&[]) else { return };
    let admin = server.admin().await;
    let (a, b) = (server.connect().await, server.connect().await);
    let lease = Duration::from_secs(2);
    let (kept, abandoned) = (lock("kept"), lock("abandoned"));
    let _abandoned = held(
        a.acquire(&abandoned, &candidate("ann", 1), lease)
            .await
            .unwrap(),
    );
    let mut grant = held(a.acquire(&kept, &candidate("ann", 2), lease).await.unwrap());
    let won = async { win(&b, &abandoned, &candidate("bob", 3)).await };
    let mut won = Box::pin(won);
    // The heartbeats of the other term go on all the while.
    loop {
        tokio::select! {
            _grant = &mut won => break,
            () = tokio::time::sleep(lease / 20) => {
                grant = renewed(a.renew(&grant, a.clock().now()).await.unwrap());
            }
        }
    }
    renewed(a.renew(&grant, a.clock().now()).await.unwrap());
    let one = "SELECT count(*) = 2 FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 1";
    until(&admin, one).await;
}

/// Elections of several runtimes may share a session, and one of these may be blocked.
#[tokio::test]
async fn a_renewal_that_is_polled_no_more_holds_up_no_other_term() {
    let Some(server) = start(&[]) else { return };
    let backend = server.connect().await;
    let (x, y, ann) = (lock("x"), lock("y"), candidate("ann", 1));
    let mut left_alone = win(&backend, &x, &ann).await;
    let other = win(&backend, &y, &ann).await;
    let renew_other = async || {
        let now = backend.clock().now();
        let renewing = within_limit("the other term", backend.renew(&other, now));
        renewed(renewing.await.unwrap())
    };
    // It has something to announce when it is proven.
    left_alone.candidate.value = Some(PublishedValue::new("news").unwrap());
    let now = backend.clock().now();
    let mut renewing = Box::pin(backend.renew(&left_alone, now));
    assert!((&mut renewing).now_or_never().is_none());
    renew_other().await;
    assert!((&mut renewing).now_or_never().is_none());
    let transaction = within_limit("a transaction", backend.begin(&y, other.token)).await;
    transaction.unwrap().commit().await.unwrap();
    renew_other().await;
    renewed(renewing.await.unwrap());
}

#[tokio::test]
async fn a_session_that_is_ended_is_lost_at_once_and_the_waiters_wake() {
    let Some(server) = start(&[]) else { return };
    let admin = server.admin().await;
    let (a, b) = (server.connect().await, server.connect().await);
    let name = lock("batch");
    let (ann, bob) = (candidate("ann", 1), candidate("bob", 2));
    let grant = held(a.acquire(&name, &ann, LONG).await.unwrap());
    let mut changes = b.changes(&name);
    taken(b.acquire(&name, &bob, LONG).await.unwrap());
    // The waiter's second session waits for the end of the holder's.
    until(
        &admin,
        "SELECT count(*) = 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted",
    )
    .await;
    let query =
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'ann'";
    assert_eq!(admin.query(query, &[]).await.unwrap().len(), 1);
    loop {
        let hint = tokio::time::timeout(LIMIT, changes.next()).await.unwrap();
        if hint == Some(Hint::MayBeFree) {
            break;
        }
    }
    let next = win(&b, &name, &bob).await;
    assert!(next.token > grant.token);
    // Lost, without an error, also when asked for no fresh proof.
    let lost = async {
        while let Renewal::Renewed(_) = a.renew(&grant, Time::ZERO).await.unwrap() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LIMIT, lost).await.unwrap();
    a.release(&grant).await.unwrap();
    renewed(b.renew(&next, b.clock().now()).await.unwrap());
    // And the loser can be a candidate again.
    b.release(&next).await.unwrap();
    win(&a, &name, &ann).await;
}

#[tokio::test]
async fn a_release_wakes_without_a_watching_session() {
    let Some(server) = start(&[]) else { return };
    let a = server.connect().await;
    let b = PostgresBackend::connect(server.config().watch_sessions(0))
        .await
        .unwrap();
    let name = lock("batch");
    let grant = held(a.acquire(&name, &candidate("ann", 1), LONG).await.unwrap());
    let mut changes = b.changes(&name);
    taken(b.acquire(&name, &candidate("bob", 2), LONG).await.unwrap());
    a.release(&grant).await.unwrap();
    while tokio::time::timeout(LIMIT, changes.next()).await.unwrap() != Some(Hint::MayBeFree) {}
    held(b.acquire(&name, &candidate("bob", 2), LONG).await.unwrap());
    let admin = server.admin().await;
    until(
        &admin,
        "SELECT count(*) = 0 FROM pg_locks WHERE NOT granted",
    )
    .await;
}

#[tokio::test]
async fn a_guarded_transaction_commits_only_for_the_holder() {
    let Some(server) = start(&[]) else { return };
    let admin = server.admin().await;
    admin
        .batch_execute("CREATE TABLE sums (n int8)")
        .await
        .unwrap();
    let backend = server.connect().await;
    let name = lock("batch");
    let grant = held(
        backend
            .acquire(&name, &candidate("ann", 1), LONG)
            .await
            .unwrap(),
    );

    let mut transaction = backend.begin(&name, grant.token).await.unwrap();
    transaction
        .execute("INSERT INTO sums VALUES ($1)", &[&1_i64])
        .await
        .unwrap();
    transaction.commit().await.unwrap();

    // Dropped, or failed: nothing is written, and the session is as before.
    let mut transaction = backend.begin(&name, grant.token).await.unwrap();
    transaction
        .execute("INSERT INTO sums VALUES (2)", &[])
        .await
        .unwrap();
    drop(transaction);
    let mut transaction = backend.begin(&name, grant.token).await.unwrap();
    transaction
        .execute("INSERT INTO sums VALUES (3)", &[])
        .await
        .unwrap();
    transaction
        .execute("INSERT INTO nowhere VALUES (3)", &[])
        .await
        .unwrap_err();
    transaction.commit().await.unwrap_err();
    renewed(backend.renew(&grant, backend.clock().now()).await.unwrap());

    // The session ends in the middle.
    let mut transaction = backend.begin(&name, grant.token).await.unwrap();
    transaction
        .execute("INSERT INTO sums VALUES (4)", &[])
        .await
        .unwrap();
    let query =
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'ann'";
    admin.query(query, &[]).await.unwrap();
    let error = transaction.commit().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    let error = backend.begin(&name, grant.token).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    let rows = admin.query("SELECT n FROM sums", &[]).await.unwrap();
    assert_eq!(rows.iter().map(|row| row.get(0)).collect::<Vec<i64>>(), [1]);
}

#[tokio::test]
async fn tokens_come_from_a_sequence_where_one_is_named() {
    let Some(server) = start(&[]) else { return };
    let config = server.config().token_sequence("public.fence");
    let backend = PostgresBackend::connect(config).await.unwrap();
    let name = lock("batch");
    let ann = candidate("ann", 1);
    let error = backend.acquire(&name, &ann, LONG).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Misconfigured, "{error}");
    let admin = server.admin().await;
    until(&admin, NO_LOCKS).await;
    admin
        .batch_execute("CREATE SEQUENCE fence START 41")
        .await
        .unwrap();
    for expected in [41, 42] {
        let grant = held(backend.acquire(&name, &ann, LONG).await.unwrap());
        assert_eq!(grant.token.as_u64(), expected);
        backend.release(&grant).await.unwrap();
    }
}

#[tokio::test]
async fn sequences_whose_numbers_can_fall_are_refused() {
    let Some(server) = start(&[]) else { return };
    let admin = server.admin().await;
    let sequences = [
        ("SEQUENCE cached CACHE 20", "cached", "CACHE 1"),
        ("SEQUENCE down INCREMENT -1", "down", "INCREMENT 1"),
        ("SEQUENCE round MAXVALUE 3 CYCLE", "round", "NO CYCLE"),
        ("UNLOGGED SEQUENCE lost", "lost", "UNLOGGED"),
        (
            "TABLE no_sequence (n int)",
            "no_sequence",
            "CREATE SEQUENCE",
        ),
    ];
    for (create, name, remedy) in sequences {
        admin
            .batch_execute(&format!("CREATE {create}"))
            .await
            .unwrap();
        let config = server.config().token_sequence(format!("public.{name}"));
        let backend = PostgresBackend::connect(config).await.unwrap();
        let ann = candidate("ann", 1);
        let error = backend
            .acquire(&lock("batch"), &ann, LONG)
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Misconfigured, "{error}");
        assert!(error.to_string().contains(remedy), "{error}");
        let checks = backend.checks(&lock("batch"), LONG).await;
        let check = checks.iter().find(|check| check.name == "token sequence");
        let check = check.unwrap();
        assert_eq!(check.verdict, Verdict::Unusable, "{check:?}");
    }
}
