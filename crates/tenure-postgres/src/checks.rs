//! What bears on locks at a Postgres server, for an operator.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::future::join_all;
use tenure_core::{Check, Error};
use tenure_kit::Address;

use crate::config::{PostgresConfig, TlsMode};
use crate::connection::Connection;
use crate::connector::{Connector, Server};
use crate::errors::{self, StoreError};
use crate::question::{ask, run};
use crate::settings::set_own;
use crate::setup;

/// All that is asked, one row. Columns that only privileged users see are null for others.
///
/// Functions are found by their names, since signatures grow: that of `pg_logical_emit_message`
/// has another argument from release 17 on.
const QUESTION: &str = "SELECT current_setting('server_version') AS version, \
    current_setting('fsync') AS fsync, \
    extract(epoch FROM clock_timestamp())::text AS clock, \
    current_setting('full_page_writes') AS full_page_writes, \
    current_setting('synchronous_commit') AS synchronous_commit, \
    current_setting('synchronous_standby_names') AS synchronous_standbys, \
    (SELECT count(*) FROM pg_stat_replication)::text AS standbys, \
    coalesce((SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()), false)::text AS encrypted, \
    current_setting('max_connections') AS connections, \
    (SELECT count(*) FROM pg_stat_activity WHERE backend_type IS NULL \
        OR backend_type = 'client backend')::text AS connected, \
    (current_setting('max_locks_per_transaction')::int8 * (current_setting('max_connections')::int8 \
        + current_setting('max_prepared_transactions')::int8))::text AS room, \
    (SELECT count(*) FROM pg_locks)::text AS locked, \
    (SELECT string_agg(oid::regprocedure::text, ', ') FROM pg_proc \
        WHERE pronamespace = 'pg_catalog'::regnamespace AND (proname = 'pg_notify' \
        OR proname IN ('pg_try_advisory_lock', 'pg_advisory_unlock') AND pronargs = 1 \
        OR proname = 'pg_logical_emit_message' AND proargtypes[2] = 'text'::regtype) \
        AND NOT has_function_privilege(oid, 'execute')) AS forbidden";

/// The settings that bear on locks, by the names in [`QUESTION`].
struct Seen(HashMap<String, String>);

impl Seen {
    fn text(&self, name: &str) -> &str {
        self.0.get(name).map_or("", String::as_str)
    }

    fn number(&self, name: &str) -> u64 {
        self.text(name).parse().unwrap_or(0)
    }
}

/// Looks by a session of its own, and writes nothing. The only lock that it takes is that session's
/// own, which no election uses, and not on a standby.
pub(crate) async fn all(connector: &Connector, lease: Duration) -> Vec<Check> {
    let (mut checks, cluster) = tokio::join!(look_at_one(connector, lease), cluster(connector));
    checks.push(cluster);
    checks
}

/// The server that would be used.
async fn look_at_one(connector: &Connector, lease: Duration) -> Vec<Check> {
    // What it sees is no reason to close the backend's sessions.
    let config = &*connector.config;
    let connected = connector.to_look().connect().await;
    let connection = match connected {
        Ok(connection) => connection,
        Err(error) => return vec![failed("session", &error)],
    };
    // Each step below is one or two short queries.
    let looking = async {
        // Names in them are the server's, also where the session cannot be set up.
        let own = set_own(connection.version);
        if let Err(error) = run(connection.client(), &own).await {
            return vec![failed("session", &error)];
        }
        let mut checks = Vec::new();
        if let Some(unfit) = &connection.unfit {
            checks.push(failed("writes", unfit));
        }
        if !connection.is_standby {
            checks.push(silence(&connection, config, lease).await);
        }
        let asked = SystemTime::now();
        match look(&connection).await {
            Ok(seen) => {
                checks.push(clock(&seen, asked, SystemTime::now()));
                checks.extend(judge(&seen, config, connection.is_standby));
            }
            Err(error) => checks.push(failed("settings", &error)),
        }
        if connection.is_standby {
            return checks;
        }
        checks.push(restarts(&connection, config, lease));
        if let Some(sequence) = &config.token_sequence {
            checks.push(tokens(&connection, sequence).await);
        }
        checks
    };
    let limit = config.request_limit();
    tokio::time::timeout(limit, looking)
        .await
        .unwrap_or_else(|_| {
            vec![failed(
                "settings",
                &StoreError::timeout("the server", limit, Some("request_timeout")),
            )]
        })
}

