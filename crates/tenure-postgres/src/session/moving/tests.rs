//! Sessions whose connection falls silent, on a real server.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::FutureExt as _;
use tenure_core::{Candidate, Election, Grant, LockBackend as _, LockName, Policy, Time};
use tenure_kit::Tasks;
use tenure_testkit::postgres::{Server, start, start_another_cluster, until};
use tenure_testkit::wait::{until_seen, within_limit};
use tenure_testkit::{LONG, candidate, free_port, held, is_lost, is_taken, leader, lock, renewed};
use tokio::task::JoinHandle;
use tokio_postgres::Client;

use super::rival::Rival;
use super::wire::Wire;
use super::*;
use crate::backend::PostgresBackend;
use crate::config::PostgresConfig;

/// Connections of a lease of this length are tried one and a half seconds after each other.
const LEASE: Duration = Duration::from_secs(60);

async fn win(backend: &PostgresBackend, name: &LockName, who: &Candidate) -> Grant {
    held(backend.acquire(name, who, LEASE).await.unwrap())
}

/// The session that holds the lock.
fn session_of(backend: &PostgresBackend, name: &LockName) -> Arc<Session> {
    let key = backend.key_of(name);
    let sessions = backend.inner.registry.sessions().into_iter();
    let mut holding = sessions.filter(|session| session.locks.holds(key));
    holding.next().unwrap()
}

fn pid_of(backend: &PostgresBackend, name: &LockName) -> i32 {
    session_of(backend, name).connection().pid
}

/// A renewal that is sent now, by a task of its own.
fn renewing(backend: &PostgresBackend, grant: &Grant) -> JoinHandle<tenure_core::Renewal> {
    let (backend, grant) = (backend.clone(), grant.clone());
    tokio::spawn(async move {
        let now = backend.clock().now();
        backend.renew(&grant, now).await.unwrap()
    })
}

/// What the engine says when a heartbeat has no answer in its time.
async fn say_overdue(backend: &PostgresBackend) {
    until_seen("a heartbeat is overdue", || backend.may_go_on(Time::ZERO)).await;
}

async fn answer(renewing: JoinHandle<tenure_core::Renewal>) -> tenure_core::Renewal {
    within_limit("the answer to a renewal", renewing)
        .await
        .unwrap()
}

async fn until_ended(admin: &Client, pid: i32) {
    let gone = format!("SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = {pid})");
    until(admin, &gone).await;
}

/// Tries once, as a heartbeat does that is overdue.
async fn try_once(session: &Session) -> Result<(), StoreError> {
    within_limit("a move", session.try_to_move(&session.statements())).await
}

#[tokio::test]
async fn a_term_goes_on_in_another_session_over_a_silent_outage() {
    let Some(server) = start(&[]) else { return };
    let (wire, admin) = (Wire::to(&server).await, server.admin().await);
    let backend = wire.connect().await;
    let (name, ann) = (lock("batch"), candidate("ann", 1));
    let grant = win(&backend, &name, &ann).await;
    let rival = Rival::start(&server, &backend, &name).await;
    let mut loss = backend.loss(&grant).unwrap();
    let left = pid_of(&backend, &name);

    wire.lose();
    let renewing = renewing(&backend, &grant);
    let before = wire.accepted();
    say_overdue(&backend).await;
    // In the outage no attempt waits for the one before.
    until_seen("two connections are tried", || wire.accepted() > before + 1).await;
    assert!(!renewing.is_finished());
    wire.restore_to(&server);

    let renewed_grant = renewed(answer(renewing).await);
    assert_eq!(renewed_grant.token, grant.token);
    assert!(renewed_grant.proven_at > grant.proven_at);
    assert_ne!(pid_of(&backend, &name), left);
    until_ended(&admin, left).await;
    rival.assert_excluded().await;
    assert!((&mut loss).now_or_never().is_none());

    // All that a term can do goes on in the new session.
    let again = renewed(
        backend
            .renew(&renewed_grant, backend.clock().now())
            .await
            .unwrap(),
    );
    let transaction = backend.begin(&name, grant.token).await.unwrap();
    transaction.commit().await.unwrap();
    let observer = PostgresBackend::connect(PostgresConfig::from_url(&server.url()).unwrap());
    let observer = observer.await.unwrap();
    tenure_testkit::wait::until("the token is seen", async || {
        leader(observer.holder(&name).await.unwrap()).token == Some(grant.token)
    })
    .await;
    assert!(is_taken(
        &observer
            .acquire(&name, &candidate("bob", 2), LEASE)
            .await
            .unwrap()
    ));
    rival.assert_excluded().await;
    let key = backend.key_of(&name);
    backend.release(&again).await.unwrap();
    until(
        &admin,
        &format!(
            "SELECT pg_try_advisory_lock({key}) OR EXISTS (SELECT FROM pg_locks \
        l JOIN pg_stat_activity a USING (pid) WHERE l.locktype = 'advisory' AND l.objsubid = 1 \
        AND a.application_name = 'admin' AND l.granted)"
        ),
    )
    .await;
}

