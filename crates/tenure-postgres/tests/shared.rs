//! What other roles of the same database may do beside the elections.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use support::Connects as _;
use tenure_core::{Acquired, Election, Error, ErrorKind, LockBackend as _, Policy, Verdict};
use tenure_postgres::{PostgresBackend, PostgresConfig};
use tenure_testkit::postgres::{Bouncer, PASSWORD, Server, start, until};
use tenure_testkit::{LONG, candidate, held, leader, lock, renewed, taken, wait};
use tokio_postgres::{Client, NoTls};

/// Both may do what every role may; `mallory` makes the traps.
const ROLES: &str = "GRANT CREATE ON SCHEMA public TO PUBLIC;
    CREATE ROLE plain LOGIN PASSWORD 'correct-horse';
    CREATE ROLE mallory LOGIN PASSWORD 'correct-horse'";

/// A function that notes who has called it.
const TRAP: &str = "CREATE TABLE public.sprung (who name, what text);
    GRANT INSERT ON public.sprung TO PUBLIC;
    CREATE FUNCTION public.spring(what text) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN
        INSERT INTO public.sprung VALUES (current_user, what); RETURN true; END $$;
    CREATE VIEW public.pg_locks AS SELECT * FROM pg_catalog.pg_locks
        WHERE public.spring('pg_locks');
    CREATE FUNCTION public.spring_or(a bigint, b bigint) RETURNS bigint LANGUAGE sql
        AS 'SELECT a + b FROM public.spring(''operator'')';
    CREATE FUNCTION public.spring_or(a bigint, b integer) RETURNS bigint LANGUAGE sql
        AS 'SELECT a + b FROM public.spring(''operator'')';
    CREATE OPERATOR public.| (leftarg = bigint, rightarg = bigint, function = public.spring_or);
    CREATE OPERATOR public.| (leftarg = bigint, rightarg = integer, function = public.spring_or);
    CREATE FUNCTION public.spring_state(s bigint[], n bigint) RETURNS bigint[] LANGUAGE sql
        AS 'SELECT s FROM public.spring(''aggregate'')';
    CREATE AGGREGATE public.array_agg(bigint)
        (sfunc = public.spring_state, stype = bigint[], initcond = '{}');
    CREATE DOMAIN public.int8 AS bigint CHECK (public.spring('int8'))";

/// Functions that statements of this library call, with what would suit an attacker.
const FUNCTIONS: [(&str, &str, &str); 12] = [
    ("concat_ws(text, text, text)", "text", "'1'"),
    (
        "pg_logical_emit_message(boolean, text, text)",
        "pg_lsn",
        "'0/1'",
    ),
    ("pg_try_advisory_lock(bigint)", "boolean", "true"),
    ("pg_advisory_unlock(bigint)", "boolean", "true"),
    ("pg_advisory_lock_shared(integer, integer)", "void", "NULL"),
    ("pg_notify(text, text)", "void", "NULL"),
    ("pg_is_in_recovery()", "boolean", "false"),
    ("pg_postmaster_start_time()", "timestamptz", "now()"),
    ("current_setting(text)", "text", "current_setting($1, true)"),
    ("set_config(text, text, boolean)", "text", "$2"),
    ("to_regclass(text)", "regclass", "NULL"),
    ("has_sequence_privilege(oid, text)", "boolean", "true"),
];

