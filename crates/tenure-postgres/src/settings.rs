//! The settings under which this library's own statements run, and the application's.
//!
//! Role, database and URL set what the application wants. Those settings are not for statements of
//! this library: names in them could be found in a schema that others can write, and they could be
//! ended before their time. A guarded transaction runs the application's own SQL in the same
//! session, so it gets the application's settings back for as long as it is open.

use std::fmt::Write as _;
use std::time::Duration;

/// Each with its value, and the first release of the server that has it.
const OWN: [(&str, &str, u32); 6] = [
    ("search_path", "pg_catalog, pg_temp", 0),
    // Within a transaction they would end waits and statements.
    ("statement_timeout", "0", 0),
    ("lock_timeout", "0", 0),
    ("transaction_timeout", "0", 17_00_00),
    // A cancelled wait for a standby is told by a warning.
    ("client_min_messages", "warning", 0),
    // To compile a heartbeat would take longer than to run it.
    ("jit", "off", 11_00_00),
];

/// Settings of the application that end its transaction.
const LIMITS: [&str; 2] = ["statement_timeout", "transaction_timeout"];

/// Those of a server of this release that the session is given.
fn of(version: u32) -> impl Iterator<Item = (&'static str, &'static str)> {
    let known = OWN.iter().filter(move |(_, _, since)| version >= *since);
    known.map(|(name, value, _)| (*name, *value))
}

/// Sets them for the session. Again after a guarded transaction, which may have changed them.
pub(crate) fn set_own(version: u32) -> String {
    let mut sql = String::new();
    for (name, value) in of(version) {
        // Writing to a string does not fail.
        let _ = write!(sql, "SET {name} = {value}; ");
    }
    sql
}

/// What role, database and URL say of the limits; the rest the server itself remembers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ApplicationLimits([Option<Duration>; 2]);

impl ApplicationLimits {
    /// Of each limit, in milliseconds, as the server shows it: 0 is none.
    pub(crate) fn read(shown: impl Fn(&str) -> Option<u64>) -> Self {
        let limit = |name| shown(name).filter(|millis| *millis > 0);
        Self(LIMITS.map(|name| limit(name).map(Duration::from_millis)))
    }

    /// Gives the application its settings for the transaction that has just begun. Its limits are
    /// at most `lease`.
    pub(crate) fn give_back(self, version: u32, lease: Duration) -> String {
        let mut sql = String::new();
        for (name, _) in of(version) {
            let limit = LIMITS.iter().position(|limit| *limit == name);
            let value = match limit.and_then(|limit| self.0.get(limit)) {
                Some(limit) => limit.unwrap_or(lease).min(lease).as_millis().to_string(),
                None => "DEFAULT".to_owned(),
            };
            let _ = write!(sql, "SET LOCAL {name} TO {value}; ");
        }
        sql
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_application_gets_its_settings_back_and_no_limit_beyond_the_lease() {
        let lease = Duration::from_secs(20);
        let limits = |millis| ApplicationLimits::read(|name| (name == LIMITS[0]).then_some(millis));
        let given = |millis| limits(millis).give_back(15_00_18, lease);
        assert!(given(0).contains("SET LOCAL search_path TO DEFAULT; "));
        for (millis, limit) in [(0, 20_000), (60_000, 20_000), (7000, 7000)] {
            let wanted = format!("SET LOCAL statement_timeout TO {limit}; ");
            assert!(given(millis).contains(&wanted), "{}", given(millis));
        }
        assert!(!given(0).contains("transaction_timeout"));
        let newer = limits(0).give_back(17_00_00, lease);
        assert!(
            newer.contains("SET LOCAL transaction_timeout TO 20000; "),
            "{newer}"
        );
    }
}
