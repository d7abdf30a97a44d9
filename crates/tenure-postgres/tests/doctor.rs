//! What `doctor` says of a server is what the next election meets there.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod support;

use std::time::Duration;

use support::{Connects as _, config_at};
use tenure_core::{Acquired, Check, LockBackend as _, Verdict};
use tenure_postgres::{AdvisoryKey, PostgresBackend, PostgresConfig};
use tenure_testkit::postgres::{Bouncer, PASSWORD, Server, start, start_another_cluster};
use tenure_testkit::{LONG, candidate, free_port, lock};

/// A state of a server, and the word that doctor and the election's error have in common; none
/// where the election is held.
type State = (&'static str, PostgresConfig, Option<&'static str>);

const ROLES: &str = "
    CREATE ROLE reads LOGIN PASSWORD 'correct-horse';
    ALTER ROLE reads SET default_transaction_read_only = on;
    CREATE ROLE volatile LOGIN PASSWORD 'correct-horse';
    ALTER ROLE volatile SET synchronous_commit = off;
    CREATE ROLE local LOGIN PASSWORD 'correct-horse';
    ALTER ROLE local SET synchronous_commit = local;
    CREATE ROLE loads LOGIN PASSWORD 'correct-horse';
    ALTER ROLE loads SET session_preload_libraries = 'missing';
    CREATE ROLE odd LOGIN PASSWORD 'correct-horse';
    ALTER ROLE odd SET search_path = public, pg_catalog;
    ALTER ROLE odd SET statement_timeout = '30s';
    ALTER ROLE odd SET idle_session_timeout = '30s';
    CREATE SEQUENCE good;
    GRANT USAGE ON SEQUENCE good TO PUBLIC;
    CREATE SEQUENCE cached CACHE 10;
    GRANT USAGE ON SEQUENCE cached TO PUBLIC;
    CREATE SEQUENCE secret;
    CREATE SCHEMA everybodys;
    GRANT ALL ON SCHEMA everybodys TO PUBLIC;
    CREATE SEQUENCE everybodys.loose;
    GRANT USAGE ON SEQUENCE everybodys.loose TO PUBLIC;
    CREATE ROLE finds LOGIN PASSWORD 'correct-horse';
    ALTER ROLE finds SET search_path = everybodys";

/// What an election meets: the error of connecting, or of the first try.
async fn elect(config: PostgresConfig) -> Result<(), String> {
    let said = |error: tenure_core::Error| error.to_string();
    let backend = PostgresBackend::connect(config).await.map_err(said)?;
    let tried = backend
        .acquire(&lock("batch"), &candidate("ann", 1), LONG)
        .await;
    match tried.map_err(said)? {
        Acquired::Held(grant) => backend.release(&grant).await.map_err(said),
        _ => Ok(()),
    }
}

/// What doctor says: the reasons why no election can be held.
async fn examine(config: PostgresConfig) -> Vec<String> {
    let backend = match PostgresBackend::connect(config.only_looks(true)).await {
        Ok(backend) => backend,
        Err(error) => return vec![error.to_string()],
    };
    let unusable = |check: &Check| check.verdict == Verdict::Unusable;
    let looked = backend.holder(&lock("batch")).await.err();
    let checks = backend.checks(&lock("batch"), LONG).await;
    let checks = checks.iter().filter(|check| unusable(check));
    let reasons = checks.map(|check| check.reason.clone());
    looked
        .map(|error| error.to_string())
        .into_iter()
        .chain(reasons)
        .collect()
}

fn with(server: &Server, parameters: &str) -> PostgresConfig {
    let config = PostgresConfig::from_url(&format!("{}&{parameters}", server.url()));
    config.unwrap().connect_timeout(Duration::from_secs(20))
}

