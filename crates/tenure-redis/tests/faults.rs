//! Errors, lost connections and restarts, on real servers.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use support::Connects as _;
use tenure_core::{Check, Error, ErrorKind, LockBackend as _, Occupancy, Operation, Time, Verdict};
use tenure_redis::{RedisBackend, RedisConfig};
use tenure_testkit::redis::{Server, start, start_pair, start_with_password, wait_for_link};
use tenure_testkit::{
    LIMIT, LONG, candidate, free_port, held, is_lost, is_taken, lock, renewed, until, within_limit,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

#[track_caller]
fn assert_error(error: &Error, kind: ErrorKind, text: &str) {
    assert_eq!(error.kind(), kind, "{error}");
    assert!(error.to_string().contains(text), "{error}");
}

async fn acquire_error(backend: &RedisBackend) -> Error {
    let me = candidate("a", 1);
    let outcome = backend.acquire(&lock("faults"), &me, LONG).await;
    outcome.unwrap_err()
}

#[tokio::test]
async fn a_port_where_nothing_listens_is_an_error_and_no_wait() {
    let config = RedisConfig::server(&format!("127.0.0.1:{}", free_port())).unwrap();
    let error = within_limit("the error", RedisBackend::connect(config.clone()))
        .await
        .unwrap_err();
    assert_error(&error, ErrorKind::Unavailable, "is the server running");
    assert_eq!(error.operation(), Operation::Connect);
    let backend = RedisBackend::lazy(config).unwrap();
    assert_eq!(acquire_error(&backend).await.kind(), ErrorKind::Unavailable);
}

#[tokio::test]
async fn a_name_that_does_not_resolve_is_an_error() {
    let config = RedisConfig::server("no-such-host.invalid").unwrap();
    let error = RedisBackend::connect(config).await.unwrap_err();
    assert!(error.is_retryable(), "{error}");
    assert!(
        error.to_string().contains("no-such-host.invalid:6379"),
        "{error}"
    );
}

#[tokio::test]
async fn a_server_that_is_frozen_is_a_timeout_and_is_used_again_when_it_thaws() {
    let Some(server) = start(&[]) else { return };
    let config = server
        .config()
        .connect_timeout(Duration::from_secs(2))
        .request_timeout(Duration::from_secs(2));
    let backend = RedisBackend::connect(config.clone()).await.unwrap();
    let grant = held(
        backend
            .acquire(&lock("frozen"), &candidate("a", 1), LONG)
            .await
            .unwrap(),
    );
    server.freeze();
    for _ in 0..3 {
        let error = backend.renew(&grant, Time::ZERO).await.unwrap_err();
        assert_error(&error, ErrorKind::Timeout, "within 2s");
    }
    let error = RedisBackend::connect(config).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
    server.thaw();
    until("a heartbeat gets through", async || {
        backend.renew(&grant, Time::ZERO).await.is_ok()
    })
    .await;
}

#[tokio::test]
async fn calls_after_a_lost_connection_do_not_notice_it() {
    let Some(server) = start(&[]) else { return };
    let backend = server.connect().await;
    let mut grant = held(
        backend
            .acquire(&lock("killed"), &candidate("a", 1), LONG)
            .await
            .unwrap(),
    );
    for _ in 0..20 {
        server.command(&["CLIENT", "KILL", "TYPE", "normal"]);
        grant = renewed(backend.renew(&grant, Time::ZERO).await.unwrap());
    }
}

#[tokio::test]
async fn a_server_that_has_forgotten_everything_elects_nobody_for_a_lease() {
    let Some(mut server) = start(&[]) else { return };
    let (leader, waiting) = (server.connect().await, server.connect().await);
    let lock = lock("forgotten");
    let (a, b) = (candidate("a", 1), candidate("b", 2));
    let grant = held(leader.acquire(&lock, &a, LONG).await.unwrap());
    assert!(is_taken(&waiting.acquire(&lock, &b, LONG).await.unwrap()));
    server.kill();
    server.restart();

    // The leader has not heard of it yet.
    assert!(is_taken(&waiting.acquire(&lock, &b, LONG).await.unwrap()));
    assert_eq!(waiting.incarnation_changes(), 1);
    assert_eq!(waiting.holder(&lock).await.unwrap(), Occupancy::Free);
    // Nor does it go to somebody who has not known the server before.
    let stranger = server.connect().await;
    let c = candidate("c", 3);
    assert!(is_taken(&stranger.acquire(&lock, &c, LONG).await.unwrap()));
    let left = server.number(&["PTTL", "tenure:{forgotten}"]);
    assert!(
        left > 0 && i128::from(left) <= LONG.as_millis().cast_signed(),
        "{left}"
    );

    assert!(is_lost(&leader.renew(&grant, Time::ZERO).await.unwrap()));
    server.command(&["PEXPIRE", "tenure:{forgotten}", "1"]);
    until("it is free", async || {
        server.number(&["EXISTS", "tenure:{forgotten}"]) == 0
    })
    .await;
    let next = held(waiting.acquire(&lock, &b, LONG).await.unwrap());
    assert!(next.token > grant.token);

    // Once the lease is over, a lock that is new is free at once.
    let short = Duration::from_millis(1);
    let other = tenure_core::LockName::new("forgotten-too").unwrap();
    held(waiting.acquire(&other, &b, short).await.unwrap());
}

#[tokio::test]
async fn a_term_survives_a_crash_of_a_server_with_an_append_only_file() {
    let Some(mut server) = start(&["--appendonly", "yes", "--appendfsync", "always"]) else {
        return;
    };
    let backend = server.connect().await;
    let lock = lock("crash");
    let lease = Duration::from_millis(1500);
    let grant = held(
        backend
            .acquire(&lock, &candidate("a", 1), LONG)
            .await
            .unwrap(),
    );
    server.kill();
    let error = backend.renew(&grant, Time::ZERO).await.unwrap_err();
    assert!(error.is_retryable(), "{error}");
    server.restart();
    let grant = renewed(backend.renew(&grant, Time::ZERO).await.unwrap());
    assert_eq!(backend.incarnation_changes(), 0, "the lock was never free");
    let b = candidate("b", 2);
    assert!(is_taken(&backend.acquire(&lock, &b, lease).await.unwrap()));
    backend.release(&grant).await.unwrap();

    // A term that was granted last might have been forgotten, for all this server knows.
    assert!(is_taken(&backend.acquire(&lock, &b, lease).await.unwrap()));
    assert_eq!(backend.incarnation_changes(), 1);
    assert_eq!(
        backend.holder(&lock).await.unwrap(),
        Occupancy::Free,
        "nobody leads"
    );
    assert!(is_lost(&backend.renew(&grant, Time::ZERO).await.unwrap()));
    // The last lease of the time before was the long one.
    let left = server.number(&["PTTL", "tenure:{crash}"]);
    assert!(left > 300_000, "{left}");
    server.command(&["PEXPIRE", "tenure:{crash}", "1"]);
    until("it is free", async || {
        server.number(&["EXISTS", "tenure:{crash}"]) == 0
    })
    .await;
    let next = held(backend.acquire(&lock, &b, lease).await.unwrap());
    assert!(next.token > grant.token);
    assert_eq!(backend.incarnation_changes(), 1);
}

#[tokio::test]
async fn renewal_and_release_work_when_memory_is_full() {
    let Some(server) = start(&[]) else { return };
    let backend = server.connect().await;
    let mut grant = held(
        backend
            .acquire(&lock("full"), &candidate("a", 1), LONG)
            .await
            .unwrap(),
    );
    server.command(&["CONFIG", "SET", "maxmemory", "1"]);
    let error = acquire_error(&backend).await;
    assert_error(&error, ErrorKind::Unavailable, "maxmemory");
    assert_eq!(server.number(&["EXISTS", "tenure:{faults}:fence"]), 0);
    grant = renewed(backend.renew(&grant, Time::ZERO).await.unwrap());
    grant.candidate.value = Some(tenure_core::PublishedValue::new("new").unwrap());
    grant = renewed(backend.renew(&grant, Time::ZERO).await.unwrap());
    let Occupancy::Led(holder) = backend.holder(&lock("full")).await.unwrap() else {
        panic!("it is held");
    };
    assert_eq!(holder.value.as_deref(), Some("new"));
    backend.release(&grant).await.unwrap();
    assert_eq!(
        backend.holder(&lock("full")).await.unwrap(),
        Occupancy::Free
    );
}

#[tokio::test]
async fn passwords_are_asked_for_and_never_shown() {
    let Some(server) = start_with_password(&["--requirepass", "s3cret"], Some("s3cret")) else {
        return;
    };
    let error = RedisBackend::connect(server.config()).await.unwrap_err();
    assert_error(&error, ErrorKind::Forbidden, "NOAUTH");
    let wrong = server.config().password("wr0ng");
    let error = RedisBackend::connect(wrong.clone()).await.unwrap_err();
    assert_error(&error, ErrorKind::Forbidden, "WRONGPASS");
    let mut shown = vec![format!("{error} {error:?} {error:#?}")];
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        shown.push(format!("{cause} {cause:?}"));
        source = cause.source();
    }

    let url = format!("redis://default:s3cret@{}", server.address());
    let backend =
        RedisBackend::connect(RedisConfig::from_url(&url).unwrap().connect_timeout(LIMIT))
            .await
            .unwrap();
    shown.push(format!("{backend:?} {backend:#?}"));
    let shown = shown.join(" ");
    assert!(
        !shown.contains("s3cret") && !shown.contains("wr0ng"),
        "{shown}"
    );
    let grant = held(
        backend
            .acquire(&lock("password"), &candidate("a", 1), LONG)
            .await
            .unwrap(),
    );

    // A password is changed under a running service.
    let backend = RedisBackend::lazy(wrong).unwrap();
    assert_eq!(acquire_error(&backend).await.kind(), ErrorKind::Forbidden);
    backend.set_password("s3cret");
    renewed(backend.renew(&grant, Time::ZERO).await.unwrap());
}

