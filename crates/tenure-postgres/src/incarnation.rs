//! Which incarnation of the server this is, and how long it grants nothing after a new one began.
//!
//! Advisory locks live in the server's memory. A restart, a crash or a promotion loses them, and
//! with them the server forgets who led. A leader that is frozen or cut off at that moment may
//! not know it, so the locks stay in quarantine for a lease.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tenure_core::Time;

use crate::client::SessionClient;
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
    /// The time since the latest of three events:
    ///
    /// - The server was started.
    /// - All its sessions were ended because one had crashed. This resets the statistics, and not
    ///   the time of the start.
    /// - It was promoted. A checkpoint on the new timeline follows; its time is in whole seconds.
    ///
    /// What the server does not show may have happened just now, so the age is then none.
    pub(crate) async fn of(client: &SessionClient) -> Result<Self, StoreError> {
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

    /// Whether the server may have lost its locks less than a lease ago, if its clock may have been
    /// set forward by this much since.
    pub(crate) fn is_young(&self, lease: Duration, clock_error: Duration) -> bool {
        self.age() < lease.saturating_add(clock_error)
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
    /// By how much the server's clock may have been set forward since its start.
    clock_error: Duration,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    /// The incarnation of the first connection, and when that was made.
    first: Option<(String, Time)>,
    /// The incarnation that has followed it, and when this backend saw it.
    next: Option<(String, Time)>,
}

/// Until when a session grants nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wait {
    pub(crate) until: Time,
    /// Whether a lock that another candidate holds meanwhile is an exception. It was elected by this
    /// incarnation, and has waited: who led before the start does not lead any more.
    pub(crate) ends_with_a_term: bool,
}

impl Wait {
    pub(crate) const NONE: Self = Self {
        until: Time::ZERO,
        ends_with_a_term: false,
    };
}

impl Quarantine {
    pub(crate) fn new(waits_at_first: bool, clock_error: Duration) -> Self {
        Self {
            waits_at_first,
            clock_error,
            seen: Mutex::default(),
        }
    }

    /// Remembers the first incarnation, so that a later one is seen.
    pub(crate) fn connected(&self, incarnation: &Incarnation, now: Time) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.first
            .get_or_insert_with(|| (incarnation.id.clone(), now));
    }

    /// Until when a session with this lease grants nothing: those who led before the server lost
    /// its locks may not know it yet.
    pub(crate) fn wait(&self, incarnation: &Incarnation, now: Time, lease: Duration) -> Wait {
        let id = &incarnation.id;
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let first = seen.first.get_or_insert_with(|| (id.clone(), now));
        let connected = first.1;
        if first.0 != *id {
            // By our own clock: the server's may differ from that of the server before.
            let known = seen.next.take().filter(|(next, _)| next == id);
            let (_, at) = seen.next.insert(known.unwrap_or_else(|| (id.clone(), now)));
            return Wait {
                until: *at + lease,
                ends_with_a_term: false,
            };
        }
        let young = lease.saturating_add(self.clock_error);
        let left = young.saturating_sub(incarnation.age());
        if !self.waits_at_first || left.is_zero() {
            return Wait::NONE;
        }
        // Where a crash of the server does not show, it may have been after the first connection.
        let since = if incarnation.sees_restarts {
            connected
        } else {
            now
        };
        Wait {
            until: (since + lease).min(now + left),
            ends_with_a_term: true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_secs(20);
    const SECOND: Duration = Duration::from_secs(1);
    const HOUR: Duration = Duration::from_secs(3600);

    fn incarnation(id: &str, age: Duration) -> Incarnation {
        Incarnation {
            id: id.to_owned(),
            age: (age, Instant::now()),
            sees_restarts: true,
        }
    }

    /// Until when a backend waits that has connected a second ago.
    fn until(quarantine: &Quarantine, incarnation: &Incarnation) -> Time {
        quarantine.connected(incarnation, Time::ZERO);
        let wait = quarantine.wait(incarnation, Time::ZERO + SECOND, LEASE);
        assert!(wait.ends_with_a_term || wait == Wait::NONE);
        wait.until
    }

    #[test]
    fn a_new_incarnation_waits_a_lease_from_the_moment_at_which_it_was_seen() {
        let quarantine = Quarantine::new(false, Duration::ZERO);
        let old = incarnation("1", Duration::ZERO);
        assert_eq!(quarantine.wait(&old, Time::ZERO, LEASE), Wait::NONE);
        let next = incarnation("2", 100 * HOUR);
        let seen = Time::ZERO + SECOND;
        for now in [seen, seen + SECOND] {
            let wait = quarantine.wait(&next, now, LEASE);
            assert_eq!(wait.until, seen + LEASE);
            assert!(!wait.ends_with_a_term);
        }
    }

    #[test]
    fn the_first_incarnation_waits_a_lease_from_the_first_connection_unless_it_is_surely_old() {
        let careful = || Quarantine::new(true, HOUR);
        for age in [Duration::ZERO, SECOND, HOUR] {
            let young = incarnation("1", age);
            assert_eq!(until(&careful(), &young), Time::ZERO + LEASE, "{age:?}");
        }
        let old = incarnation("1", HOUR + LEASE);
        assert_eq!(until(&careful(), &old), Time::ZERO);
        let young = incarnation("1", Duration::ZERO);
        let off = Quarantine::new(false, HOUR);
        assert_eq!(until(&off, &young), Time::ZERO);
    }

    #[test]
    fn a_clock_that_is_never_wrong_is_believed() {
        let believing = || Quarantine::new(true, Duration::ZERO);
        let young = incarnation("1", 10 * SECOND);
        let waits_until = until(&believing(), &young);
        assert!(waits_until <= Time::ZERO + 11 * SECOND, "{waits_until:?}");
        assert!(waits_until > Time::ZERO);
        assert_eq!(until(&believing(), &incarnation("1", LEASE)), Time::ZERO);
    }

    #[test]
    fn where_a_crash_does_not_show_each_session_waits_anew() {
        let mut young = incarnation("1", Duration::ZERO);
        young.sees_restarts = false;
        let quarantine = Quarantine::new(true, HOUR);
        assert_eq!(until(&quarantine, &young), Time::ZERO + SECOND + LEASE);
    }
}