/// States of roles, sequences and settings.
fn states_of(server: &Server) -> Vec<State> {
    let url = |parameters: &str| with(server, parameters);
    let role = |name: &str| server.config().user(name);
    let young = server.config().quarantine(true);
    let reads = "default_transaction_read_only";
    let loads = "session_preload_libraries";
    let key = AdvisoryKey::of(&lock("batch"));
    let key = server.config().key(lock("other"), key).unwrap();
    vec![
        ("a server as it is", server.config(), None),
        ("one that was just started", young, None),
        ("a role with settings of its own", role("odd"), None),
        ("commits that wait for no standby", role("local"), None),
        ("a role that only reads", role("reads"), Some(reads)),
        (
            "commits that do not wait",
            role("volatile"),
            Some("synchronous_commit"),
        ),
        ("a library that is missing", role("loads"), Some(loads)),
        ("no such role", role("nobody"), Some("user")),
        ("a token sequence", url("token_sequence=public.good"), None),
        (
            "a cached one",
            url("token_sequence=public.cached"),
            Some("CACHE 1"),
        ),
        (
            "one that is missing",
            url("token_sequence=public.none"),
            Some("no sequence"),
        ),
        (
            "one of others",
            url("token_sequence=public.secret").user("odd"),
            Some("USAGE"),
        ),
        (
            "one found where others may put another",
            url("token_sequence=loose").user("finds"),
            Some("everybodys"),
        ),
        (
            "the same, named with its schema",
            url("token_sequence=everybodys.loose").user("finds"),
            None,
        ),
        ("another lock's key", key, Some("one key")),
        (
            "a channel that is bound if it can be",
            url("channel_binding=prefer"),
            None,
        ),
        (
            "one that must be",
            url("channel_binding=require"),
            Some("channel_binding"),
        ),
    ]
}

#[tokio::test]
async fn doctor_and_the_next_election_agree_on_each_state() {
    let Some(server) = start(&[]) else { return };
    let Some(bouncer) = Bouncer::start(&server, "transaction") else {
        return;
    };
    let Some(other) = start_another_cluster(free_port()) else {
        return;
    };
    let standby = server.standby();
    server.admin().await.batch_execute(ROLES).await.unwrap();
    let two = format!(
        "postgres://app:{PASSWORD}@127.0.0.1:{},127.0.0.1:{}/postgres?sslmode=disable",
        server.port, other.port
    );
    let two = PostgresConfig::from_url(&two).unwrap();
    let two = two.connect_timeout(Duration::from_secs(20));
    let mut states = states_of(&server);
    let wrong = server.config().password("wrong");
    let missing = server.config().database("missing");
    states.extend([
        ("a wrong password", wrong, Some("password")),
        ("no such database", missing, Some("database")),
        ("a standby", standby.config(), Some("standby")),
        ("a pooler", config_at(bouncer.port), Some("pooler")),
        ("no server", config_at(free_port()), Some("refused")),
        ("two clusters", two, Some("system identifier")),
    ]);
    println!("| state | election | doctor |\n|---|---|---|");
    let mut wrong = Vec::new();
    for (state, config, word) in states {
        let met = elect(config.clone()).await.err();
        let said = examine(config).await;
        let shown = |held: bool| if held { "held" } else { "refused" };
        let (election, doctor) = (shown(met.is_none()), shown(said.is_empty()));
        println!("| {state} | {election} | {doctor} |");
        let agree = word.map_or(met.is_none() && said.is_empty(), |word| {
            let has = |text: &String| text.contains(word);
            met.as_ref().is_some_and(has) && said.iter().any(has)
        });
        if !agree {
            wrong.push(format!("{state}: {word:?}, {met:?}, {said:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Functions that were taken away from everybody.
#[tokio::test]
async fn doctor_and_the_next_election_agree_on_functions_that_are_forbidden() {
    let Some(server) = start(&[]) else { return };
    let admin = server.admin().await;
    admin.batch_execute(ROLES).await.unwrap();
    let revoke = "REVOKE EXECUTE ON FUNCTION pg_try_advisory_lock(bigint) FROM PUBLIC";
    admin.batch_execute(revoke).await.unwrap();
    let config = server.config().user("odd");
    let met = elect(config.clone()).await.unwrap_err();
    let said = examine(config).await.join("; ");
    for text in [&met, &said] {
        assert!(text.contains("pg_try_advisory_lock"), "{met} | {said}");
    }
}
