//! Settings that a role, a database or a server can have: an election behaves as without them, or
//! its start is refused with the setting's name.
//!
//! All of them: `cargo test -p tenure-postgres --test settings -- --ignored --nocapture`.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod support;

use std::fs;
use std::time::Instant;

use futures_util::stream::{self, StreamExt as _};
use support::Connects as _;
use tenure_core::{
    Acquired, Candidate, Error, Hint, LockBackend as _, Occupancy, PublishedValue, Renewal,
};
use tenure_postgres::{PostgresBackend, PostgresConfig};
use tenure_testkit::postgres::{Server, start};
use tenure_testkit::{LONG, candidate, held, leader, lock, until, within_limit};
use tokio_postgres::Client;

/// All that a role can have, as the server lists them.
const SETTINGS: &str = "SELECT name, vartype, setting, coalesce(min_val, ''), \
    coalesce(max_val, ''), coalesce(enumvals, '{}') FROM pg_settings \
    WHERE context IN ('user', 'superuser') ORDER BY name";

/// Texts of all kinds; the server itself refuses some of them for some settings.
const ODD_TEXTS: [&str; 3] = ["", "odd", "o'dd \\\"ö\" $1; --"];

/// Settings whose texts have a form of their own.
const TEXTS: [(&str, &[&str]); 9] = [
    ("client_encoding", &["LATIN1", "SQL_ASCII", "SJIS"]),
    ("DateStyle", &["German, DMY", "SQL, MDY"]),
    ("TimeZone", &["Asia/Kathmandu", "-167:59:59"]),
    ("lc_messages", &["C"]),
    ("lc_monetary", &["C"]),
    ("restrict_nonsystem_relation_kind", &["view, foreign-table"]),
    ("wal_consistency_checking", &["all"]),
    ("createrole_self_grant", &["set, inherit"]),
    ("search_path", &["pg_temp, public", "\"$user\""]),
];

/// What a name has in it where a session of ours could depend on the setting.
const TELLING: [&str; 12] = [
    "timeout",
    "synchronous_commit",
    "search_path",
    "client_",
    "default_transaction_",
    "Style",
    "standard_conforming_strings",
    "track_activities",
    "preload_libraries",
    "exit_on_error",
    "lc_messages",
    "TimeZone",
];

/// One setting with one value.
#[derive(Clone, Debug, PartialEq)]
struct Extreme {
    name: String,
    value: String,
}

/// The extreme values of each setting.
async fn extremes(admin: &Client) -> Vec<Extreme> {
    // Its own settings are listed once it is loaded.
    admin.batch_execute("LOAD 'plpgsql'").await.unwrap();
    let mut extremes: Vec<Extreme> = Vec::new();
    for row in admin.query(SETTINGS, &[]).await.unwrap() {
        let text = |column| row.get::<_, String>(column);
        let (name, kind, now, least, most) = (text(0), text(1), text(2), text(3), text(4));
        let values: Vec<String> = match kind.as_str() {
            "bool" => vec!["on".to_owned(), "off".to_owned()],
            "enum" => row.get(5),
            // Where 0 means none, 1 is the least.
            "integer" | "real" => vec![least, "1".to_owned(), most],
            _ => {
                let own = TEXTS.iter().find(|(known, _)| *known == name);
                let own = own.map_or(&[][..], |(_, texts)| texts);
                ODD_TEXTS
                    .iter()
                    .chain(own)
                    .map(|&text| text.to_owned())
                    .collect()
            }
        };
        for value in values {
            let extreme = Extreme {
                name: name.clone(),
                value,
            };
            if extreme.value != now && !extremes.contains(&extreme) {
                extremes.push(extreme);
            }
        }
    }
    extremes
}

/// How an election went.
#[derive(Debug)]
enum Outcome {
    AsBefore,
    Refused(Error),
    #[expect(dead_code, reason = "it is printed")]
    Other(String),
}

