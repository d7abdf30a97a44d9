//! Servers that refuse, stop, crash, fail over or have a pooler in front.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a failed unwrap is a failed test"
)]

mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use support::{Connects as _, connect_at};
use tenure_conformance::proxy::{FaultProxy, Way};
use tenure_core::{
    Acquired, Election, Error, ErrorKind, Identity, LockBackend as _, Occupancy, Policy, Renewal,
    Time, Verdict,
};
use tenure_postgres::{PostgresBackend, PostgresConfig, Tls};
use tenure_testkit::certificates::self_signed;
use tenure_testkit::postgres::{self, Bouncer, PASSWORD, Server, start};
use tenure_testkit::process::{self};
use tenure_testkit::{LIMIT, LONG, candidate, free_port, held, lock, renewed, taken, win, win_for};

/// How many heartbeats the server has answered or prepared, if it logs all statements.
fn heartbeats(server: &Server) -> usize {
    let statement = "pg_is_in_recovery(), coalesce";
    server.log().matches(statement).count()
}

async fn refused(config: PostgresConfig) -> Error {
    let error = PostgresBackend::connect(config).await.unwrap_err();
    let mut text = format!("{error} {error:?}");
    let mut source = std::error::Error::source(&error);
    while let Some(inner) = source {
        text = format!("{text} {inner} {inner:?}");
        source = inner.source();
    }
    assert!(
        !text.contains("battery") && !text.contains(PASSWORD),
        "{text}"
    );
    error
}

#[tokio::test]
async fn what_cannot_work_is_refused_with_its_reason() {
    let Some(server) = start(&[]) else { return };
    let error = refused(server.config().password("battery-staple")).await;
    assert_eq!(error.kind(), ErrorKind::Forbidden, "{error}");
    let error = refused(server.config().user("nobody").password("battery-staple")).await;
    assert_eq!(error.kind(), ErrorKind::Forbidden, "{error}");
    let error = refused(server.config().database("missing")).await;
    assert_eq!(error.kind(), ErrorKind::Misconfigured, "{error}");
    let off = "-c synchronous_commit=off";
    let error = refused(server.config().options(off)).await;
    assert_eq!(error.kind(), ErrorKind::Misconfigured, "{error}");
    assert!(error.message().contains("synchronous_commit"), "{error}");
    let read_only = "-c default_transaction_read_only=on";
    let error = refused(server.config().options(read_only)).await;
    assert_eq!(error.kind(), ErrorKind::Misconfigured, "{error}");
    let tls = server.config().tls_mode(tenure_postgres::TlsMode::Require);
    let error = refused(tls).await;
    assert!(error.message().contains("TLS"), "{error}");

    // Nobody there, and somebody who never answers.
    let closed = format!("postgres://app:battery@127.0.0.1:{}/x", free_port());
    let error = refused(PostgresConfig::from_url(&closed).unwrap()).await;
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    let url = format!("postgres://app:battery@127.0.0.1:{port}/x?connect_timeout=50ms");
    let error = refused(PostgresConfig::from_url(&url).unwrap()).await;
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");

    // The next host of the list is tried, whatever ails the first.
    let url = format!(
        "postgres://app:{PASSWORD}@127.0.0.1:{port},127.0.0.1:{}/postgres?connect_timeout=20&quarantine=off",
        server.port
    );
    let config = PostgresConfig::from_url(&url).unwrap();
    PostgresBackend::connect(config.connect_timeout(Duration::from_secs(3)))
        .await
        .unwrap();
}

/// A refusal with each of these codes, from something that only resembles a server.
#[tokio::test]
async fn a_code_of_any_shape_is_an_error_and_no_more() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    for code in ["", "5", "5\u{e9}", "\u{20ac}", "57P03"] {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let serving = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let length = stream.read_u32().await.unwrap();
            let mut startup = vec![0; length as usize - 4];
            stream.read_exact(&mut startup).await.unwrap();
            let fields = format!("SFATAL\0VFATAL\0C{code}\0Mgo away\0\0");
            stream.write_u8(b'E').await.unwrap();
            let length = u32::try_from(fields.len()).unwrap() + 4;
            stream.write_u32(length).await.unwrap();
            stream.write_all(fields.as_bytes()).await.unwrap();
        };
        let url = format!("postgres://app:battery@127.0.0.1:{port}/x?sslmode=disable");
        let config = PostgresConfig::from_url(&url).unwrap();
        let config = config.connect_timeout(LIMIT);
        let (error, ()) = tokio::join!(refused(config), serving);
        assert!(error.message().contains("\"go away\""), "{error}");
        let known = code == "57P03";
        assert_eq!(error.kind() == ErrorKind::Unavailable, known, "{error}");
    }
}