/// Three for a login with a password, and three for all that is set and checked.
#[tokio::test]
async fn a_move_takes_few_round_trips() {
    let Some(server) = start(&[]) else { return };
    let (wire, admin) = (Wire::to(&server).await, server.admin().await);
    let backend = wire.connect().await;
    let (name, ann) = (lock("batch"), candidate("ann", 1));
    let grant = win(&backend, &name, &ann).await;
    let left = pid_of(&backend, &name);
    wire.lose();
    wire.restore_to(&server);
    let before = wire.round_trips();
    try_once(&session_of(&backend, &name)).await.unwrap();
    let taken = wire.round_trips() - before;
    assert!((1..10).contains(&taken), "{taken} round trips");
    until_ended(&admin, left).await;
    renewed(backend.renew(&grant, backend.clock().now()).await.unwrap());
}

/// To log in costs the server more than all the rest of a move.
#[tokio::test]
async fn of_several_connections_that_are_answered_one_logs_in() {
    let Some(server) = start(&[]) else { return };
    let tasks = Tasks::here().unwrap();
    let config = Arc::new(PostgresConfig::from_url(&server.url()).unwrap());
    let connector = Connector::new(config.clone(), tasks.process().clone());
    let (turn, address) = (Mutex::new(()), config.hosts.first().unwrap());
    let taken = turn.lock().await;
    let other = attempt(&connector, address, &turn, LEASE).await;
    assert!(other.err().unwrap().message().contains("answered before"));
    drop(taken);
    let alone = attempt(&connector, address, &turn, LEASE).await;
    assert!(alone.is_ok());
}

#[tokio::test]
async fn the_end_of_the_new_session_ends_the_term() {
    let Some(server) = start(&[]) else { return };
    let (wire, admin) = (Wire::to(&server).await, server.admin().await);
    let backend = wire.connect().await;
    let (name, ann) = (lock("batch"), candidate("ann", 1));
    let grant = win(&backend, &name, &ann).await;
    let loss = backend.loss(&grant).unwrap();
    wire.lose();
    wire.restore_to(&server);
    try_once(&session_of(&backend, &name)).await.unwrap();
    let end = format!("SELECT pg_terminate_backend({})", pid_of(&backend, &name));
    admin.batch_execute(&end).await.unwrap();
    within_limit("the loss", loss).await;
    assert!(is_lost(
        &backend.renew(&grant, backend.clock().now()).await.unwrap()
    ));
}