/// In a child of the process that the backend belongs to.
pub(crate) fn forked(error: &Error) -> Check {
    Check::unusable("process", error.message(), "connect after the fork")
}

fn failed(name: &'static str, error: &StoreError) -> Check {
    Check::unusable(name, error.message(), "fix this, and run doctor again")
}

/// Whether the server ends a session that has fallen silent, after this very lease.
async fn silence(connection: &Connection, config: &PostgresConfig, lease: Duration) -> Check {
    const NAME: &str = "idle timeout";
    if let Err(error) = setup::set_up(connection, config, lease, "tenure doctor").await {
        return failed(NAME, &error);
    }
    let own = async {
        let value = setup::own_value()?;
        setup::give_own_value(connection, &value).await?;
        setup::take_own_lock(connection, &value).await.map(drop)
    };
    if let Err(error) = own.await {
        return failed("own session", &error);
    }
    if config.without_lease {
        return Check::warning(
            NAME,
            "off, as the URL says: a holder that is frozen or cut off keeps its lock",
            "use PostgreSQL 14 or newer, and take server_lease=off out of the URL",
        );
    }
    let reason = format!("the server ends a session that is silent for {lease:?}");
    Check::fine(NAME, reason)
}

async fn look(connection: &Connection) -> Result<Seen, StoreError> {
    let rows = ask(connection.client(), QUESTION).await?;
    let row = rows
        .first()
        .ok_or_else(|| errors::unreadable("its settings"))?;
    let named = row.columns().iter().enumerate();
    Ok(Seen(
        named
            .filter_map(|(index, column)| {
                Some((column.name().to_owned(), row.get(index)?.to_owned()))
            })
            .collect(),
    ))
}

fn judge(seen: &Seen, config: &PostgresConfig, is_standby: bool) -> Vec<Check> {
    let role = if is_standby { "standby" } else { "primary" };
    vec![
        Check::fine(
            "server version",
            // Another's text: nothing in it is to reach the terminal.
            format!(
                "PostgreSQL {}, a {role}",
                seen.text("version").escape_debug()
            ),
        ),
        pooler(config),
        persistence(seen),
        replication(seen),
        permissions(seen),
        connections(seen),
        lock_table(seen),
        encryption(seen, config),
    ]
}

fn pooler(config: &PostgresConfig) -> Check {
    const NAME: &str = "pooler";
    if config.session_pooler {
        return Check::warning(
            NAME,
            "the URL says that there is one in session mode, which is not verified",
            "connect to the server itself, and take pooler=session out of the URL",
        );
    }
    Check::fine(NAME, "none: the session is the server's own")
}

fn persistence(seen: &Seen) -> Check {
    const NAME: &str = "persistence";
    let off = |name: &&str| seen.text(name) == "off";
    let switched_off: Vec<&str> = ["fsync", "full_page_writes"]
        .into_iter()
        .filter(off)
        .collect();
    if switched_off.is_empty() {
        return Check::fine(NAME, "a fencing token is on disk before it is given");
    }
    Check::warning(
        NAME,
        format!(
            "{} is off, so after a crash of the host a fencing token can come back",
            switched_off.join(" and ")
        ),
        "set it on in postgresql.conf",
    )
}

fn replication(seen: &Seen) -> Check {
    const NAME: &str = "replication";
    let standbys = seen.number("standbys");
    if standbys == 0 {
        return Check::fine(NAME, "no standby is connected");
    }
    let mode = seen.text("synchronous_commit");
    let waits = !matches!(mode, "local" | "off") && !seen.text("synchronous_standbys").is_empty();
    if waits {
        return Check::fine(
            NAME,
            format!("{standbys} standbys, of which some are waited for"),
        );
    }
    Check::warning(
        NAME,
        format!(
            "{standbys} standbys, and none is waited for: after a promotion a fencing token can \
             come back"
        ),
        "set synchronous_standby_names so that every standby that may take over is synchronous",
    )
}

fn permissions(seen: &Seen) -> Check {
    const NAME: &str = "permissions";
    match seen.text("forbidden") {
        "" => Check::fine(NAME, "the user may run each step of an election"),
        functions => Check::unusable(
            NAME,
            format!("the user may not call {functions}"),
            format!("GRANT EXECUTE ON FUNCTION {functions} TO the user"),
        ),
    }
}