#[tokio::test]
async fn the_password_comes_from_a_file_and_may_change() {
    let Some(server) = start(&[]) else { return };
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("password");
    std::fs::write(&file, format!("{PASSWORD}\n")).unwrap();
    let passfile = dir.path().join("pgpass");
    std::fs::write(&passfile, format!("*:*:postgres:app:{PASSWORD}\n")).unwrap();
    let mine = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(&passfile, mine).unwrap();
    let address = format!("127.0.0.1:{}", server.port);
    let config = PostgresConfig::server(&address).unwrap();
    let config = config.user("app").database("postgres").quarantine(false);
    let config = config.connect_timeout(Duration::from_secs(30));
    PostgresBackend::connect(config.clone().passfile(&passfile))
        .await
        .unwrap();
    let backend = PostgresBackend::connect(config.password_file(&file))
        .await
        .unwrap();

    // Two sessions: the first is the one that `connect` has made. Its term goes on.
    let name = lock("batch");
    let grant = win(&backend, &name, &candidate("ann", 1)).await;
    let admin = server.admin().await;
    admin
        .batch_execute("ALTER ROLE app PASSWORD 'rotated'")
        .await
        .unwrap();
    std::fs::write(&file, "rotated").unwrap();
    let renewal = backend.renew(&grant, Time::ZERO).await.unwrap();
    assert_eq!(renewed(renewal).token, grant.token);
    taken(
        backend
            .acquire(&name, &candidate("bob", 2), LONG)
            .await
            .unwrap(),
    );
}

#[tokio::test]
async fn a_lazy_backend_reads_and_connects_with_its_first_call() {
    let (name, ann) = (lock("batch"), candidate("ann", 1));
    let port = free_port();
    let missing = at(&[port]).password_file("/nowhere/password");
    let backend = PostgresBackend::lazy(missing).unwrap();
    let error = backend.acquire(&name, &ann, LONG).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Misconfigured, "{error}");
    assert!(error.message().contains("/nowhere/password"), "{error}");

    let backend = PostgresBackend::lazy(at(&[port])).unwrap();
    let error = backend.acquire(&name, &ann, LONG).await.unwrap_err();
    assert!(error.is_retryable(), "{error}");
    let Some(_server) = postgres::start_another_cluster(port) else {
        return;
    };
    win(&backend, &name, &ann).await;
}

