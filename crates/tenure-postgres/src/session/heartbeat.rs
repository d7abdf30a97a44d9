//! What the answer to a heartbeat says of the session.

use std::collections::HashSet;
use std::time::Duration;

use tenure_core::ErrorKind;
use tokio_postgres::{Error, Row};

use crate::errors::{self, StoreError};
use crate::key::AdvisoryKey;

pub(super) struct Heartbeat {
    pid: i32,
    is_standby: bool,
    /// The advisory locks that the session holds, as `pg_locks` shows them.
    locks: HashSet<(i64, i16)>,
    idle: Option<String>,
    idle_in_transaction: Option<String>,
}

impl Heartbeat {
    pub(super) fn read(row: &Row) -> Result<Self, Error> {
        let keys: Vec<i64> = row.try_get(2)?;
        let kinds: Vec<i16> = row.try_get(3)?;
        Ok(Self {
            pid: row.try_get(0)?,
            is_standby: row.try_get(1)?,
            locks: keys.into_iter().zip(kinds).collect(),
            idle: row.try_get(4)?,
            idle_in_transaction: row.try_get(5)?,
        })
    }

    pub(super) fn holds(&self, key: AdvisoryKey) -> bool {
        self.locks.contains(&key.in_pg_locks())
    }

    /// Fails when the answer proves nothing, or the server would not end the session `pid` after
    /// this lease. Without a lease at the server only guarded transactions have one.
    pub(super) fn check(
        &self,
        pid: i32,
        lease: Duration,
        without_lease: bool,
    ) -> Result<(), StoreError> {
        if self.is_standby {
            return Err(errors::standby());
        }
        if self.pid != pid {
            return Err(StoreError::new(
                ErrorKind::Unsupported,
                "a heartbeat was answered by another session of the server: there is a pooler in \
                 between that is not in session mode",
            ));
        }
        let in_transaction = self.idle_in_transaction.as_deref();
        let mut timeouts = vec![("idle_in_transaction_session_timeout", in_transaction)];
        if !without_lease {
            timeouts.push(("idle_session_timeout", self.idle.as_deref()));
        }
        for (name, shown) in timeouts {
            if shown.and_then(milliseconds) != Some(lease.as_millis()) {
                return Err(not_the_lease(name, shown));
            }
        }
        Ok(())
    }
}

fn not_the_lease(name: &str, shown: Option<&str>) -> StoreError {
    StoreError::new(
        ErrorKind::Misconfigured,
        format!(
            "{name} of the session that holds the locks is no longer the lease but {shown:?}, so \
             the server would not end the session in time; has a guarded transaction changed it? \
             In one use SET LOCAL, and no RESET ALL"
        ),
    )
}

/// A duration as the server shows its settings: in the largest unit of which it is a multiple.
fn milliseconds(setting: &str) -> Option<u128> {
    let digits = setting.find(|c: char| !c.is_ascii_digit());
    let (number, unit) = setting.split_at(digits.unwrap_or(setting.len()));
    let unit = match unit {
        "" | "ms" => 1,
        "s" => 1000,
        "min" => 60 * 1000,
        "h" => 60 * 60 * 1000,
        "d" => 24 * 60 * 60 * 1000,
        _ => return None,
    };
    Some(number.parse::<u128>().ok()? * unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_the_server_shows_them() {
        for (shown, expected) in [
            ("0", Some(0)),
            ("100ms", Some(100)),
            ("61s", Some(61_000)),
            ("10min", Some(600_000)),
            ("3h", Some(10_800_000)),
            ("1d", Some(86_400_000)),
            ("", None),
            ("10 min", None),
            ("-1", None),
            ("\u{e9}", None),
        ] {
            assert_eq!(milliseconds(shown), expected, "{shown:?}");
        }
    }
}