#[tokio::test]
async fn missing_permissions_are_named_with_the_line_that_grants_them() {
    let Some(server) = start(&[]) else { return };
    let user = |name: &str| server.config().user(name).password("pw");
    server.command(&["ACL", "SETUSER", "none", "on", ">pw", "+ping"]);
    let backend = RedisBackend::lazy(user("none")).unwrap();
    let error = acquire_error(&backend).await;
    assert_error(&error, ErrorKind::Forbidden, "evalsha");
    assert_error(
        &error,
        ErrorKind::Forbidden,
        "ACL SETUSER <user> ~tenure:* &tenure:*",
    );

    // In another's keys.
    server.command(&[
        "ACL", "SETUSER", "other", "on", ">pw", "~other:*", "&other:*", "+@all",
    ]);
    let backend = RedisBackend::lazy(user("other")).unwrap();
    let error = acquire_error(&backend).await;
    assert_error(&error, ErrorKind::Forbidden, "~tenure:*");

    // A command inside a script.
    server.command(&[
        "ACL", "SETUSER", "part", "on", ">pw", "~*", "&*", "+@all", "-set",
    ]);
    let backend = RedisBackend::lazy(user("part")).unwrap();
    let error = acquire_error(&backend).await;
    assert_error(&error, ErrorKind::Forbidden, "+set");

    // Without it no failover is noticed.
    server.command(&[
        "ACL", "SETUSER", "blind", "on", ">pw", "~*", "&*", "+@all", "-info",
    ]);
    let backend = RedisBackend::lazy(user("blind")).unwrap();
    let error = acquire_error(&backend).await;
    assert_error(&error, ErrorKind::Forbidden, "+info");

    // The line is enough.
    let text = error.to_string();
    let line = text.split("ACL SETUSER <user> ").nth(1).unwrap();
    let mut command = vec!["ACL", "SETUSER", "granted", "on", ">pw"];
    command.extend(line.split(' '));
    server.command(&command);
    let backend = RedisBackend::connect(user("granted").wait_for_replicas(0, LONG))
        .await
        .unwrap();
    assert!(
        !backend
            .connect_checks()
            .iter()
            .any(|check| check.name == "settings"),
        "{:?}",
        backend.connect_checks()
    );
    let lock = lock("permissions");
    let mut changes = backend.changes(&lock);
    let grant = held(
        backend
            .acquire(&lock, &candidate("a", 1), LONG)
            .await
            .unwrap(),
    );
    let hint = futures_util::StreamExt::next(&mut changes);
    assert!(within_limit("a hint", hint).await.is_some());
    let grant = renewed(backend.renew(&grant, Time::ZERO).await.unwrap());

    // An observer needs no right to write.
    server.command(&[
        "ACL",
        "SETUSER",
        "reader",
        "on",
        ">pw",
        "%R~tenure:*",
        "+get",
        "+pttl",
        "+ping",
    ]);
    let reader = RedisBackend::lazy(user("reader")).unwrap();
    assert!(matches!(
        reader.holder(&lock).await.unwrap(),
        Occupancy::Led(_)
    ));
    // Its stream of hints ends, so that it polls.
    let mut none = reader.changes(&lock);
    assert!(
        within_limit("the end", futures_util::StreamExt::next(&mut none))
            .await
            .is_none()
    );

    // Who may not publish still releases.
    server.command(&["ACL", "SETUSER", "granted", "-publish"]);
    backend.release(&grant).await.unwrap();
    assert_eq!(backend.holder(&lock).await.unwrap(), Occupancy::Free);
}

