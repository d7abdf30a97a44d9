//! What a candidate has seen of records it cannot judge in any other way.

use std::collections::HashMap;
use std::sync::PoisonError;
use std::time::Duration;

use crate::contract::backend::CampaignId;
use crate::contract::clock::Time;
use crate::contract::error::{Error, ErrorKind, Operation};
use crate::contract::name::LockName;
use crate::contract::token::FencingToken;
use crate::record::mark::Mark;
use crate::record::store::{Liveness, MAX_LEASE, Versioned};
use crate::record::version::Version;
use crate::sync::{Mutex, MutexGuard};

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

/// The last record of each lock, and when it was received.
///
/// Holds one small entry for each lock this process has ever looked at.
#[derive(Debug, Default)]
pub(super) struct Observations {
    seen: Mutex<HashMap<LockName, Seen>>,
}

#[derive(Clone, Debug)]
struct Seen {
    fingerprint: Fingerprint,
    at: Time,
    /// Whether it was renewed since the first look, so its holder was alive.
    fresh: bool,
}

/// What tells one renewal of a record from another.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Fingerprint {
    /// As the store marks it: other programs' writes are no renewals.
    Mark(Mark),
    /// Each write is one. The version alone does not tell them apart where versions begin again
    /// with a record that was deleted and written once more.
    Write {
        version: Version,
        identity: Option<Box<str>>,
        campaign: Option<CampaignId>,
        token: Option<FencingToken>,
    },
}

impl Fingerprint {
    fn of(found: &Versioned) -> Self {
        if let Some(mark) = &found.mark {
            return Self::Mark(mark.clone());
        }
        let holder = found.record.holder.as_ref();
        Self::Write {
            version: found.version.clone(),
            identity: holder.map(|holder| holder.identity.as_str().into()),
            campaign: holder.and_then(|holder| holder.campaign),
            token: holder.and_then(|holder| holder.token),
        }
    }
}

impl Observations {
    /// Judges `found`, which was received at `now`.
    pub(super) fn judge(&self, lock: &LockName, found: &Versioned, now: Time) -> Standing {
        // The record's own duration counts, not the observer's: fleets run mixed policies
        // (hazard 26, kubernetes#114872).
        let lease = found.record.lease.min(MAX_LEASE);
        let (seen_at, fresh) = self.note(lock, found, now);
        if found.record.holder.is_none() {
            return Standing::Free;
        }
        match found.liveness {
            Liveness::Gone => Standing::Free,
            // At most one lease from now, whatever nonsense the record holds.
            Liveness::Until(end) => alive(end.since(now).min(lease), true),
            Liveness::Observed => alive((seen_at + lease).since(now), fresh),
        }
    }

    /// Remembers a record that this process wrote itself: it is alive.
    pub(super) fn wrote(&self, lock: &LockName, written: &Versioned, now: Time) {
        let seen = Seen {
            fingerprint: Fingerprint::of(written),
            at: now,
            fresh: true,
        };
        self.lock().insert(lock.clone(), seen);
    }

    /// The lease runs from the receipt of a RENEWED record (I5): when it was received, and whether
    /// it was seen to be renewed.
    fn note(&self, lock: &LockName, found: &Versioned, now: Time) -> (Time, bool) {
        let fingerprint = Fingerprint::of(found);
        let mut all = self.lock();
        let Some(seen) = all.get_mut(lock) else {
            let seen = Seen {
                fingerprint,
                at: now,
                fresh: false,
            };
            all.insert(lock.clone(), seen);
            return (now, false);
        };
        if seen.fingerprint != fingerprint {
            *seen = Seen {
                fingerprint,
                at: now,
                fresh: true,
            };
        }
        (seen.at, seen.fresh)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<LockName, Seen>> {
        // No code panics while it holds this lock; even so each entry is whole on its own.
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Refuses a record whose renewals observers cannot tell apart, with
/// [`Unsupported`](ErrorKind::Unsupported).
///
/// A campaign whose first write was deleted may write it again, under the same version. The lease
/// of the second would then be counted from the sight of the first.
pub(super) fn check_marked(record: &Versioned, versions_are_unique: bool) -> Result<(), Error> {
    // A record without a holder has no lease to count.
    let observed = record.liveness == Liveness::Observed && record.record.holder.is_some();
    if !observed || record.mark.is_some() || versions_are_unique {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Unsupported,
        Operation::Acquire,
        "this store's versions may come a second time, and its records have no mark: \
         give each write a mark of its own with `Versioned::with_mark`",
    ))
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
    use super::*;
    use crate::record::store::{Record, RecordHolder};

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

    /// Others write an annotation, or what else stands in the object: that shows no life.
    #[test]
    fn a_new_version_under_an_unchanged_mark_starts_no_lease_and_shows_no_life() {
        let seen = Observations::default();
        let judge = |version, mark: &str, now| {
            let found = held(version, 20 * SECOND).with_mark(mark.to_owned());
            seen.judge(&lock(), &found, at(now))
        };
        assert_eq!(judge(1, "a", 100), Standing::Unproven(20 * SECOND));
        assert_eq!(judge(2, "a", 110), Standing::Unproven(10 * SECOND));
        assert_eq!(judge(3, "b", 115), Standing::Alive(20 * SECOND));
        assert_eq!(judge(4, "b", 134), Standing::Alive(SECOND));
        assert_eq!(judge(5, "b", 135), Standing::Free);
        assert_eq!(judge(5, "c", 140), Standing::Alive(20 * SECOND), "renewed");
    }

    /// A record that was deleted and written again may have the version that was seen before.
    #[test]
    fn another_holder_under_the_same_version_starts_a_lease_of_its_own() {
        for what in ["identity", "campaign", "token"] {
            let seen = Observations::default();
            let mut found = held(1, 20 * SECOND);
            seen.judge(&lock(), &found, at(100));
            let holder = found.record.holder.as_mut().unwrap();
            match what {
                "identity" => "third".clone_into(&mut holder.identity),
                "campaign" => holder.campaign = Some(CampaignId::new(2)),
                _ => holder.token = Some(FencingToken::from_counter(7).unwrap()),
            }
            assert_eq!(
                seen.judge(&lock(), &found, at(119)),
                Standing::Alive(20 * SECOND),
                "{what}"
            );
        }
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