async fn session(server: &Server, user: &str) -> Client {
    let port = server.port;
    let url = format!("host=127.0.0.1 port={port} user={user} password={PASSWORD} dbname=postgres");
    let (client, connection) = tokio_postgres::connect(&url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

fn config_of(server: &Server, user: &str) -> PostgresConfig {
    server.config().user(user)
}

async fn connect_as(server: &Server, user: &str) -> PostgresBackend {
    PostgresBackend::connect(config_of(server, user))
        .await
        .unwrap()
}

async fn traps(server: &Server) -> Client {
    let admin = server.admin().await;
    admin.batch_execute(ROLES).await.unwrap();
    let mallory = session(server, "mallory").await;
    mallory.batch_execute(TRAP).await.unwrap();
    for (signature, returns, value) in FUNCTIONS {
        let name = signature.split('(').next().unwrap();
        let from = format!("FROM public.spring('{name}')");
        let body = match returns {
            "void" => format!("SELECT {from}"),
            _ => format!("SELECT ({value})::{returns} {from}"),
        };
        let create = format!(
            "CREATE FUNCTION public.{signature} RETURNS {returns} LANGUAGE sql AS $$ {body} $$"
        );
        mallory.batch_execute(&create).await.unwrap();
    }
    admin
}

/// Whoever may create in a schema of the search path could have SQL run as the candidates.
#[tokio::test]
async fn no_name_of_ours_is_found_in_a_schema_that_others_write() {
    let Some(server) = start(&[]) else { return };
    let admin = traps(&server).await;
    // That of every role, and one by which other schemas come before the system's.
    for path in ["\"$user\", public", "public, pg_catalog"] {
        let alter = format!("ALTER ROLE plain SET search_path = {path}");
        admin.batch_execute(&alter).await.unwrap();
        let (a, b) = (
            connect_as(&server, "plain").await,
            connect_as(&server, "plain").await,
        );
        let name = lock("batch");
        let (ann, bob) = (candidate("ann", 1), candidate("bob", 2));
        let grant = held(a.acquire(&name, &ann, LONG).await.unwrap());
        let _changes = b.changes(&name);
        let holder = taken(b.acquire(&name, &bob, LONG).await.unwrap());
        assert_eq!(holder.unwrap().identity, "ann");
        let grant = renewed(a.renew(&grant, a.clock().now()).await.unwrap());
        let sees = async || leader(b.holder(&name).await.unwrap()).token == Some(grant.token);
        wait::until("the observer sees the token", sees).await;
        // The application sees its own search path in the session, and may even change it there.
        let mut transaction = a.begin(&name, grant.token).await.unwrap();
        let rows = transaction.query("SHOW search_path", &[]).await.unwrap();
        assert_eq!(rows[0].get::<_, &str>(0), path);
        let set = "SET search_path = public, pg_catalog";
        transaction.batch_execute(set).await.unwrap();
        transaction.commit().await.unwrap();
        let grant = renewed(a.renew(&grant, a.clock().now()).await.unwrap());
        let other = held(a.acquire(&lock("other"), &ann, LONG).await.unwrap());
        assert!(other.token > grant.token);
        a.release(&other).await.unwrap();
        let checks = a.checks(&name, LONG).await;
        let permissions = checks.iter().find(|check| check.name == "permissions");
        assert_eq!(permissions.unwrap().verdict, Verdict::Fine, "{checks:?}");
        a.release(&grant).await.unwrap();
        let next = held(b.acquire(&name, &bob, LONG).await.unwrap());
        assert!(next.token > other.token);
        b.release(&next).await.unwrap();
        let rows = admin.query("SELECT DISTINCT what FROM sprung WHERE who = 'plain'", &[]);
        let sprung: Vec<String> = rows.await.unwrap().iter().map(|row| row.get(0)).collect();
        assert!(sprung.is_empty(), "run as the candidates' role: {sprung:?}");
    }
}

/// The numbers of a sequence that others can put there could fall.
#[tokio::test]
async fn a_sequence_is_found_only_where_others_cannot_create_one() {
    let Some(server) = start(&[]) else { return };
    let admin = server.admin().await;
    admin.batch_execute(ROLES).await.unwrap();
    let mallory = session(&server, "mallory").await;
    let planted = "CREATE SEQUENCE public.fence START 7; GRANT USAGE ON SEQUENCE fence TO PUBLIC";
    mallory.batch_execute(planted).await.unwrap();
    let (name, ann) = (lock("batch"), candidate("ann", 1));
    let backend = async |sequence: &str| {
        let config = config_of(&server, "plain").token_sequence(sequence);
        PostgresBackend::connect(config).await.unwrap()
    };
    let refused = backend("fence").await.acquire(&name, &ann, LONG).await;
    let error = refused.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Misconfigured, "{error}");
    assert!(error.message().contains("public.fence"), "{error}");
    // Chosen by its whole name.
    let named = backend("public.fence").await;
    let grant = held(named.acquire(&name, &ann, LONG).await.unwrap());
    assert_eq!(grant.token.as_u64(), 7);
    named.release(&grant).await.unwrap();
    // A schema in which others cannot create comes first in the application's search path.
    let own = "CREATE SCHEMA own; GRANT USAGE ON SCHEMA own TO plain;
        CREATE SEQUENCE own.fence START 41; GRANT USAGE ON SEQUENCE own.fence TO plain;
        ALTER ROLE plain SET search_path = own, public";
    admin.batch_execute(own).await.unwrap();
    let found = backend("fence").await;
    let grant = held(found.acquire(&name, &ann, LONG).await.unwrap());
    assert_eq!(grant.token.as_u64(), 41);
}

/// Behind a pooler that is said to be in session mode and is not, and at servers that have one
/// session for all clients.
#[tokio::test]
async fn of_two_clients_that_share_a_session_one_at_most_leads() {
    let Some(server) = start(&[]) else { return };
    let Some(bouncer) = Bouncer::start(&server, "transaction") else {
        return;
    };
    let config = bouncer.config().session_pooler(true);
    let mut refusals = Vec::new();
    for round in 0..5 {
        let name = lock(&format!("batch-{round}"));
        let lead = async |identity: &str| {
            let backend = PostgresBackend::connect(config.clone()).await?;
            let candidate = candidate(identity, 1);
            let Acquired::Held(grant) = backend.acquire(&name, &candidate, LONG).await? else {
                return Ok(None);
            };
            Ok::<_, Error>(Some((backend, grant)))
        };
        let (ann, bob) = tokio::join!(lead("ann"), lead("bob"));
        let mut winners = Vec::new();
        for one in [ann, bob] {
            match one {
                Ok(winner) => winners.extend(winner),
                Err(error) => refusals.push(error),
            }
        }
        assert!(winners.len() < 2, "two grants in round {round}");
        for (backend, grant) in winners {
            match backend.renew(&grant, backend.clock().now()).await {
                Ok(_) => {}
                Err(error) => refusals.push(error),
            }
        }
    }
    println!("{refusals:?}");
    let told = |error: &Error| {
        error
            .message()
            .contains("another client uses the same session")
    };
    assert!(refusals.iter().any(told), "{refusals:?}");
}

/// How much memory of this process is in use, in MiB.
fn memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().nth(1));
    number.unwrap().parse::<u64>().unwrap() / 1024
}