#[tokio::test]
async fn all_terms_of_a_session_move_together() {
    let Some(server) = start(&[]) else { return };
    let wire = Wire::to(&server).await;
    let backend = PostgresBackend::connect(wire.config().key_class(-7).unwrap())
        .await
        .unwrap();
    let ann = candidate("ann", 1);
    let names = ["one", "two", "three"].map(lock);
    let mut grants = Vec::new();
    for name in &names {
        grants.push(win(&backend, name, &ann).await);
    }
    let left = pid_of(&backend, &names[0]);
    wire.lose();
    // An attempt of another candidate in the same session has no answer, and is in no one's way.
    let (trying, other) = (backend.clone(), lock("other"));
    let attempt = tokio::spawn(async move {
        let ann = candidate("ann", 2);
        trying.acquire(&other, &ann, LEASE).await
    });
    let waiting: Vec<_> = grants
        .iter()
        .map(|grant| renewing(&backend, grant))
        .collect();
    say_overdue(&backend).await;
    wire.restore_to(&server);
    for (waiting, grant) in waiting.into_iter().zip(&grants) {
        assert_eq!(renewed(answer(waiting).await).token, grant.token);
    }
    for name in &names {
        assert_ne!(pid_of(&backend, name), left);
    }
    let attempt = within_limit("the attempt", attempt).await.unwrap();
    attempt.unwrap_err();
    let bob = candidate("bob", 3);
    for name in &names {
        assert!(is_taken(&backend.acquire(name, &bob, LONG).await.unwrap()));
    }
    // What was tried in the old session is nobody's.
    let other = lock("other");
    tenure_testkit::wait::until("the other lock is free", async || {
        !is_taken(&backend.acquire(&other, &bob, LONG).await.unwrap())
    })
    .await;
}

/// Ends the session of a silent leader, and lets another candidate win.
async fn succeed(
    server: &Server,
    admin: &Client,
    backend: &PostgresBackend,
    name: &LockName,
) -> (PostgresBackend, Grant) {
    let pid = pid_of(backend, name);
    let end = format!("SELECT pg_terminate_backend({pid})");
    admin.batch_execute(&end).await.unwrap();
    until_ended(admin, pid).await;
    let config = PostgresConfig::from_url(&server.url()).unwrap();
    let next = PostgresBackend::connect(config).await.unwrap();
    let grant = win(&next, name, &candidate("bob", 2)).await;
    (next, grant)
}

#[tokio::test]
async fn no_session_moves_whose_locks_were_lost() {
    let Some(server) = start(&[]) else { return };
    let (wire, admin) = (Wire::to(&server).await, server.admin().await);
    let backend = wire.connect().await;
    let (name, ann) = (lock("batch"), candidate("ann", 1));
    let grant = win(&backend, &name, &ann).await;
    wire.lose();
    let (next, next_grant) = succeed(&server, &admin, &backend, &name).await;
    wire.restore_to(&server);
    let renewing = renewing(&backend, &grant);
    say_overdue(&backend).await;
    let session = session_of(&backend, &name);
    let refused = try_once(&session).await.unwrap_err();
    assert!(refused.message().contains("it has ended"), "{refused:?}");
    assert!(!renewing.is_finished());
    renewing.abort();
    // Nothing of the attempts is left, and the successor leads.
    until(
        &admin,
        "SELECT count(*) = 1 FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 1",
    )
    .await;
    renewed(next.renew(&next_grant, next.clock().now()).await.unwrap());
}

/// Lets another candidate have a lock that its session has lost, and lives.
async fn unlock_and_succeed(
    server: &Server,
    backend: &PostgresBackend,
    name: &LockName,
) -> (PostgresBackend, Grant) {
    let old = session_of(backend, name).statements();
    old.unlock(backend.key_of(name)).await.unwrap();
    let config = PostgresConfig::from_url(&server.url()).unwrap();
    let next = PostgresBackend::connect(config).await.unwrap();
    let grant = win(&next, name, &candidate("bob", 2)).await;
    (next, grant)
}

#[tokio::test]
async fn no_session_moves_that_lives_without_its_lock() {
    let Some(server) = start(&[]) else { return };
    let backend = Wire::to(&server).await.connect().await;
    let (name, ann) = (lock("batch"), candidate("ann", 1));
    let grant = win(&backend, &name, &ann).await;
    let (next, next_grant) = unlock_and_succeed(&server, &backend, &name).await;
    let refused = try_once(&session_of(&backend, &name)).await.unwrap_err();
    assert!(
        refused.message().contains("does not hold its locks"),
        "{refused:?}"
    );
    assert!(is_lost(
        &backend.renew(&grant, backend.clock().now()).await.unwrap()
    ));
    renewed(next.renew(&next_grant, next.clock().now()).await.unwrap());
}