/// A candidate that leads and publishes, waits for another one and looks at it.
async fn elect(
    config: PostgresConfig,
    app: &PostgresBackend,
    number: usize,
    extreme: &Extreme,
) -> Outcome {
    let backend = match PostgresBackend::connect(config).await {
        Ok(backend) => backend,
        Err(error) => return Outcome::Refused(error),
    };
    let own = lock(&format!("own-{number}"));
    let ann = candidate("ann", 1).with_value(PublishedValue::new("http://ann é").unwrap());
    let grant = match backend.acquire(&own, &ann, LONG).await {
        Ok(Acquired::Held(grant)) => grant,
        Ok(taken) => return Outcome::Other(format!("{taken:?}")),
        Err(error) => return Outcome::Refused(error),
    };
    let went = async {
        let wrong = |what: &str, seen: &dyn std::fmt::Debug| Err(format!("{what}: {seen:?}"));
        let said = |error: Error| error.to_string();
        let renewal = backend
            .renew(&grant, backend.clock().now())
            .await
            .map_err(said)?;
        let Renewal::Renewed(_) = renewal else {
            return wrong("the renewal", &renewal);
        };
        // A session that listens may come later, where the first one is ended by the setting.
        until("others see it", async || {
            shows(&app.holder(&own).await.unwrap(), &ann, &grant)
        })
        .await;

        let theirs = lock(&format!("theirs-{number}"));
        let bob = candidate("bob", 2).with_value(PublishedValue::new("http://bob ü").unwrap());
        let other = held(app.acquire(&theirs, &bob, LONG).await.unwrap());
        let mut changes = backend.changes(&theirs);
        let taken = backend.acquire(&theirs, &ann, LONG).await.map_err(said)?;
        let Acquired::Taken { .. } = taken else {
            return wrong("another's lock", &taken);
        };
        until("it sees the other one", async || {
            shows(&backend.holder(&theirs).await.unwrap(), &bob, &other)
        })
        .await;
        app.release(&other).await.unwrap();
        let freed = async { while changes.next().await != Some(Hint::MayBeFree) {} };
        within_limit("the release", freed).await;
        let next = backend.acquire(&theirs, &ann, LONG).await.map_err(said)?;
        let Acquired::Held(next) = next else {
            return wrong("the next term", &next);
        };
        if next.token <= other.token {
            return wrong("the next token", &next);
        }
        // The application's own limits are for its own transactions, so one of 1 ms may end this.
        if !(extreme.name.ends_with("_timeout") && extreme.value == "1") {
            let mut transaction = backend.begin(&own, grant.token).await.map_err(said)?;
            transaction.batch_execute("SELECT 1").await.map_err(said)?;
            transaction.commit().await.map_err(said)?;
        }
        let renewal = backend
            .renew(&next, backend.clock().now())
            .await
            .map_err(said)?;
        let Renewal::Renewed(_) = renewal else {
            return wrong("the renewal after a transaction", &renewal);
        };
        for grant in [&grant, &next] {
            backend.release(grant).await.map_err(said)?;
        }
        match app.holder(&own).await.map_err(said)? {
            Occupancy::Free => Ok(()),
            held => wrong("after the release", &held),
        }
    };
    match went.await {
        Ok(()) => Outcome::AsBefore,
        Err(what) => Outcome::Other(what),
    }
}

/// Whether the lock is seen with all that its holder has announced.
fn shows(seen: &Occupancy, holder: &Candidate, grant: &tenure_core::Grant) -> bool {
    let Occupancy::Led(seen) = seen else {
        return false;
    };
    seen.identity == holder.identity.as_str()
        && seen.token == Some(grant.token)
        && seen.value.as_deref() == holder.value.as_ref().map(PublishedValue::as_str)
}

/// No password is asked for, as to check one takes longer than all the rest.
async fn trust_all(server: &Server, admin: &Client) {
    let rules = server.dir.path().join("data/pg_hba.conf");
    let rules_of_all = "host all all 127.0.0.1/32 trust\n";
    fs::write(
        rules,
        format!("{rules_of_all}host replication all 127.0.0.1/32 trust\n"),
    )
    .unwrap();
    admin.query("SELECT pg_reload_conf()", &[]).await.unwrap();
}

