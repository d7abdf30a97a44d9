//! Which incarnation of the server this is, and how long it grants nothing after a new one began.
//!
//! Advisory locks live in the server's memory. A restart, a crash or a promotion loses them, and
//! with them the server forgets who led. A leader that is frozen or cut off at that moment may
//! not know it, so the locks stay in quarantine for a lease.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tenure_core::Time;
use tokio_postgres::Client;

use crate::errors::{self, StoreError};
use crate::question::ask;

/// Since when the server has lost no lock.
pub(crate) struct Incarnation {
    /// The server's own text, which another incarnation does not repeat.
    id: String,
    /// How long that had been, and when the server said so.
    age: (Duration, Instant),
    /// Whether the server shows everything by which it can lose its locks.
    pub(crate) sees_restarts: bool,
}

impl Incarnation {
    /// The time since the server was started, since all its sessions were ended because one had
    /// crashed (which resets the statistics, and not the time of the start), or since it was
    /// promoted (which a checkpoint on the new timeline follows; its time is in whole seconds).
    ///
    /// What the server does not show may have happened just now, so the age is then none.
    pub(crate) async fn of(client: &Client) -> Result<Self, StoreError> {
        const START: &str = "pg_postmaster_start_time()";
        const CRASH: &str = "(SELECT stats_reset FROM pg_stat_bgwriter)";
        const PROMOTION: &str = "(SELECT CASE WHEN pg_last_wal_replay_lsn() IS NULL THEN NULL \
            WHEN timeline_id = ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::int4 \
            THEN checkpoint_time + interval '1 s' ELSE clock_timestamp() END FROM pg_control_checkpoint())";
        let id = |time: &str| format!("extract(epoch FROM {time})::text");
        let start_and_crash = format!("concat_ws(' ', {}, {})", id(START), id(CRASH));
        // Rounded down; and not by the session's time zone or style.
        let age = format!(
            "floor(extract(epoch FROM clock_timestamp() - greatest({START}, {CRASH}, {PROMOTION})) \
             * 1000)::int8::text"
        );
        let questions = [
            (start_and_crash.clone(), age, true),
            (start_and_crash, "0".to_owned(), false),
            (id(START), "0".to_owned(), false),
        ];
        let unreadable = || errors::unreadable("the time of its start");
        let mut refused = None;
        for (id, age, sees_restarts) in questions {
            let rows = match ask(client, &format!("SELECT {id}, {age}")).await {
                Ok(rows) => rows,
                Err(error) if error.needs_reconnect() => return Err(error),
                Err(error) => {
                    // A server that hides these times, or only resembles PostgreSQL.
                    let reason = error.message();
                    tracing::debug!(reason, "not all times of the server's crash and promotion");
                    refused = Some(error);
                    continue;
                }
            };
            let row = rows.first().ok_or_else(unreadable)?;
            let id = row.get(0).ok_or_else(unreadable)?.to_owned();
            let age = row.get(1).and_then(|age| age.parse().ok());
            // When the server's own clock was set back its age is negative, and counts as none.
            let age = Duration::from_millis(age.unwrap_or(0));
            return Ok(Self {
                id,
                age: (age, Instant::now()),
                sees_restarts,
            });
        }
        Err(refused.unwrap_or_else(unreadable))
    }

    /// For how long at least the server has lost no lock.
    fn age(&self) -> Duration {
        let (age, asked) = self.age;
        age + asked.elapsed()
    }
}

/// How long a backend grants nothing after its server has lost its locks.
pub(crate) struct Quarantine {
    /// Whether an incarnation also waits that was the server's before this backend connected.
    waits_at_first: bool,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    /// The incarnation of the first connection.
    first: Option<String>,
    /// The incarnation that has followed it, and when this backend saw it.
    next: Option<(String, Time)>,
}

impl Quarantine {
    pub(crate) fn new(waits_at_first: bool) -> Self {
        Self {
            waits_at_first,
            seen: Mutex::default(),
        }
    }

    /// Remembers the first incarnation, so that a later one is seen.
    pub(crate) fn connected(&self, incarnation: &Incarnation) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.first.get_or_insert_with(|| incarnation.id.clone());
    }

    /// Until when a session with this lease grants nothing: those who led before the server lost
    /// its locks may not know it yet.
    pub(crate) fn until(&self, incarnation: &Incarnation, now: Time, lease: Duration) -> Time {
        let id = &incarnation.id;
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.first.get_or_insert_with(|| id.clone()) != id {
            // By our own clock: the server's may differ from that of the server before.
            let known = seen.next.take().filter(|(next, _)| next == id);
            let (_, at) = seen.next.insert(known.unwrap_or_else(|| (id.clone(), now)));
            return *at + lease;
        }
        if self.waits_at_first {
            return now + lease.saturating_sub(incarnation.age());
        }
        Time::ZERO
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn incarnation(id: &str, age: Duration) -> Incarnation {
        Incarnation {
            id: id.to_owned(),
            age: (age, Instant::now()),
            sees_restarts: true,
        }
    }

    #[test]
    fn a_new_incarnation_waits_a_lease_from_the_moment_at_which_it_was_seen() {
        let (lease, second) = (Duration::from_secs(20), Duration::from_secs(1));
        let quarantine = Quarantine::new(false);
        let old = incarnation("1", Duration::ZERO);
        assert_eq!(quarantine.until(&old, Time::ZERO, lease), Time::ZERO);
        let next = incarnation("2", Duration::from_secs(3600));
        let seen = Time::ZERO + second;
        assert_eq!(quarantine.until(&next, seen, lease), seen + lease);
        assert_eq!(quarantine.until(&next, seen + second, lease), seen + lease);
    }

    #[test]
    fn the_first_incarnation_waits_what_is_left_of_a_lease_unless_told_otherwise() {
        let lease = Duration::from_secs(20);
        let old = incarnation("1", Duration::from_secs(3600));
        assert_eq!(
            Quarantine::new(true).until(&old, Time::ZERO, lease),
            Time::ZERO
        );
        let young = incarnation("1", Duration::ZERO);
        let until = Quarantine::new(true).until(&young, Time::ZERO, lease);
        assert!(
            until > Time::ZERO && until <= Time::ZERO + lease,
            "{until:?}"
        );
        assert_eq!(
            Quarantine::new(false).until(&young, Time::ZERO, lease),
            Time::ZERO
        );
    }
}