/// What others send fills no memory, takes no term, and costs few calls.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_notifications_does_not_depose_the_leader() {
    const COUNT: u32 = 300_000;
    let Some(server) = start(&[]) else { return };
    let admin = server.admin().await;
    admin.batch_execute(ROLES).await.unwrap();
    let logged = "ALTER ROLE plain SET log_statement = 'all'";
    admin.batch_execute(logged).await.unwrap();
    let name = lock("batch");
    let policy = Policy::builder().lease(Duration::from_secs(30));
    let policy = policy.build().unwrap();
    let elect = async || {
        let backend = Arc::new(connect_as(&server, "plain").await);
        let key = backend.key_of(&name);
        let election = Election::builder(backend, name.clone()).policy(policy.clone());
        (election.build().unwrap(), key)
    };
    let ((ann, key), (bob, _)) = (elect().await, elect().await);
    let ann = ann.campaign().await.unwrap();
    let waiting = tokio::spawn(async move { bob.campaign().await.map(|_| ()) });
    let waits = "SELECT count(*) = 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted";
    until(&admin, waits).await;
    let mallory = session(&server, "mallory").await;
    let (before, began) = (memory(), Instant::now());
    let calls = |log: &str| log.matches('\n').count();
    let logged = calls(&server.log());
    // The server sends the same message of one transaction once.
    for said in [
        "ask {key}",
        "free {key}",
        "led {key} 9000000000 7 batch eve",
    ] {
        let said = said.replace("{key}", &key.to_string());
        let flood = format!(
            "SELECT count(pg_notify('tenure', '1 {said} =' || n)) FROM generate_series(1, {COUNT}) n"
        );
        let flooding = mallory.batch_execute(&flood);
        flooding.await.unwrap();
        assert!(ann.is_valid(), "deposed by {said}");
    }
    // All of them have been read when the queue is empty.
    until(&admin, "SELECT pg_notification_queue_usage() = 0").await;
    let proven = ann.confirm().await.unwrap();
    assert_eq!(proven.token, ann.token());
    let (grown, took) = (memory().saturating_sub(before), began.elapsed());
    let calls = calls(&server.log()) - logged;
    println!("{grown} MiB more, {calls} lines of the server's log in {took:?}");
    assert!(ann.is_valid() && !waiting.is_finished());
    assert!(grown < 64, "{grown} MiB");
    let most = 300.0 + 200.0 * took.as_secs_f64();
    assert!(
        f64::from(u32::try_from(calls).unwrap()) < most,
        "{calls} in {took:?}"
    );
    // What is true is still heard.
    ann.resign().await.unwrap();
    tokio::time::timeout(Duration::from_secs(60), waiting)
        .await
        .unwrap()
        .unwrap()
        .unwrap();
}