fn connections(seen: &Seen) -> Check {
    let (most, now) = (seen.number("connections"), seen.number("connected"));
    let reason =
        format!("{now} of {most} are in use; a candidate needs one, and up to two to wait");
    let remedy = "raise max_connections, or close some";
    nearly_full("connections", now, most, reason, remedy)
}

fn lock_table(seen: &Seen) -> Check {
    let (room, locked) = (seen.number("room"), seen.number("locked"));
    let reason = format!("{locked} locks of all kinds, and room for about {room}");
    let remedy = "raise max_locks_per_transaction";
    nearly_full("lock table", locked, room, reason, remedy)
}

fn nearly_full(name: &'static str, used: u64, room: u64, reason: String, remedy: &str) -> Check {
    if used * 10 >= room * 9 {
        return Check::warning(name, reason, remedy);
    }
    Check::fine(name, reason)
}

fn encryption(seen: &Seen, config: &PostgresConfig) -> Check {
    const NAME: &str = "encryption";
    let is_encrypted = seen.text("encrypted") == "true";
    if is_encrypted && config.tls_mode == TlsMode::Require {
        return Check::fine(NAME, "TLS, with the server's certificate verified");
    }
    if config.hosts.iter().all(Address::is_loopback) {
        let how = if is_encrypted { "TLS" } else { "none" };
        return Check::fine(NAME, format!("{how}, on this host"));
    }
    if is_encrypted {
        return Check::warning(
            NAME,
            "TLS, but the server's certificate is not verified: an attacker on the network can \
             read and change locks",
            "set sslmode=verify-full in the URL, and ca where the authority is your own",
        );
    }
    Check::warning(
        NAME,
        "none: an attacker on the network can read and change locks",
        "turn TLS on at the server, and set sslmode=verify-full in the URL",
    )
}

/// Clocks that differ by more than this are not set by the same time.
const CLOCKS_DIFFER: Duration = Duration::from_secs(2);

/// Whether the server's clock agrees with this host's, which was read before and after it.
fn clock(seen: &Seen, before: SystemTime, after: SystemTime) -> Check {
    const NAME: &str = "clock";
    let here = |time: SystemTime| time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let there: f64 = seen.text("clock").parse().unwrap_or_default();
    let there = Duration::try_from_secs_f64(there).unwrap_or_default();
    let ahead = there.saturating_sub(here(after));
    let behind = here(before).saturating_sub(there);
    let (by, how) = if ahead > behind {
        (ahead, "ahead of")
    } else {
        (behind, "behind")
    };
    if by < CLOCKS_DIFFER {
        return Check::fine(NAME, "the server's clock agrees with this host's");
    }
    let by = Duration::from_secs(by.as_secs());
    Check::warning(
        NAME,
        format!(
            "the server's clock is {by:?} {how} this host's; the server ends silent sessions by its \
             clock, and tells by it for how long it has kept its locks"
        ),
        "set both hosts' clocks by NTP before PostgreSQL is started, and clock_error in the URL to \
         more than the server's clock may be set forward while it runs",
    )
}

/// Whether a crash or a promotion, with which the server loses its locks, can be seen.
fn restarts(connection: &Connection, config: &PostgresConfig, lease: Duration) -> Check {
    const NAME: &str = "restarts";
    let incarnation = &connection.incarnation;
    if incarnation.sees_restarts {
        let told = "the server tells when it last lost its locks";
        if !config.quarantine || !incarnation.is_young(lease, config.clock_error) {
            return Check::fine(NAME, told);
        }
        let error = config.clock_error;
        return Check::fine(
            NAME,
            format!(
                "{told}; by its clock, less a clock_error of {error:?}, that may be less than a \
                 lease ago: a process that connects now is elected after {lease:?}, or as soon as \
                 another one that leads gives the lock back"
            ),
        );
    }
    let reason = if config.quarantine {
        "the server does not tell when it crashed or was promoted, so each session waits for a \
         lease before it gets a lock"
    } else {
        "the server does not tell when it crashed or was promoted, and quarantine=off: then a \
         second leader can be elected while the first still believes that it leads"
    };
    let remedy = "let the user execute pg_control_checkpoint() and read pg_stat_bgwriter";
    Check::warning(NAME, reason, remedy)
}