/// The mutant: without the look at the old session two lead.
#[tokio::test]
async fn a_move_that_does_not_look_at_the_old_session_is_found() {
    let Some(server) = start(&[]) else { return };
    let backend = Wire::to(&server).await.connect().await;
    let (name, ann) = (lock("batch"), candidate("ann", 1));
    let grant = win(&backend, &name, &ann).await;
    let (next, next_grant) = unlock_and_succeed(&server, &backend, &name).await;
    let session = session_of(&backend, &name);
    session.trusts_the_old.store(true, Ordering::SeqCst);
    try_once(&session).await.unwrap();
    renewed(backend.renew(&grant, backend.clock().now()).await.unwrap());
    renewed(next.renew(&next_grant, next.clock().now()).await.unwrap());
}

#[tokio::test]
async fn no_session_moves_to_another_server() {
    let Some(server) = start(&[]) else { return };
    let copy = start(&[]).unwrap();
    let other = start_another_cluster(free_port()).unwrap();
    let wire = Wire::to(&server).await;
    let backend = wire.connect().await;
    let (name, ann) = (lock("batch"), candidate("ann", 1));
    let grant = win(&backend, &name, &ann).await;
    wire.lose();
    wire.restore_to(&copy);
    let session = session_of(&backend, &name);
    // The same cluster, as a standby that was promoted.
    let refused = try_once(&session).await.unwrap_err();
    assert!(refused.message().contains("it has ended"), "{refused:?}");
    assert!(session.ended().is_none());
    wire.restore_to(&other);
    let moving = session.clone();
    let moving = tokio::spawn(async move { moving.try_to_move(&moving.statements()).await });
    within_limit("the end of the term", backend.loss(&grant).unwrap()).await;
    moving.abort();
}

#[tokio::test]
async fn no_session_moves_while_another_program_waits_for_its_lock() {
    let Some(server) = start(&[]) else { return };
    let (wire, admin) = (Wire::to(&server).await, server.admin().await);
    let backend = wire.connect().await;
    let (name, ann) = (lock("batch"), candidate("ann", 1));
    let grant = win(&backend, &name, &ann).await;
    let waiter = server.admin().await;
    let pid: i32 = waiter
        .query_one("SELECT pg_backend_pid()", &[])
        .await
        .unwrap()
        .get(0);
    let wait = format!("SELECT pg_advisory_lock({})", backend.key_of(&name));
    let waiting = tokio::spawn(async move { waiter.batch_execute(&wait).await });
    let waits = "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted \
                 AND objsubid = 1)";
    until(&admin, waits).await;
    wire.lose();
    wire.restore_to(&server);
    let session = session_of(&backend, &name);
    let refused = try_once(&session).await.unwrap_err();
    assert!(
        refused.message().contains("another program waits"),
        "{refused:?}"
    );
    assert!(!waiting.is_finished());
    let cancel = format!("SELECT pg_cancel_backend({pid})");
    admin.batch_execute(&cancel).await.unwrap();
    within_limit("the end of the wait", waiting)
        .await
        .unwrap()
        .unwrap_err();
    try_once(&session).await.unwrap();
    renewed(backend.renew(&grant, backend.clock().now()).await.unwrap());
}

