//! What a candidate has seen of records it cannot judge in any other way.

use std::collections::HashMap;
use std::sync::PoisonError;
use std::time::Duration;

use super::{Liveness, MAX_LEASE, Versioned};
use crate::sync::{Mutex, MutexGuard};
use crate::{LockName, Time};

/// What is known of a record's holder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// There is no holder, or its lease is over.
    Free,
    /// It is alive, and its lease lasts so long.
    Alive(Duration),
    /// Its lease may last so long, but it was never seen to renew.
    Unproven(Duration),
}

/// The last version of each lock's record, and when it was received.
///
/// Holds one small entry for each lock this process has ever looked at.
#[derive(Debug, Default)]
pub(super) struct Observations {
    seen: Mutex<HashMap<LockName, Seen>>,
}

#[derive(Clone, Copy, Debug)]
struct Seen {
    version: u64,
    at: Time,
    /// Whether the version has changed while we looked on, so somebody wrote it since.
    fresh: bool,
}

impl Observations {
    /// Judges `found`, which was received at `now`.
    pub(super) fn judge(&self, lock: &LockName, found: &Versioned, now: Time) -> Standing {
        // The record's own duration counts, not the observer's: fleets run mixed policies
        // (hazard 26, kubernetes#114872).
        let lease = found.record.lease.min(MAX_LEASE);
        let seen = self.note(lock, found.version, now);
        if found.record.holder.is_none() {
            return Standing::Free;
        }
        match found.liveness {
            Liveness::Gone => Standing::Free,
            // At most one lease from now, whatever nonsense the record holds.
            Liveness::Until(end) => alive(end.since(now).min(lease), true),
            Liveness::Observed => alive((seen.at + lease).since(now), seen.fresh),
        }
    }

    /// Remembers a record that this process wrote itself: it is alive.
    pub(super) fn wrote(&self, lock: &LockName, version: u64, now: Time) {
        let seen = Seen {
            version,
            at: now,
            fresh: true,
        };
        self.lock().insert(lock.clone(), seen);
    }

    /// The lease runs from the receipt of a CHANGED version (I5).
    fn note(&self, lock: &LockName, version: u64, now: Time) -> Seen {
        let mut all = self.lock();
        let Some(seen) = all.get_mut(lock) else {
            let seen = Seen {
                version,
                at: now,
                fresh: false,
            };
            all.insert(lock.clone(), seen);
            return seen;
        };
        if seen.version != version {
            *seen = Seen {
                version,
                at: now,
                fresh: true,
            };
        }
        *seen
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<LockName, Seen>> {
        // No code panics while it holds this lock; even so each entry is whole on its own.
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn alive(left: Duration, proven: bool) -> Standing {
    if left.is_zero() {
        Standing::Free
    } else if proven {
        Standing::Alive(left)
    } else {
        Standing::Unproven(left)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Record, RecordHolder};
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn lock() -> LockName {
        LockName::new("test").unwrap()
    }

    fn at(seconds: u64) -> Time {
        Time::from_nanos(seconds * 1_000_000_000)
    }

    fn held(version: u64, lease: Duration) -> Versioned {
        let holder = RecordHolder {
            identity: "other".to_owned(),
            campaign: None,
            token: None,
            value: None,
        };
        let record = Record {
            holder: Some(holder),
            lease,
        };
        Versioned::new(record, version)
    }

    #[test]
    fn a_lease_runs_from_the_receipt_of_a_changed_version() {
        let seen = Observations::default();
        let judge = |version, now| seen.judge(&lock(), &held(version, 20 * SECOND), at(now));
        assert_eq!(judge(1, 100), Standing::Unproven(20 * SECOND));
        assert_eq!(
            judge(1, 110),
            Standing::Unproven(10 * SECOND),
            "the same version again"
        );
        assert_eq!(judge(2, 115), Standing::Alive(20 * SECOND));
        assert_eq!(judge(2, 134), Standing::Alive(SECOND));
        assert_eq!(judge(2, 135), Standing::Free);
        assert_eq!(judge(3, 200), Standing::Alive(20 * SECOND), "it came back");
    }

    #[test]
    fn the_records_own_duration_counts_up_to_an_hour() {
        let seen = Observations::default();
        let years = Duration::from_secs(68 * 365 * 24 * 60 * 60);
        let judge = |lease, now| seen.judge(&lock(), &held(1, lease), at(now));
        assert_eq!(judge(years, 0), Standing::Unproven(MAX_LEASE));
        assert_eq!(judge(5 * SECOND, 4), Standing::Unproven(SECOND));
        assert_eq!(judge(Duration::ZERO, 4), Standing::Free);
    }

    #[test]
    fn what_the_store_knows_comes_before_what_was_seen() {
        let seen = Observations::default();
        let until = |end| held(1, 20 * SECOND).with_liveness(Liveness::Until(end));
        let gone = held(1, 20 * SECOND).with_liveness(Liveness::Gone);
        assert_eq!(
            seen.judge(&lock(), &until(at(7)), at(5)),
            Standing::Alive(2 * SECOND)
        );
        assert_eq!(seen.judge(&lock(), &until(at(7)), at(7)), Standing::Free);
        assert_eq!(
            seen.judge(&lock(), &until(at(9_000_000)), at(7)),
            Standing::Alive(20 * SECOND),
            "never more than one lease"
        );
        assert_eq!(seen.judge(&lock(), &gone, at(5)), Standing::Free);
    }

    #[test]
    fn a_released_record_is_free_at_once() {
        let mut released = held(1, 20 * SECOND);
        released.record.holder = None;
        let seen = Observations::default();
        assert_eq!(seen.judge(&lock(), &released, at(5)), Standing::Free);
    }
}