/// Whether all hosts of the list belong together. Each is asked.
async fn cluster(connector: &Connector) -> Check {
    if let Some(error) = connector.refused() {
        return failed(CLUSTER, &error);
    }
    let hosts = &connector.config.hosts;
    let asking = hosts.iter().map(|host| connector.look_at(host));
    let answers = join_all(asking).await;
    let mut servers = Vec::new();
    let mut silent = Vec::new();
    for (host, answer) in hosts.iter().zip(answers) {
        match answer {
            Ok(server) => servers.push((host, server)),
            Err(error) => silent.push(format!("{host}: {}", error.message())),
        }
    }
    judge_cluster(&servers, &silent)
}

const CLUSTER: &str = "cluster";

fn judge_cluster(servers: &[(&Address, Server)], silent: &[String]) -> Check {
    let identifiers: HashSet<&str> = servers
        .iter()
        .filter_map(|(_, server)| server.identifier.as_deref())
        .collect();
    let list = |shown: &dyn Fn(&Server) -> &str| {
        let hosts = servers
            .iter()
            .map(|(host, server)| format!("{host}: {}", shown(server)));
        hosts.collect::<Vec<_>>().join(", ")
    };
    if identifiers.len() > 1 {
        let shown = list(&|server| server.identifier.as_deref().unwrap_or("hidden"));
        return Check::unusable(
            CLUSTER,
            format!("the hosts have different system identifiers ({shown}): two can lead at once"),
            "name the hosts of one cluster alone",
        );
    }
    let primaries = servers.iter().filter(|(_, server)| server.accepts_writes);
    let starts: HashSet<&str> = primaries.map(|(_, server)| server.start.as_str()).collect();
    if starts.len() > 1 {
        let kinds = ["a standby", "a primary"];
        let shown = list(&|server| kinds[usize::from(server.accepts_writes)]);
        return Check::unusable(
            CLUSTER,
            format!("more than one host accepts writes ({shown}): two can lead at once"),
            "stop the former primary, or take the copy of the cluster out of the list",
        );
    }
    if !silent.is_empty() {
        return Check::warning(
            CLUSTER,
            format!(
                "not every host could be asked for its system identifier ({})",
                silent.join("; ")
            ),
            "run this again when all hosts of the list are up, or take the one out that is gone",
        );
    }
    let is_hidden = |(_, server): &(_, Server)| server.identifier.is_none();
    if servers.iter().any(is_hidden) || identifiers.is_empty() {
        return Check::warning(
            CLUSTER,
            "the server hides its system identifier, so a host of another cluster in the list is \
             not detected: two could lead at once then",
            "GRANT EXECUTE ON FUNCTION pg_control_system() TO the user",
        );
    }
    let identifier = identifiers.into_iter().next().unwrap_or_default();
    let count = servers.len();
    Check::fine(
        CLUSTER,
        format!("hosts: {count}, all with the system identifier {identifier}"),
    )
}

async fn tokens(connection: &Connection, sequence: &str) -> Check {
    const NAME: &str = "token sequence";
    match setup::check_sequence(connection, sequence).await {
        Ok(_) => Check::fine(NAME, format!("{sequence} can be used")),
        Err(error) => failed(NAME, &error),
    }
}

#[cfg(test)]
mod tests {
    use tenure_core::Verdict;

    use super::*;

    #[test]
    fn encryption_counts_only_with_the_certificate_verified() {
        let verdict = |url: &str, encrypted: bool| {
            let seen = [("encrypted".to_owned(), encrypted.to_string())];
            let config = PostgresConfig::from_url(url).unwrap();
            encryption(&Seen(seen.into()), &config).verdict
        };
        let verified = "postgres://db.example/app?sslmode=verify-full";
        assert_eq!(verdict(verified, true), Verdict::Fine);
        for mode in ["prefer", "disable"] {
            let url = format!("postgres://db.example/app?sslmode={mode}");
            assert_eq!(verdict(&url, true), Verdict::Warning, "{mode}");
            assert_eq!(verdict(&url, false), Verdict::Warning, "{mode}");
        }
        for encrypted in [true, false] {
            assert_eq!(verdict("postgres://localhost", encrypted), Verdict::Fine);
        }
    }
}