#[tokio::test]
async fn a_replica_is_refused_at_the_start_and_waited_for_later() {
    let Some((master, replica)) = start_pair(&[]) else {
        return;
    };
    let error = RedisBackend::connect(replica.config()).await.unwrap_err();
    assert_error(&error, ErrorKind::Misconfigured, "is a replica");

    let backend = master.connect().await;
    let grant = held(
        backend
            .acquire(&lock("demoted"), &candidate("a", 1), LONG)
            .await
            .unwrap(),
    );
    // The server is demoted under a connection that stays open.
    let port = replica.port.to_string();
    master.command(&["REPLICAOF", "127.0.0.1", &port]);
    let error = backend.renew(&grant, Time::ZERO).await.unwrap_err();
    assert_error(&error, ErrorKind::Unavailable, "replica");
    master.command(&["REPLICAOF", "NO", "ONE"]);
    until("it is a master again", async || {
        backend.renew(&grant, Time::ZERO).await.is_ok()
    })
    .await;
}

/// A server that becomes a replica throws its data away while a connection to it stays open.
#[tokio::test]
async fn an_emptied_replica_knows_nothing_of_a_term() {
    let (Some(demoted), Some(empty)) = (start(&[]), start(&[])) else {
        return;
    };
    let [backend, observer] = [demoted.connect().await, demoted.connect().await];
    let (lock, me) = (lock("emptied"), candidate("a", 1));
    let grant = held(backend.acquire(&lock, &me, LONG).await.unwrap());
    assert!(matches!(
        observer.holder(&lock).await.unwrap(),
        Occupancy::Led(_)
    ));
    demoted.command(&["REPLICAOF", "127.0.0.1", &empty.port.to_string()]);
    wait_for_link(&demoted);
    assert_eq!(demoted.text(&["DBSIZE"]), "0");
    let error = backend.renew(&grant, Time::ZERO).await.unwrap_err();
    assert_error(&error, ErrorKind::Unavailable, "replica");
    let error = backend.release(&grant).await.unwrap_err();
    assert_error(&error, ErrorKind::Unavailable, "replica");
    let error = backend.withdraw(&lock, &me).await.unwrap_err();
    assert_error(&error, ErrorKind::Unavailable, "replica");
    let error = observer.holder(&lock).await.unwrap_err();
    assert_error(&error, ErrorKind::Unavailable, "replica");
}

