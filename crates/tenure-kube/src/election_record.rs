//! The record that client-go calls `LeaderElectionRecord`, and when which of its fields change.

use std::time::Duration;

use tenure_core::record::{Mark, Record, Step};

use crate::time::WallTime;

/// The lease of a holder that states none: client-go's default.
const UNSTATED_LEASE: Duration = Duration::from_secs(15);

/// The longest duration that fits into the field of a Lease.
const MAX_SECONDS: u64 = i32::MAX as u64;

/// What a Lease or an annotation says of an election.
///
/// Times are kept as the text that stands there: none of them is ever judged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ElectionRecord {
    /// The holder's identity; empty when the lock is free.
    pub holder: String,
    /// The holder's lease in seconds, as it stands there; 0 when none is stated.
    pub lease_seconds: i64,
    /// When the holder came.
    pub acquired: Option<String>,
    /// When it last renewed.
    pub renewed: Option<String>,
    /// How often the holder has changed.
    pub transitions: i64,
}

impl ElectionRecord {
    /// A record of this holder, or of none when it is empty, with its lease in seconds, or 0.
    pub fn new(holder: impl Into<String>, lease_seconds: i64) -> Self {
        Self {
            holder: holder.into(),
            lease_seconds,
            ..Self::default()
        }
    }

    /// Sets when the holder came, as text.
    #[must_use]
    pub fn with_acquired(mut self, acquired: impl Into<Option<String>>) -> Self {
        self.acquired = acquired.into();
        self
    }

    /// Sets when the holder last renewed, as text.
    #[must_use]
    pub fn with_renewed(mut self, renewed: impl Into<Option<String>>) -> Self {
        self.renewed = renewed.into();
        self
    }

    /// Sets how often the holder has changed.
    #[must_use]
    pub fn with_transitions(mut self, transitions: i64) -> Self {
        self.transitions = transitions;
        self
    }

    /// How long the holder is given without a sign of life.
    ///
    /// One that states no duration, or one below a second, may be a client-go that judges by its
    /// own lease: it is given client-go's default.
    pub fn lease(&self) -> Duration {
        match u64::try_from(self.lease_seconds) {
            Ok(seconds @ 1..) => Duration::from_secs(seconds),
            _ => UNSTATED_LEASE,
        }
    }

    /// The record's mark in the object with this UID. Each holder moves the time of its renewal;
    /// what others write beside the record is not in it.
    pub(crate) fn mark(&self, uid: Option<&str>) -> Mark {
        let record = (&self.holder, self.lease_seconds, self.transitions);
        Mark::from(format!(
            "{uid:?} {record:?} {:?} {:?}",
            self.acquired, self.renewed
        ))
    }

    /// What follows `found` by client-go's rules when `record` is written.
    ///
    /// A change of holder counts as a transition, also from an empty one; a renewal, a release and
    /// the return of the same identity do not. `text` writes a time.
    pub(crate) fn next(
        found: Option<&Self>,
        record: &Record,
        step: Step,
        text: fn(WallTime) -> String,
    ) -> Self {
        let holder = record
            .holder
            .as_ref()
            .map_or("", |holder| holder.identity.as_str());
        let now = WallTime::now();
        let transitions = found.map_or(0, |found| found.transitions.max(0));
        let next = Self {
            holder: holder.to_owned(),
            lease_seconds: whole_seconds(record),
            acquired: Some(text(now)),
            renewed: Some(text(now)),
            transitions,
        };
        match found {
            None => next,
            Some(_) if step == Step::Release => next,
            Some(found) if found.holder == holder => Self {
                acquired: found.acquired.clone().or(next.acquired),
                renewed: Some(text(now.after(found.renewed.as_deref()))),
                ..next
            },
            Some(_) => Self {
                // The field of a Lease has 32 bits.
                transitions: transitions.saturating_add(1).min(i64::from(i32::MAX)),
                ..next
            },
        }
    }
}

/// Rounded up: a lease that looks longer to others is never taken too early.
fn whole_seconds(record: &Record) -> i64 {
    let seconds = record.lease.as_secs() + u64::from(record.lease.subsec_nanos() > 0);
    i64::try_from(seconds.clamp(1, MAX_SECONDS)).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use tenure_core::record::RecordHolder;

    use super::*;

    fn record(identity: &str) -> Record {
        let holder = (!identity.is_empty()).then(|| RecordHolder::new(identity.to_owned()));
        Record::new(holder, Duration::from_millis(14_001))
    }

    fn found(holder: &str) -> ElectionRecord {
        ElectionRecord {
            holder: holder.to_owned(),
            lease_seconds: 15,
            acquired: Some("2021-12-07T15:38:32Z".to_owned()),
            renewed: Some("2021-12-07T15:39:32Z".to_owned()),
            transitions: 7,
        }
    }

    fn next(found: Option<&ElectionRecord>, identity: &str, step: Step) -> ElectionRecord {
        ElectionRecord::next(found, &record(identity), step, WallTime::to_time)
    }

    #[test]
    fn transitions_count_as_in_client_go() {
        let created = next(None, "a", Step::Acquire);
        assert_eq!((created.transitions, created.lease_seconds), (0, 15));
        assert_eq!(next(Some(&found("")), "a", Step::Acquire).transitions, 8);
        assert_eq!(next(Some(&found("b")), "a", Step::Acquire).transitions, 8);
        assert_eq!(next(Some(&found("a")), "a", Step::Acquire).transitions, 7);
        assert_eq!(next(Some(&found("a")), "a", Step::Renew).transitions, 7);
        assert_eq!(next(Some(&found("a")), "", Step::Release).transitions, 7);
        let nonsense = ElectionRecord {
            transitions: i64::MAX,
            ..found("b")
        };
        let after = next(Some(&nonsense), "a", Step::Acquire);
        assert_eq!(after.transitions, i64::from(i32::MAX));
    }

    #[test]
    fn the_time_of_acquiring_stays_and_that_of_renewing_moves() {
        let renewed = next(Some(&found("a")), "a", Step::Renew);
        assert_eq!(renewed.acquired, found("a").acquired);
        assert!(renewed.renewed > found("a").renewed);
        let again = next(Some(&renewed), "a", Step::Renew);
        assert!(again.renewed > renewed.renewed, "also within one second");
        let taken = next(Some(&found("b")), "a", Step::Acquire);
        assert_eq!(taken.acquired, taken.renewed);
        let released = next(Some(&found("a")), "", Step::Release);
        assert_eq!(released.holder, "");
        assert_eq!(released.acquired, released.renewed);
    }
}