#[tokio::test]
async fn too_many_connections_are_an_error_and_no_more() {
    let Some(server) = start(&["max_connections=8", "superuser_reserved_connections=0"]) else {
        return;
    };
    let backend = server.connect().await;
    let grant = held(
        backend
            .acquire(&lock("a"), &candidate("ann", 1), LONG)
            .await
            .unwrap(),
    );
    let mut others = Vec::new();
    let error = loop {
        match PostgresBackend::connect(server.config()).await {
            Ok(other) => others.push(other),
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(error.message().contains("max_connections"), "{error}");
    renewed(backend.renew(&grant, backend.clock().now()).await.unwrap());
}

#[tokio::test]
async fn a_full_lock_table_is_an_error_and_no_more() {
    let settings = ["max_locks_per_transaction=10", "max_connections=10"];
    let Some(server) = start(&settings) else {
        return;
    };
    let backend = server.connect().await;
    let mut grants = Vec::new();
    let error = loop {
        let number = grants.len() as u64;
        let name = lock(&format!("lock-{number}"));
        match backend
            .acquire(&name, &candidate("ann", number), LONG)
            .await
        {
            Ok(acquired) => grants.push(held(acquired)),
            Err(error) => break error,
        }
    };
    println!("{} locks: {error}", grants.len());
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(
        error.message().contains("max_locks_per_transaction"),
        "{error}"
    );
    // The terms that there are go on; one that ends makes room.
    backend.release(&grants.pop().unwrap()).await.unwrap();
    for grant in &grants {
        renewed(backend.renew(grant, grant.proven_at).await.unwrap());
    }
    held(
        backend
            .acquire(&lock("room"), &candidate("ann", 1), LONG)
            .await
            .unwrap(),
    );
}

#[tokio::test]
async fn poolers_are_refused_unless_they_are_in_session_mode() {
    let Some(server) = start(&[]) else { return };
    let Some(bouncer) = Bouncer::start(&server, "transaction") else {
        return;
    };
    let error = refused(bouncer.config()).await;
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert!(error.message().contains("pooler"), "{error}");
    let Some(bouncer) = Bouncer::start(&server, "session") else {
        return;
    };
    let error = refused(bouncer.config()).await;
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    let config = bouncer.config().session_pooler(true);
    let (through, direct) = (
        PostgresBackend::connect(config).await.unwrap(),
        server.connect().await,
    );
    let name = lock("batch");
    let grant = held(
        through
            .acquire(&name, &candidate("ann", 1), LONG)
            .await
            .unwrap(),
    );
    taken(
        direct
            .acquire(&name, &candidate("bob", 2), LONG)
            .await
            .unwrap(),
    );
    renewed(through.renew(&grant, through.clock().now()).await.unwrap());
    drop((through, grant));
    win(&direct, &name, &candidate("bob", 2)).await;
}

#[tokio::test]
async fn tokens_rise_over_immediate_crashes_and_fast_shutdowns() {
    // What the server has written to files outlives its crash without a disk that has it; what it
    // has in memory only, as tokens would be without their message in the log, does not.
    let Some(mut server) = start(&["fsync=off"]) else {
        return;
    };
    let backend = server.connect().await;
    let name = lock("batch");
    let mut last = None;
    // After each restart nobody is elected for a lease.
    let lease = Duration::from_millis(500);
    for round in 0..21 {
        let grant = win_for(&backend, &name, &candidate("ann", round), lease).await;
        assert!(
            last.is_none_or(|last| grant.token > last),
            "{last:?} then {}",
            grant.token
        );
        last = Some(grant.token);
        server.stop(if round == 20 { "INT" } else { "QUIT" });
        // The end of the connection is enough: nothing needs to be asked.
        let told = async {
            while !matches!(
                backend.renew(&grant, Time::ZERO).await.unwrap(),
                Renewal::Lost { .. }
            ) {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(LIMIT, told).await.unwrap();
        backend.release(&grant).await.unwrap();
        let error = backend
            .acquire(&name, &candidate("ann", 99), lease)
            .await
            .unwrap_err();
        assert!(error.is_retryable(), "{error}");
        server.restart();
    }
    println!("the last token is {last:?}");
}

#[tokio::test]
async fn a_standby_is_no_place_for_locks_until_it_is_promoted() {
    let Some(mut primary) = start(&[]) else {
        return;
    };
    let standby = primary.standby();
    let error = refused(standby.config()).await;
    assert_eq!(error.kind(), ErrorKind::Misconfigured, "{error}");

    let url = format!(
        "postgres://app:{PASSWORD}@127.0.0.1:{},127.0.0.1:{}/postgres?connect_timeout=20\
         &target_session_attrs=read-write&quarantine=off",
        standby.port, primary.port
    );
    let config = PostgresConfig::from_url(&url).unwrap();
    let backend = PostgresBackend::connect(config).await.unwrap();
    let (verdict, reason) = cluster(&backend).await;
    assert_eq!(verdict, Verdict::Fine, "{reason}");
    let name = lock("batch");
    let ann = candidate("ann", 1);
    let lease = Duration::from_secs(1);
    let grant = held(backend.acquire(&name, &ann, lease).await.unwrap());
    // It streams what the token was made from, so its own are larger.
    let admin = primary.admin().await;
    postgres::until(
        &admin,
        "SELECT coalesce(bool_and(replay_lsn >= pg_current_wal_flush_lsn()), false) \
         FROM pg_stat_replication",
    )
    .await;
    primary.stop("QUIT");
    let error = backend.acquire(&name, &ann, lease).await.unwrap_err();
    assert!(error.is_retryable(), "{error}");
    standby.promote();
    let next = win_for(&backend, &name, &ann, lease).await;
    assert!(next.token > grant.token);
    assert!(matches!(
        backend.renew(&grant, Time::ZERO).await.unwrap(),
        Renewal::Lost { .. }
    ));
}

/// The servers at these ports, in this order.
fn at(ports: &[u16]) -> PostgresConfig {
    let hosts: Vec<String> = ports
        .iter()
        .map(|port| format!("127.0.0.1:{port}"))
        .collect();
    let hosts = hosts.join(",");
    let url = format!("postgres://app:{PASSWORD}@{hosts}/postgres?sslmode=disable&quarantine=off");
    let config = PostgresConfig::from_url(&url).unwrap();
    config.connect_timeout(Duration::from_secs(20))
}

/// What `doctor` says of the hosts.
async fn cluster(backend: &PostgresBackend) -> (Verdict, String) {
    let checks = backend.checks(&lock("batch"), LONG).await;
    let found = checks.iter().find(|check| check.name == "cluster");
    let found = found.unwrap_or_else(|| panic!("{checks:?}"));
    (found.verdict, found.reason.clone())
}

fn names_both(error: &Error, identifiers: &[String; 2]) {
    assert_eq!(error.kind(), ErrorKind::Misconfigured, "{error}");
    for told in [&identifiers[0], &identifiers[1], "restart"] {
        assert!(error.message().contains(told), "{error}");
    }
}

/// Each of two processes would lead at the first server of its own list, or at the one that it
/// reaches.
#[tokio::test]
async fn a_list_of_two_clusters_is_refused() {
    let (Some(one), Some(other)) = (start(&[]), postgres::start_another_cluster(free_port()))
    else {
        return;
    };
    let identifiers = [one.identifier().await, other.identifier().await];
    for ports in [[one.port, other.port], [other.port, one.port]] {
        names_both(&refused(at(&ports)).await, &identifiers);
    }
}

#[tokio::test]
async fn a_host_that_turns_out_to_be_of_another_cluster_ends_the_terms() {
    let port = free_port();
    let Some(one) = start(&[]) else { return };
    let backend = PostgresBackend::connect(at(&[one.port, port])).await;
    let backend = backend.unwrap();
    let (verdict, reason) = cluster(&backend).await;
    assert_eq!(verdict, Verdict::Warning, "{reason}");
    let (name, ann) = (lock("batch"), candidate("ann", 1));
    let grant = held(backend.acquire(&name, &ann, LONG).await.unwrap());
    let Some(other) = postgres::start_another_cluster(port) else {
        return;
    };
    let identifiers = [one.identifier().await, other.identifier().await];
    let (verdict, reason) = cluster(&backend).await;
    assert_eq!(verdict, Verdict::Unusable, "{reason}");
    assert!(
        identifiers.iter().all(|told| reason.contains(told)),
        "{reason}"
    );

    let loss = backend.loss(&grant).unwrap();
    tokio::time::timeout(LIMIT, loss).await.unwrap();
    let renewal = backend.renew(&grant, Time::ZERO).await.unwrap();
    assert!(matches!(renewal, Renewal::Lost { .. }), "{renewal:?}");
    names_both(
        &backend.acquire(&name, &ann, LONG).await.unwrap_err(),
        &identifiers,
    );
    names_both(&backend.holder(&name).await.unwrap_err(), &identifiers);
    postgres::until(&one.admin().await, postgres::NO_LOCKS).await;
    // Until the process is restarted, whoever is there.
    drop(other);
    names_both(
        &backend.acquire(&name, &ann, LONG).await.unwrap_err(),
        &identifiers,
    );
    let (verdict, reason) = cluster(&backend).await;
    assert_eq!(verdict, Verdict::Unusable, "{reason}");
}

/// A restore, `initdb` or `pg_upgrade`, or a name that leads elsewhere now.
#[tokio::test]
async fn a_server_that_was_replaced_is_refused_until_the_process_is_restarted() {
    let Some(mut one) = start(&[]) else { return };
    let backend = PostgresBackend::connect(at(&[one.port])).await.unwrap();
    let (name, ann) = (lock("batch"), candidate("ann", 1));
    held(backend.acquire(&name, &ann, LONG).await.unwrap());
    let first = one.identifier().await;
    one.stop("INT");
    let Some(other) = postgres::start_another_cluster(one.port) else {
        return;
    };
    let identifiers = [first, other.identifier().await];
    let acquiring = async {
        loop {
            match backend.acquire(&name, &ann, LONG).await {
                Err(error) if error.is_retryable() => {}
                answer => return answer.unwrap_err(),
            }
        }
    };
    let error = tokio::time::timeout(LIMIT, acquiring).await.unwrap();
    names_both(&error, &identifiers);
    // As after a restart of the process.
    let backend = PostgresBackend::connect(at(&[one.port])).await.unwrap();
    held(backend.acquire(&name, &ann, LONG).await.unwrap());
}

#[tokio::test]
async fn a_cluster_that_keeps_its_identifier_to_itself_is_told_of() {
    let (Some(one), Some(other)) = (start(&[]), postgres::start_another_cluster(free_port()))
    else {
        return;
    };
    let role = format!("CREATE ROLE clerk LOGIN PASSWORD '{PASSWORD}'");
    let hide = "REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC";
    for server in [&one, &other] {
        server.admin().await.batch_execute(&role).await.unwrap();
    }
    other.admin().await.batch_execute(hide).await.unwrap();
    // It is one that tells, with one that does not.
    for ports in [[one.port, other.port], [other.port, one.port]] {
        let error = refused(at(&ports).user("clerk")).await;
        assert_eq!(error.kind(), ErrorKind::Misconfigured, "{error}");
        assert!(error.message().contains("GRANT EXECUTE"), "{error}");
    }
    one.admin().await.batch_execute(hide).await.unwrap();
    let config = at(&[one.port]).user("clerk");
    let backend = PostgresBackend::connect(config).await.unwrap();
    let (verdict, reason) = cluster(&backend).await;
    assert_eq!(verdict, Verdict::Warning, "{reason}");
    assert!(reason.contains("system identifier"), "{reason}");
    let grant = win(&backend, &lock("batch"), &candidate("ann", 1)).await;
    renewed(backend.renew(&grant, backend.clock().now()).await.unwrap());
}

/// A copy shares the identifier, and is another place for locks all the same.
#[tokio::test]
async fn two_primaries_are_told_of() {
    let (Some(one), Some(copy)) = (start(&[]), start(&[])) else {
        return;
    };
    let config = at(&[one.port, copy.port]);
    let backend = PostgresBackend::connect(config).await.unwrap();
    let (verdict, reason) = cluster(&backend).await;
    assert_eq!(verdict, Verdict::Unusable, "{reason}");
    assert!(reason.contains("writes"), "{reason}");
    // Two ways to one server are none.
    let backend = PostgresBackend::connect(at(&[one.port, one.port])).await;
    let (verdict, reason) = cluster(&backend.unwrap()).await;
    assert_eq!(verdict, Verdict::Fine, "{reason}");
}

/// Thousands of tokens need not wait for a disk here.
const FOR_THOUSANDS: [&str; 3] = [
    "max_locks_per_transaction=128",
    "log_statement=all",
    "fsync=off",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_terms_share_one_session_and_one_heartbeat() {
    const TERMS: u64 = 5000;
    let Some(server) = start(&FOR_THOUSANDS) else {
        return;
    };
    let backend = server.connect().await;
    let acquiring = (0..TERMS).map(|number| {
        let backend = backend.clone();
        tokio::spawn(async move {
            let name = lock(&format!("lock-{number}"));
            held(
                backend
                    .acquire(&name, &candidate("ann", number), LONG)
                    .await
                    .unwrap(),
            )
        })
    });
    let grants: Vec<_> = join_all(acquiring)
        .await
        .into_iter()
        .map(Result::unwrap)
        .collect();

    // The statement is logged when it is prepared, too.
    let before = heartbeats(&server);
    let not_before = backend.clock().now();
    let renewing = grants.iter().map(|grant| backend.renew(grant, not_before));
    for renewal in join_all(renewing).await {
        assert!(renewed(renewal.unwrap()).proven_at >= not_before);
    }
    let admin = server.admin().await;
    let query = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'ann'";
    assert_eq!(
        admin.query_one(query, &[]).await.unwrap().get::<_, i64>(0),
        1
    );
    assert_eq!(heartbeats(&server) - before, 1);
}

/// Whole elections: each has its own rhythm, and they still share the proofs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_elections_send_one_heartbeat_per_interval() {
    const ELECTIONS: usize = 2000;
    let Some(server) = start(&FOR_THOUSANDS) else {
        return;
    };
    let backend: Arc<PostgresBackend> = Arc::new(server.connect().await);
    let seconds = Duration::from_secs;
    // A lease that a machine which stands still for a while does not outlast.
    let policy = Policy::builder().lease(seconds(60)).heartbeat(seconds(3));
    let policy = policy.build().unwrap();
    let elections: Vec<_> = (0..ELECTIONS)
        .map(|number| {
            let election = Election::builder(backend.clone(), lock(&format!("lock-{number}")));
            let election = election
                .policy(policy.clone())
                .identity(Identity::new("ann").unwrap());
            election.build().unwrap()
        })
        .collect();
    // All at once: the grants, each of which waits for the disk, must not keep the heartbeats of
    // those that lead already waiting.
    let campaigns = join_all(elections.iter().map(Election::campaign));
    let campaigns = tokio::time::timeout(LIMIT, campaigns).await.unwrap();
    let leaders: Vec<_> = campaigns.into_iter().map(Result::unwrap).collect();

    let (began, before) = (Instant::now(), heartbeats(&server));
    // How often each was renewed: then its end moves.
    let mut renewals = vec![(0, Duration::ZERO); ELECTIONS];
    while renewals.iter().any(|(renewed, _)| *renewed < 4) {
        assert!(began.elapsed() < LIMIT, "some were not renewed");
        tokio::time::sleep(Duration::from_millis(50)).await;
        for (leader, (renewed, end)) in leaders.iter().zip(&mut renewals) {
            assert!(leader.is_valid());
            let found = began.elapsed() + leader.remaining();
            if found > *end + Duration::from_millis(500) {
                *renewed += 1;
                *end = found;
            }
        }
    }
    let elapsed = began.elapsed();
    let sent = u32::try_from(heartbeats(&server) - before).unwrap();
    println!("{sent} heartbeats in {elapsed:?} for {ELECTIONS} elections");
    let query = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'ann'";
    let row = server.admin().await.query_one(query, &[]).await.unwrap();
    assert_eq!(row.get::<_, i64>(0), 1);
    // One per interval and at both ends; two where some began half an interval later than others,
    // who need a proof of their own then. They may come a little early.
    let intervals = elapsed.as_secs_f64() / policy.heartbeat().as_secs_f64();
    assert!(f64::from(sent) <= 2.0 + 2.2 * intervals, "{sent}");
}

#[tokio::test]
async fn a_partitioned_holder_loses_and_a_partitioned_waiter_never_leads() {
    let Some(server) = start(&[]) else { return };
    // The waiter opens three sessions meanwhile.
    let lease = Duration::from_secs(5);
    let (holder_wire, waiter_wire) = (
        FaultProxy::start(server.address()).unwrap(),
        FaultProxy::start(server.address()).unwrap(),
    );
    let (holder, waiter) = (
        connect_at(holder_wire.address().port()).await,
        connect_at(waiter_wire.address().port()).await,
    );
    let other = server.connect().await;
    let name = lock("batch");
    let grant = held(
        holder
            .acquire(&name, &candidate("ann", 1), lease)
            .await
            .unwrap(),
    );
    let _changes = waiter.changes(&name);
    taken(
        waiter
            .acquire(&name, &candidate("eve", 2), LONG)
            .await
            .unwrap(),
    );
    let admin = server.admin().await;
    let waits = "SELECT count(*) = 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted";
    postgres::until(&admin, waits).await;
    holder_wire.lose(Way::Both);
    waiter_wire.lose(Way::Both);
    let began = Instant::now();
    let bob = candidate("bob", 3);
    let next = win(&other, &name, &bob).await;
    println!(
        "partitioned holder: lock after {:?} of a lease of {lease:?}",
        began.elapsed()
    );
    assert!(next.token > grant.token);
    renewed(other.renew(&next, other.clock().now()).await.unwrap());
    // A call over the cut wire ends with the session, and never says "renewed".
    let renewal = holder.renew(&grant, holder.clock().now()).await;
    assert!(matches!(renewal, Ok(Renewal::Lost { .. })), "{renewal:?}");
}

#[tokio::test]
async fn a_function_that_the_user_may_not_call_is_named() {
    let Some(server) = start(&[]) else { return };
    let admin = server.admin().await;
    let role = format!("CREATE ROLE clerk LOGIN PASSWORD '{}'", postgres::PASSWORD);
    admin.batch_execute(&role).await.unwrap();
    let url = server.url().replace("//app:", "//clerk:");
    let config = PostgresConfig::from_url(&url).unwrap();
    let backend = PostgresBackend::connect(config.connect_timeout(LIMIT)).await;
    let backend = backend.unwrap();
    let permissions = async || {
        let checks = backend.checks(&lock("batch"), LONG).await;
        let found = checks.iter().find(|check| check.name == "permissions");
        let found = found.unwrap_or_else(|| panic!("{checks:?}"));
        (found.verdict, found.reason.clone())
    };
    let (verdict, reason) = permissions().await;
    assert_eq!(verdict, Verdict::Fine, "{reason}");
    for function in [
        "pg_notify",
        "pg_logical_emit_message",
        "pg_try_advisory_lock",
        "pg_advisory_unlock",
    ] {
        let signatures = format!(
            "SELECT string_agg(oid::regprocedure::text, ', ') FROM pg_proc WHERE proname = \
             '{function}'"
        );
        let row = admin.query_one(&signatures, &[]).await.unwrap();
        let signatures: &str = row.get(0);
        let ask = async |what: &str, of: &str| {
            let sql = format!("{what} EXECUTE ON FUNCTION {signatures} {of} PUBLIC");
            admin.batch_execute(&sql).await.unwrap();
        };
        ask("REVOKE", "FROM").await;
        let (verdict, reason) = permissions().await;
        assert_eq!(verdict, Verdict::Unusable, "{reason}");
        assert!(reason.contains(function), "{reason}");
        ask("GRANT", "TO").await;
    }
}

/// The cut host stays silent, also to new connections, and the other one answers.
#[tokio::test]
async fn an_observer_whose_host_has_vanished_looks_at_another() {
    let Some(server) = start(&[]) else { return };
    let wire = FaultProxy::start(server.address()).unwrap();
    let url = format!(
        "postgres://app:{}@127.0.0.1:{},127.0.0.1:{}/postgres?sslmode=disable&connect_timeout=1",
        postgres::PASSWORD,
        wire.address().port(),
        server.port
    );
    let config = PostgresConfig::from_url(&url).unwrap();
    let observer = PostgresBackend::connect(config).await.unwrap();
    let name = lock("batch");
    assert_eq!(observer.holder(&name).await.unwrap(), Occupancy::Free);
    wire.lose(Way::Both);
    let looking = async { while observer.holder(&name).await.is_err() {} };
    let looked = tokio::time::timeout(tenure_testkit::LIMIT / 2, looking).await;
    assert!(looked.is_ok(), "the observer is blind");
}

/// A certificate of `localhost`, which signs itself, and its key.
fn make_certificate(folder: &std::path::Path) -> (String, String) {
    let (certificate, key) = self_signed(folder, "localhost", &["localhost"]);
    postgres::give(folder);
    (certificate.display().to_string(), key.display().to_string())
}

#[tokio::test]
async fn the_server_may_demand_a_certificate() {
    let dir = tempfile::tempdir().unwrap();
    let hba = dir.path().join("hba");
    std::fs::write(
        &hba,
        "hostssl all all all scram-sha-256 clientcert=verify-ca\n",
    )
    .unwrap();
    let (certificate, key) = make_certificate(dir.path());
    let settings = [
        "ssl=on".to_owned(),
        format!("ssl_cert_file={certificate}"),
        format!("ssl_key_file={key}"),
        format!("ssl_ca_file={certificate}"),
        format!("hba_file={}", hba.display()),
    ];
    let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    let Some(server) = start(&settings) else {
        return;
    };
    let url = format!(
        "postgres://app:{PASSWORD}@localhost:{}/postgres?sslmode=verify-full&connect_timeout=20\
         &sslrootcert={}",
        server.port, certificate
    );
    let without = PostgresConfig::from_url(&url).unwrap();
    let error = refused(without.clone()).await;
    assert_eq!(error.kind(), ErrorKind::Forbidden, "{error}");
    assert!(error.message().contains("certificate"), "{error}");
    let tls = Tls::new().ca(&certificate).client_cert(&certificate);
    let with = without.tls(tls.client_key(key));
    PostgresBackend::connect(with).await.unwrap();
}

#[tokio::test]
async fn a_server_may_be_on_a_unix_socket() {
    let dir = tempfile::tempdir().unwrap();
    postgres::give(dir.path());
    let path = dir.path().display().to_string();
    let Some(server) = start(&[&format!("unix_socket_directories={path}")]) else {
        return;
    };
    let url = format!(
        "postgres:///postgres?host={path}&port={}&user=app&password={PASSWORD}\
         &connect_timeout=20&quarantine=off",
        server.port
    );
    let config = PostgresConfig::from_url(&url).unwrap();
    let backend = PostgresBackend::connect(config).await.unwrap();
    win(&backend, &lock("batch"), &candidate("ann", 1)).await;
}

#[tokio::test]
async fn tls_is_verified_when_it_is_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let (certificate, key) = make_certificate(dir.path());
    let settings = [
        "ssl=on".to_owned(),
        format!("ssl_cert_file={certificate}"),
        format!("ssl_key_file={key}"),
    ];
    let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    let Some(server) = start(&settings) else {
        return;
    };
    let url = |host: &str, parameters: &str| {
        let port = server.port;
        let url =
            format!("postgres://app:{PASSWORD}@{host}:{port}/postgres?quarantine=off&{parameters}");
        PostgresConfig::from_url(&url)
            .unwrap()
            .connect_timeout(Duration::from_secs(20))
    };
    let trusted = format!("sslmode=verify-full&sslrootcert={certificate}");
    for config in [
        url("localhost", "sslmode=prefer"),
        url("localhost", &trusted),
        // The server compares what the login is bound to with its own certificate.
        url("localhost", &format!("{trusted}&channel_binding=require")),
        url("localhost", &format!("{trusted}&channel_binding=disable")),
    ] {
        let backend = PostgresBackend::connect(config).await.unwrap();
        let name = lock("batch");
        let grant = held(
            backend
                .acquire(&name, &candidate("ann", 1), LONG)
                .await
                .unwrap(),
        );
        let admin = server.admin().await;
        let encrypted = "SELECT ssl FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) \
                         WHERE application_name = 'ann'";
        assert!(
            admin
                .query_one(encrypted, &[])
                .await
                .unwrap()
                .get::<_, bool>(0)
        );
        backend.release(&grant).await.unwrap();
        drop((backend, grant));
        postgres::until(
            &admin,
            "SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name = 'ann'",
        )
        .await;
    }
    // Not of a trusted authority, and not for this host.
    for config in [
        url("localhost", "sslmode=require"),
        url("127.0.0.1", &trusted),
    ] {
        let error = refused(config).await;
        assert_eq!(error.kind(), ErrorKind::Misconfigured, "{error}");
    }
}

#[tokio::test]
async fn nobody_is_elected_on_a_server_that_was_just_started() {
    let Some(server) = start(&[]) else { return };
    let backend = PostgresBackend::connect(server.config().quarantine(true))
        .await
        .unwrap();
    let name = lock("batch");
    let ann = candidate("ann", 1);
    match backend.acquire(&name, &ann, LONG).await.unwrap() {
        Acquired::Taken {
            holder: None,
            free_in: Some(left),
            ..
        } => assert!(left <= LONG),
        other => panic!("{other:?}"),
    }
    win_for(&backend, &name, &ann, Duration::from_millis(200)).await;
}

/// When one session crashes the server ends all of them, and their locks, and goes on: the time
/// of its start stays the same.
#[tokio::test]
async fn nobody_is_elected_for_a_lease_after_a_session_has_crashed() {
    elect_after_a_crash("").await;
}

/// Some managed servers keep these to themselves.
#[tokio::test]
async fn nor_where_the_server_does_not_tell_of_it() {
    for hidden in [
        "REVOKE EXECUTE ON FUNCTION pg_control_checkpoint() FROM PUBLIC",
        "REVOKE SELECT ON pg_stat_bgwriter FROM PUBLIC",
    ] {
        elect_after_a_crash(hidden).await;
    }
}

async fn elect_after_a_crash(hidden: &str) {
    let Some(server) = start(&[]) else { return };
    let lease = Duration::from_secs(2);
    let admin = server.admin().await;
    // No privilege is needed to know of it.
    let role = format!("CREATE ROLE plain LOGIN PASSWORD '{PASSWORD}'");
    admin.batch_execute(&role).await.unwrap();
    admin.batch_execute(hidden).await.unwrap();
    postgres::until(&admin, &older_than(lease)).await;
    let victim = admin.query_one("SELECT pg_backend_pid()", &[]).await;
    let victim: i32 = victim.unwrap().get(0);
    let crashed = Instant::now();
    process::signal("KILL", victim.try_into().unwrap());
    postgres::until_closed(&admin).await;
    let fresh = async {
        loop {
            // While the server recovers it refuses everybody.
            let config = server.config().user("plain").quarantine(true);
            match PostgresBackend::connect(config).await {
                Ok(backend) => return backend,
                Err(error) => assert!(error.is_retryable(), "{error}"),
            }
        }
    };
    let fresh = tokio::time::timeout(LIMIT, fresh).await.unwrap();
    win_for(&fresh, &lock("batch"), &candidate("ann", 1), lease).await;
    assert!(crashed.elapsed() >= lease, "{:?}", crashed.elapsed());
}

/// The standby is old, its locks are not.
#[tokio::test]
async fn nobody_is_elected_for_a_lease_after_a_promotion() {
    let Some(mut primary) = start(&[]) else {
        return;
    };
    let lease = Duration::from_secs(2);
    let standby = primary.standby();
    postgres::until(&standby.admin().await, &older_than(lease)).await;
    primary.stop("QUIT");
    let promoted = Instant::now();
    standby.promote();
    let fresh = PostgresBackend::connect(standby.config().quarantine(true))
        .await
        .unwrap();
    win_for(&fresh, &lock("batch"), &candidate("ann", 1), lease).await;
    assert!(promoted.elapsed() >= lease, "{:?}", promoted.elapsed());
}

fn older_than(lease: Duration) -> String {
    let lease = lease.as_millis();
    format!("SELECT clock_timestamp() - pg_postmaster_start_time() > interval '{lease} ms'")
}