#[tokio::test]
async fn too_few_replicas_and_a_server_that_loads_are_told() {
    let Some(server) = start(&["--min-replicas-to-write", "1"]) else {
        return;
    };
    let backend = server.connect().await;
    let error = acquire_error(&backend).await;
    assert_error(&error, ErrorKind::Unavailable, "NOREPLICAS");

    let Some(mut server) = start(&[]) else { return };
    let backend = server.connect().await;
    server.command(&["CONFIG", "SET", "rdbcompression", "no"]);
    let fill = "for key = 1, 1000 do redis.call('SET', key, string.rep('x', 100)) end";
    server.command(&["EVAL", fill, "0"]);
    server.command(&["SAVE"]);
    server.kill();
    // 20 ms for each key, and a look at the network after each ten.
    server.restart_with(&[
        "--key-load-delay",
        "20000",
        "--loading-process-events-interval-bytes",
        "1024",
    ]);
    let error = acquire_error(&backend).await;
    assert_error(&error, ErrorKind::Unavailable, "LOADING");
}

#[tokio::test]
async fn settings_under_which_locks_are_lost_are_found() {
    let Some(server) = start(&["--maxmemory", "100mb", "--maxmemory-policy", "volatile-lru"])
    else {
        return;
    };
    let backend = server.connect().await;
    let [eviction, persistence] = backend.connect_checks() else {
        panic!("{:?}", backend.connect_checks());
    };
    assert_eq!(
        (eviction.name, eviction.verdict),
        ("eviction", Verdict::Unusable)
    );
    assert!(eviction.reason.contains("volatile-lru"), "{eviction:?}");
    assert_eq!(
        (persistence.name, persistence.verdict),
        ("persistence", Verdict::Warning)
    );
    assert!(
        persistence.reason.contains("nothing is kept"),
        "{persistence:?}"
    );
    server.command(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]);
    server.command(&["CONFIG", "SET", "save", "60 1"]);
    let backend = server.connect().await;
    let [persistence] = backend.connect_checks() else {
        panic!("{:?}", backend.connect_checks());
    };
    assert_eq!(persistence.name, "persistence");
    assert!(
        persistence.reason.contains("last writes"),
        "{persistence:?}"
    );
    server.command(&[
        "CONFIG",
        "SET",
        "appendonly",
        "yes",
        "appendfsync",
        "always",
    ]);
    assert_eq!(server.connect().await.connect_checks(), []);

    server.command(&[
        "ACL", "SETUSER", "managed", "on", ">pw", "~*", "&*", "+@all", "-config",
    ]);
    let config = server.config().user("managed").password("pw");
    let backend = RedisBackend::connect(config).await.unwrap();
    assert!(
        matches!(backend.connect_checks(), [check]
            if check.name == "settings" && check.reason.contains("config")),
        "{:?}",
        backend.connect_checks()
    );

    let Some((master, _replica)) = start_pair(&["--appendonly", "yes", "--appendfsync", "always"])
    else {
        return;
    };
    let backend = master.connect().await;
    let [replication] = backend.connect_checks() else {
        panic!("{:?}", backend.connect_checks());
    };
    assert_eq!(replication.name, "replication");
    assert!(replication.reason.contains("cut off"), "{replication:?}");
    // It grants no term that no replica has.
    let config = master.config().wait_for_replicas(1, Duration::from_secs(1));
    let backend = RedisBackend::connect(config).await.unwrap();
    assert_eq!(backend.connect_checks(), []);
}