#[tokio::test]
async fn a_lock_of_other_programs_is_held_exclusively_and_its_session_stays() {
    let Some(server) = start(&[]) else { return };
    let (wire, admin) = (Wire::to(&server).await, server.admin().await);
    let (name, ann) = (lock("theirs"), candidate("ann", 1));
    let config = wire
        .config()
        .key(name.clone(), AdvisoryKey::Big(42))
        .unwrap();
    let backend = PostgresBackend::connect(config).await.unwrap();
    let grant = win(&backend, &name, &ann).await;
    let row = admin
        .query_one("SELECT pg_try_advisory_lock_shared(42)", &[])
        .await;
    assert!(!row.unwrap().get::<_, bool>(0));
    let session = session_of(&backend, &name);
    let refused = try_once(&session).await.unwrap_err();
    assert!(refused.message().contains("cannot be moved"), "{refused:?}");
    assert!(!backend.may_go_on(Time::ZERO));
    backend.release(&grant).await.unwrap();
    let row = admin
        .query_one("SELECT pg_try_advisory_lock_shared(42)", &[])
        .await;
    assert!(row.unwrap().get::<_, bool>(0));
    assert!(!server.log().contains("WARNING"), "{}", server.log());
}

/// What the transaction has written would be lost with its session.
#[tokio::test]
async fn a_session_stays_while_a_guarded_transaction_is_open() {
    let Some(server) = start(&[]) else { return };
    let wire = Wire::to(&server).await;
    let backend = wire.connect().await;
    let (name, ann) = (lock("batch"), candidate("ann", 1));
    let grant = win(&backend, &name, &ann).await;
    let (pid, before) = (pid_of(&backend, &name), wire.accepted());
    let transaction = backend.begin(&name, grant.token).await.unwrap();
    let renewing = renewing(&backend, &grant);
    say_overdue(&backend).await;
    transaction.commit().await.unwrap();
    renewed(answer(renewing).await);
    assert_eq!(pid_of(&backend, &name), pid);
    assert_eq!(wire.accepted(), before);
    backend.release(&grant).await.unwrap();
    assert!(!server.log().contains("WARNING"), "{}", server.log());
}

#[tokio::test]
async fn a_lock_that_was_released_meanwhile_is_not_taken_along() {
    let Some(server) = start(&[]) else { return };
    let (wire, admin) = (Wire::to(&server).await, server.admin().await);
    let backend = wire.connect().await;
    let ann = candidate("ann", 1);
    let (kept, given) = (lock("kept"), lock("given"));
    let grant = win(&backend, &kept, &ann).await;
    let to_give = win(&backend, &given, &ann).await;
    let session = session_of(&backend, &kept);
    wire.lose();
    let (releasing, released) = (backend.clone(), to_give.clone());
    let releasing = tokio::spawn(async move { releasing.release(&released).await });
    let key = backend.key_of(&given);
    until_seen("it is held no longer", || !session.locks.holds(key)).await;
    wire.restore_to(&server);
    try_once(&session).await.unwrap();
    within_limit("the release", releasing)
        .await
        .unwrap()
        .unwrap();
    until(&admin, &format!("SELECT pg_try_advisory_lock({key})")).await;
    renewed(backend.renew(&grant, backend.clock().now()).await.unwrap());
}

/// The engine, the policy and the backend together.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_election_leads_on_over_a_silent_outage() {
    let Some(server) = start(&[]) else { return };
    let (wire, admin) = (Wire::to(&server).await, server.admin().await);
    let backend = wire.connect().await;
    let name = lock("batch");
    let policy = Policy::builder()
        .lease(LEASE)
        .heartbeat(Duration::from_secs(1))
        .request_timeout(Duration::from_millis(500))
        .build()
        .unwrap();
    let election = Election::builder(Arc::new(backend.clone()), name.clone());
    let election = election.policy(policy).build().unwrap();
    let leadership = within_limit("a term", election.campaign()).await.unwrap();
    let token = leadership.token();
    let rival = Rival::start(&server, &backend, &name).await;
    let left = pid_of(&backend, &name);
    let before = wire.accepted();
    wire.lose();
    until_seen("a connection is tried", || wire.accepted() > before).await;
    wire.restore_to(&server);
    until_ended(&admin, left).await;
    let _permit = leadership.confirm().await.unwrap();
    assert_eq!(leadership.token(), token);
    rival.assert_excluded().await;
    leadership.resign().await.unwrap();
}