/// A role with this one setting; `None` if the server does not let it have that.
async fn role_with(admin: &Client, number: usize, extreme: &Extreme) -> Option<String> {
    let role = format!("role_{number}");
    let create = format!("CREATE ROLE {role} LOGIN");
    admin.batch_execute(&create).await.unwrap();
    let value = extreme.value.replace('\'', "''");
    let alter = format!("ALTER ROLE {role} SET \"{}\" = '{value}'", extreme.name);
    admin.batch_execute(&alter).await.ok()?;
    Some(role)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes a minute"]
async fn every_setting_of_a_role_leaves_elections_as_they_are_or_is_refused_by_name() {
    assert!(sweep(|_| true).await > 300);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_that_sessions_depend_on_leave_elections_as_they_are_or_are_refused_by_name() {
    let is_telling = |name: &str| TELLING.iter().any(|part| name.contains(part));
    assert!(sweep(is_telling).await > 30);
}

/// How many values were tried.
async fn sweep(meant: impl Fn(&str) -> bool) -> usize {
    let Some(server) = start(&["max_connections=200"]) else {
        return usize::MAX;
    };
    let admin = server.admin().await;
    trust_all(&server, &admin).await;
    let app = server.connect().await;
    let began = Instant::now();
    let mut extremes = extremes(&admin).await;
    extremes.retain(|extreme| meant(&extreme.name));
    let trying = extremes.iter().enumerate().map(|(number, extreme)| {
        let (server, admin, app) = (&server, &admin, &app);
        async move {
            let role = role_with(admin, number, extreme).await?;
            let config = server.config().user(role);
            let outcome = elect(config, app, number, extreme).await;
            Some((extreme, outcome))
        }
    });
    let outcomes: Vec<_> = stream::iter(trying).buffer_unordered(8).collect().await;
    let (mut tried, mut refused, mut wrong) = (0, 0, Vec::new());
    for (extreme, outcome) in outcomes.iter().flatten() {
        tried += 1;
        match outcome {
            Outcome::AsBefore => {}
            Outcome::Refused(error) if error.message().contains(&extreme.name) => {
                refused += 1;
                println!("{extreme:?} is refused: {error}");
            }
            other => wrong.push(format!("{extreme:?}: {other:?}")),
        }
    }
    println!(
        "{tried} of {} values of {} settings were tried in {:?}; {refused} are refused",
        extremes.len(),
        extremes.chunk_by(|a, b| a.name == b.name).count(),
        began.elapsed(),
    );
    assert!(
        wrong.is_empty(),
        "{} are wrong:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    tried
}

/// The server converts what is announced; not every character exists in its encoding.
#[tokio::test]
async fn observers_see_token_and_value_in_databases_of_other_encodings() {
    let Some(server) = start(&[]) else { return };
    let admin = server.admin().await;
    for encoding in ["LATIN1", "SQL_ASCII"] {
        let database = encoding.to_lowercase();
        let create = format!(
            "CREATE DATABASE {database} TEMPLATE template0 ENCODING '{encoding}' \
             LC_COLLATE 'C' LC_CTYPE 'C'"
        );
        admin.batch_execute(&create).await.unwrap();
        let config = server.config().database(&database);
        let holder = PostgresBackend::connect(config.clone()).await.unwrap();
        let observer = PostgresBackend::connect(config).await.unwrap();
        let name = lock("batch");
        for text in ["http://a", "größer 100%", "東京 żółw 🦀"] {
            let ann = candidate("ann", 1).with_value(PublishedValue::new(text).unwrap());
            let grant = held(holder.acquire(&name, &ann, LONG).await.unwrap());
            until(&format!("{text:?} is seen in {encoding}"), async || {
                let seen = leader(observer.holder(&name).await.unwrap());
                seen.token == Some(grant.token) && seen.value.as_deref() == Some(text)
            })
            .await;
            holder.release(&grant).await.unwrap();
        }
    }
}