/// Passes connections on to a server, until those that are open are told to swallow everything.
struct Hole {
    port: u16,
    swallow: Arc<AtomicBool>,
}

async fn hole(server: &Server) -> Hole {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let swallow = Arc::new(AtomicBool::new(false));
    let (target, flag) = (server.address(), swallow.clone());
    tokio::spawn(async move {
        loop {
            let (client, _) = listener.accept().await.unwrap();
            // Connections made after the hole has opened work.
            let swallow = if flag.load(Ordering::SeqCst) {
                Arc::default()
            } else {
                flag.clone()
            };
            let server = TcpStream::connect(&target).await.unwrap();
            let (client_read, client_write) = client.into_split();
            let (server_read, server_write) = server.into_split();
            tokio::spawn(pass(client_read, server_write, swallow.clone()));
            tokio::spawn(pass(server_read, client_write, swallow));
        }
    });
    Hole { port, swallow }
}

async fn pass(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    swallow: Arc<AtomicBool>,
) {
    let mut buffer = [0; 4096];
    while let Ok(count) = from.read(&mut buffer).await {
        if count == 0 {
            return;
        }
        if !swallow.load(Ordering::SeqCst) && to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}

#[tokio::test]
async fn a_connection_that_swallows_everything_is_replaced_though_callers_give_up_early() {
    let Some(server) = start(&[]) else { return };
    let hole = hole(&server).await;
    let config = RedisConfig::server(&format!("127.0.0.1:{}", hole.port))
        .unwrap()
        // Far longer than the callers wait.
        .request_timeout(LONG);
    let backend = RedisBackend::connect(config).await.unwrap();
    let grant = held(
        backend
            .acquire(&lock("hole"), &candidate("a", 1), LONG)
            .await
            .unwrap(),
    );
    hole.swallow.store(true, Ordering::SeqCst);
    until("a heartbeat gets through", async || {
        let call = backend.renew(&grant, Time::ZERO);
        let answer = tokio::time::timeout(Duration::from_millis(60), call).await;
        answer.is_ok_and(|renewal| renewal.is_ok())
    })
    .await;
}

#[test]
fn a_backend_whose_runtime_is_gone_says_so() {
    let Some(server) = start(&[]) else { return };
    let first = tokio::runtime::Runtime::new().unwrap();
    let backend = first.block_on(server.connect());
    drop(first);
    let second = tokio::runtime::Runtime::new().unwrap();
    let error = second.block_on(acquire_error(&backend));
    assert_error(&error, ErrorKind::Unavailable, "runtime");
    let hint = async {
        let mut changes = backend.changes(&lock("gone"));
        futures_util::StreamExt::next(&mut changes).await
    };
    assert!(second.block_on(within_limit("the end", hint)).is_none());
}

fn found<'a>(checks: &'a [Check], name: &str) -> &'a Check {
    let check = checks.iter().find(|check| check.name == name);
    check.unwrap_or_else(|| panic!("no check {name}: {checks:?}"))
}

fn verdict(checks: &[Check], name: &str) -> Verdict {
    found(checks, name).verdict
}

#[tokio::test]
async fn a_diagnosis_tells_eviction_and_each_missing_right_and_changes_nothing() {
    let Some(server) = start(&["--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru"]) else {
        return;
    };
    let backend = server.connect().await;
    let checks = backend.checks(&lock("looked-at"), LONG).await;
    assert_eq!(verdict(&checks, "eviction"), Verdict::Unusable);
    assert_eq!(verdict(&checks, "persistence"), Verdict::Warning);
    assert_eq!(verdict(&checks, "server version"), Verdict::Fine);
    assert_eq!(verdict(&checks, "permissions"), Verdict::Fine);
    assert_eq!(verdict(&checks, "encryption"), Verdict::Fine);

    for missing in [
        "get", "set", "del", "pexpire", "pttl", "time", "eval", "evalsha",
    ] {
        let user = format!("without-{missing}");
        let without = format!("-{missing}");
        server.command(&[
            "ACL", "SETUSER", &user, "on", ">pw", "~*", "&*", "+@all", &without,
        ]);
        let config = server.config().user(&user).password("pw");
        let backend = RedisBackend::connect(config).await.unwrap();
        let checks = backend.checks(&lock("looked-at"), LONG).await;
        let check = checks.iter().find(|check| check.name == "permissions");
        let check = check.unwrap();
        assert_eq!(check.verdict, Verdict::Unusable, "{missing}: {check:?}");
        let named = check.reason.to_lowercase().contains(missing);
        assert!(named, "{missing}: {check:?}");
        assert!(check.remedy.as_ref().unwrap().contains("ACL SETUSER"));
    }
    assert_eq!(server.command(&["DBSIZE"]), redis::Value::Int(0));
}

