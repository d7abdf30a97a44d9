//! How often a waiter looks because a stranger says that its lock is free.

use std::time::Duration;

use tokio::time::Instant;

/// Any role can say so as often as it likes. The holder itself is always believed.
const ONE_IN: Duration = Duration::from_secs(1);

/// What strangers have said of one lock.
#[derive(Default)]
pub(super) struct Rumours {
    /// Until then the waiters have looked already.
    quiet_until: Option<Instant>,
    /// They will look then.
    is_due: bool,
}

/// When the waiters look.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Look {
    Now,
    At(Instant),
    /// With one that is due.
    Merged,
}

impl Rumours {
    /// Another one has come.
    pub(super) fn add(&mut self, now: Instant) -> Look {
        match self.quiet_until {
            Some(_) if self.is_due => Look::Merged,
            Some(until) if now < until => {
                self.is_due = true;
                Look::At(until)
            }
            _ => {
                self.quiet_until = Some(now + ONE_IN);
                Look::Now
            }
        }
    }

    /// The waiters look because of those that were merged.
    pub(super) fn look(&mut self, now: Instant) {
        self.is_due = false;
        self.quiet_until = Some(now + ONE_IN);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn none_is_lost_and_all_but_one_a_second_are_merged() {
        let (mut rumours, start) = (Rumours::default(), Instant::now());
        assert_eq!(rumours.add(start), Look::Now);
        assert_eq!(rumours.add(start), Look::At(start + ONE_IN));
        assert_eq!(rumours.add(start), Look::Merged);
        rumours.look(start + ONE_IN);
        assert_eq!(rumours.add(start + ONE_IN), Look::At(start + 2 * ONE_IN));
        rumours.look(start + 2 * ONE_IN);
        assert_eq!(rumours.add(start + 3 * ONE_IN), Look::Now);
    }
}
