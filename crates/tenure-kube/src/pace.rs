//! [`Pace`]: which events of a watch are told, and when.

use std::time::Duration;

use tenure_core::record::{Mark, RecordEvent, Versioned};
use tokio::time::Instant;

/// A holder that renews more often is reported once in a while.
const INTERVAL: Duration = Duration::from_millis(100);

/// What was told last, and what waits. Listeners may ask the API server for each event that they are
/// told of, and other programs can write the object hundreds of times a second.
#[derive(Default)]
pub(crate) struct Pace {
    told: Option<Mark>,
    waiting: Option<RecordEvent>,
    next: Option<Instant>,
}

impl Pace {
    /// Forgets what was told by an earlier watch.
    pub(crate) fn begin(&mut self) {
        *self = Self::default();
    }

    /// The event, if it is told now. One with the mark that was told last tells nothing. That the
    /// lock is free never waits.
    pub(crate) fn is_due(&mut self, event: RecordEvent) -> Option<RecordEvent> {
        let RecordEvent::Is(found) = &event else {
            self.begin();
            return Some(event);
        };
        if self.has_told(found) {
            self.waiting = None;
            return None;
        }
        let waits = self.next.is_some_and(|next| Instant::now() < next);
        if waits && found.record.holder.is_some() {
            self.waiting = Some(event);
            return None;
        }
        Some(self.tell(event))
    }

    /// When [`waited`](Self::waited) has something to tell.
    pub(crate) fn due_at(&self) -> Option<Instant> {
        self.waiting.as_ref().and(self.next)
    }

    /// What has waited.
    pub(crate) fn waited(&mut self) -> Option<RecordEvent> {
        let event = self.waiting.take()?;
        Some(self.tell(event))
    }

    fn has_told(&self, found: &Versioned) -> bool {
        found.mark.is_some() && found.mark == self.told
    }

    fn tell(&mut self, event: RecordEvent) -> RecordEvent {
        if let RecordEvent::Is(found) = &event {
            self.told.clone_from(&found.mark);
        }
        self.waiting = None;
        self.next = Some(Instant::now() + INTERVAL);
        event
    }
}

#[cfg(test)]
mod tests {
    use tenure_core::record::{Record, RecordHolder};

    use super::*;

    fn event(mark: &str, holder: Option<&str>) -> RecordEvent {
        let holder = holder.map(|identity| RecordHolder::new(identity.to_owned()));
        let record = Record::new(holder, Duration::from_secs(20));
        RecordEvent::Is(Versioned::new(record, 1).with_mark(mark.to_owned()))
    }

    #[tokio::test(start_paused = true)]
    async fn renewals_are_told_once_in_a_while_and_others_writes_never() {
        let mut pace = Pace::default();
        assert!(pace.is_due(event("a", Some("x"))).is_some());
        assert!(pace.is_due(event("a", Some("x"))).is_none());
        assert!(pace.due_at().is_none());
        assert!(pace.is_due(event("b", Some("x"))).is_none());
        assert!(pace.is_due(event("c", Some("x"))).is_none());
        let due = pace.due_at().unwrap();
        assert!(due > Instant::now());
        tokio::time::sleep_until(due).await;
        assert!(pace.waited().is_some());
        assert!(pace.is_due(event("c", Some("x"))).is_none(), "it was told");
        // A lock that is free is told at once, and again if it was taken meanwhile.
        assert!(pace.is_due(event("d", None)).is_some());
        assert!(pace.is_due(event("e", Some("y"))).is_none());
        assert!(pace.is_due(event("f", None)).is_some());
        assert!(pace.due_at().is_none(), "what had waited is over");
        assert!(pace.is_due(RecordEvent::Gone).is_some());
        assert!(pace.is_due(event("f", None)).is_some(), "made again");
    }
}