#[tokio::test]
async fn a_diagnosis_asks_for_the_replicas_that_have_to_confirm() {
    let Some((master, replica)) = start_pair(&["--appendonly", "yes", "--appendfsync", "always"])
    else {
        return;
    };
    let patient = |server: &Server| {
        let config = server.config().request_timeout(LIMIT);
        config.wait_for_replicas(1, LIMIT / 2)
    };
    let checks_of = async |config: RedisConfig| {
        let backend = RedisBackend::connect(config).await.unwrap();
        backend.checks(&lock("replicated"), LONG).await
    };
    let checks = checks_of(patient(&master)).await;
    assert_eq!(verdict(&checks, "replication"), Verdict::Fine, "{checks:?}");
    // Either of the two settings is enough, and without both it is told.
    let checks = checks_of(master.config()).await;
    assert_eq!(verdict(&checks, "replication"), Verdict::Warning);
    master.command(&["CONFIG", "SET", "min-replicas-to-write", "1"]);
    let checks = checks_of(master.config()).await;
    assert_eq!(verdict(&checks, "replication"), Verdict::Fine);
    master.command(&["CONFIG", "SET", "min-replicas-to-write", "0"]);

    // A busy replica may be late.
    let confirmed_by = async |count: usize, asked: u32| {
        let config = master.config();
        let config = config.wait_for_replicas(asked, Duration::from_millis(50));
        until("as many are counted", async || {
            let checks = checks_of(config.clone()).await;
            let check = found(&checks, "replication");
            assert_eq!(check.verdict, Verdict::Unusable, "{check:?}");
            let remedy = check.remedy.as_ref().unwrap();
            assert!(remedy.contains("wait_replicas"), "{check:?}");
            let numbers = format!("{count} of the {asked} replicas");
            check.reason.contains(&numbers)
        })
        .await;
    };
    confirmed_by(1, 2).await;
    // Still linked, and silent.
    replica.freeze();
    confirmed_by(0, 1).await;
    replica.thaw();
    drop(replica);
    confirmed_by(0, 2).await;

    master.command(&[
        "ACL", "SETUSER", "hasty", "on", ">pw", "~*", "&*", "+@all", "-wait",
    ]);
    let checks = checks_of(patient(&master).user("hasty").password("pw")).await;
    let check = found(&checks, "permissions");
    assert_eq!(check.verdict, Verdict::Unusable, "{check:?}");
    assert!(check.reason.contains("wait"), "{check:?}");
    // Nobody waits.
    let hasty = master.config().user("hasty").password("pw");
    let checks = checks_of(hasty).await;
    assert_eq!(verdict(&checks, "permissions"), Verdict::Fine);
}

#[tokio::test]
async fn a_diagnosis_tells_that_waiting_candidates_would_poll() {
    let Some(server) = start(&[]) else { return };
    let checks_of = async |config: RedisConfig| {
        let backend = RedisBackend::connect(config).await.unwrap();
        backend.checks(&lock("heard"), LONG).await
    };
    let checks = checks_of(server.config()).await;
    assert_eq!(verdict(&checks, "wake-ups"), Verdict::Fine);
    for (user, rights) in [
        ("deaf", ["+@all", "-subscribe", "&*"]),
        ("entangled", ["+@all", "-unsubscribe", "&*"]),
        ("elsewhere", ["+@all", "resetchannels", "&*:doctor"]),
        // No one who elects needs it: so this is no more than a warning too.
        ("mute", ["+@all", "-publish", "&*"]),
    ] {
        let mut command = vec!["ACL", "SETUSER", user, "on", ">pw", "~*"];
        command.extend(rights);
        server.command(&command);
        let checks = checks_of(server.config().user(user).password("pw")).await;
        let check = found(&checks, "wake-ups");
        assert_eq!(check.verdict, Verdict::Warning, "{user}: {check:?}");
        assert!(check.reason.contains("poll"), "{user}: {check:?}");
        assert!(check.remedy.as_ref().unwrap().contains("+subscribe"));
    }
    until("no subscription is left behind", async || {
        let pubsub = ["CLIENT", "LIST", "TYPE", "pubsub"];
        server.text(&pubsub).is_empty()
    })
    .await;
}

/// What a promoted replica may find: an attempt whose taking back it never heard of.
#[tokio::test]
async fn an_attempt_from_before_a_failover_is_not_adopted() {
    let Some(server) = start(&[]) else { return };
    let backend = server.connect().await;
    let (lock, me) = (lock("attempt"), candidate("a", 1));
    let grant = held(backend.acquire(&lock, &me, LONG).await.unwrap());
    let (key, mark) = ("tenure:{attempt}", "tenure:{attempt}:fence");
    let written = server.text(&["GET", mark]);
    let (last, rest) = written.split_once(' ').unwrap();
    let (_, lease) = rest.split_once(' ').unwrap();
    // Ahead of the clock by an hour, as after a clock that was set back.
    let ahead = last.parse::<u64>().unwrap() + 36_000_000;
    let elsewhere = "0".repeat(40);
    server.command(&["SET", mark, &format!("{ahead} {elsewhere} {lease}")]);
    let again = backend.acquire(&lock, &me, LONG).await.unwrap();
    assert!(is_taken(&again), "{again:?}");
    assert_eq!(backend.incarnation_changes(), 1);
    assert!(is_lost(&backend.renew(&grant, Time::ZERO).await.unwrap()));
    // As if the lease had passed. Terms that nobody here has heard of were counted up too.
    server.command(&["DEL", key]);
    let next = held(backend.acquire(&lock, &me, LONG).await.unwrap());
    assert!(next.token.as_u64() > ahead + 100_000, "{next:?}");
}

/// The server repeats the arguments of a command that it does not know.
#[tokio::test]
async fn a_password_is_not_shown_by_a_server_without_auth() {
    let Some(server) = start(&["--rename-command", "AUTH", ""]) else {
        return;
    };
    let config = server.config().user("app").password("hunter2");
    let backend = RedisBackend::lazy(config).unwrap();
    let error = acquire_error(&backend).await;
    let shown = format!("{error} {error:?}");
    assert!(!shown.contains("hunter2"), "{shown}");
    let source = std::error::Error::source(&error).map(|source| format!("{source} {source:?}"));
    assert!(!source.unwrap_or_default().contains("hunter2"));
    assert!(shown.contains("AUTH"), "{shown}");
}

/// Everything that the documentation asked for before values were read in part.
#[tokio::test]
async fn a_user_with_the_rights_of_the_version_before_goes_on() {
    let Some(server) = start(&[]) else { return };
    server.command(&["SET", "tenure:{rights}", "x"]);
    let rights = "~tenure:* &tenure:* +@connection +evalsha +eval +get +set +del +pexpire +pttl \
                  +time +info +publish +subscribe +unsubscribe +wait +cluster|slots \
                  +cluster|nodes +config|get";
    let mut command = vec!["ACL", "SETUSER", "app", "on", ">pw"];
    command.extend(rights.split_whitespace());
    server.command(&command);
    let user = server.config().user("app").password("pw");
    let backend = RedisBackend::connect(user).await.unwrap();
    let lock = lock("rights");
    // The same is said of what others have written.
    let error = backend.acquire(&lock, &candidate("a", 1), LONG).await;
    assert_error(&error.unwrap_err(), ErrorKind::Corrupted, "DEL");
    server.command(&["DEL", "tenure:{rights}"]);
    let grant = backend.acquire(&lock, &candidate("a", 1), LONG).await;
    let grant = renewed(
        backend
            .renew(&held(grant.unwrap()), Time::ZERO)
            .await
            .unwrap(),
    );
    assert!(matches!(
        backend.holder(&lock).await.unwrap(),
        Occupancy::Led(_)
    ));
    backend.release(&grant).await.unwrap();
    let checks = backend.checks(&lock, LONG).await;
    assert_eq!(verdict(&checks, "permissions"), Verdict::Fine);
    let size = found(&checks, "value size");
    assert_eq!(size.verdict, Verdict::Warning);
    assert!(
        size.remedy.as_ref().unwrap().contains("+getrange"),
        "{size:?}"
    );
    // The server is asked for a part once on each connection, and not with each call.
    let refused = server.text(&["ACL", "LOG"]);
    assert!(!refused.contains("count 3"), "{refused}");
}

#[tokio::test]
async fn a_disabled_command_is_named_at_the_start() {
    for (command, needed) in [
        ("TIME", true),
        ("GET", true),
        ("PTTL", true),
        ("PUBLISH", false),
    ] {
        let Some(server) = start(&["--rename-command", command, ""]) else {
            return;
        };
        let connected = RedisBackend::connect(server.config()).await;
        if !needed {
            connected.unwrap();
            continue;
        }
        let error = connected.unwrap_err();
        assert_error(&error, ErrorKind::Unsupported, command);
        assert_error(&error, ErrorKind::Unsupported, "rename-command");
        let lazy = RedisBackend::lazy(server.config()).unwrap();
        if command != "PTTL" {
            let error = acquire_error(&lazy).await;
            assert_error(&error, ErrorKind::Unsupported, command);
            assert!(!error.is_retryable(), "{error}");
        }
        let checks = lazy.checks(&lock("faults"), LONG).await;
        let elections = found(&checks, "elections");
        assert_eq!(elections.verdict, Verdict::Unusable);
        assert!(elections.reason.contains(command), "{elections:?}");
    }
}

#[tokio::test]
async fn a_caller_that_is_not_polled_holds_no_other_back() {
    let Some((master, replica)) = start_pair(&[]) else {
        return;
    };
    let config = master
        .config()
        .wait_for_replicas(1, Duration::from_secs(2))
        .request_timeout(LIMIT);
    let backend = RedisBackend::connect(config).await.unwrap();
    let (one, two) = (lock("unpolled"), lock("polled"));
    let me = candidate("a", 1);
    // So that the server knows the scripts; a busy replica may take longer.
    until("the replica confirms", async || {
        let acquired = backend.acquire(&one, &me, LONG).await;
        let Ok(acquired) = acquired else { return false };
        backend.release(&held(acquired)).await.is_ok()
    })
    .await;
    replica.freeze();
    let mut first = backend.acquire(&one, &me, LONG);
    until("it waits for the replica", async || {
        let pending = futures_util::future::poll_immediate(&mut first).await;
        assert!(pending.is_none());
        master
            .text(&["INFO", "clients"])
            .contains("blocked_clients:1")
    })
    .await;
    let error = backend.acquire(&two, &me, LONG).await.unwrap_err();
    assert_error(&error, ErrorKind::Unavailable, "only 0 of the 1 replicas");
    drop(first);
    replica.thaw();
}

#[tokio::test]
async fn a_server_is_reached_by_its_socket() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("redis.sock");
    let path = path.to_str().unwrap();
    let Some(server) = start(&["--unixsocket", path]) else {
        return;
    };
    let config = RedisConfig::from_url(&format!("redis+unix://{path}?db=2")).unwrap();
    let backend = RedisBackend::connect(config).await.unwrap();
    let lock = lock("socket");
    let grant = backend.acquire(&lock, &candidate("a", 1), LONG).await;
    let grant = renewed(
        backend
            .renew(&held(grant.unwrap()), Time::ZERO)
            .await
            .unwrap(),
    );
    assert!(server.text(&["INFO", "keyspace"]).contains("db2:keys=2"));
    assert_eq!(
        verdict(&backend.checks(&lock, LONG).await, "encryption"),
        Verdict::Fine
    );
    backend.release(&grant).await.unwrap();
    let gone = RedisConfig::socket(format!("{path}.gone")).unwrap();
    let error = RedisBackend::connect(gone).await.unwrap_err();
    assert_error(&error, ErrorKind::Unavailable, "redis.sock.gone: ");
}

#[tokio::test]
async fn a_password_that_changes_in_its_file_ends_no_term() {
    let Some(server) = start(&[]) else { return };
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("password");
    std::fs::write(&file, "first\n").unwrap();
    let all = ["~tenure:*", "&tenure:*", "+@all"];
    let mut user = vec!["ACL", "SETUSER", "app", "on", ">first"];
    user.extend(all);
    server.command(&user);
    let config = server.config().user("app").password_file(&file);
    let backend = RedisBackend::connect(config).await.unwrap();
    let lock = lock("rotated");
    let grant = backend.acquire(&lock, &candidate("a", 1), LONG).await;
    let mut grant = held(grant.unwrap());
    let mut changes = backend.changes(&lock);
    for (old, new) in [("first", "second"), ("second", "third")] {
        // Both count until everybody has the new one.
        server.command(&["ACL", "SETUSER", "app", &format!(">{new}")]);
        std::fs::write(&file, new).unwrap();
        server.command(&["ACL", "SETUSER", "app", &format!("<{old}")]);
        server.command(&["CLIENT", "KILL", "TYPE", "normal"]);
        server
            .try_command(&["CLIENT", "KILL", "TYPE", "pubsub"])
            .ok();
        grant = renewed(backend.renew(&grant, Time::ZERO).await.unwrap());
        let hint = futures_util::StreamExt::next(&mut changes);
        assert!(within_limit("a hint", hint).await.is_some());
    }
}
