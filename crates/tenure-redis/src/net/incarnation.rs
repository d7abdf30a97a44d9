//! Which life of a server this is, as its replication id tells: each restart and each promotion
//! changes it.

use std::time::{Duration, Instant};

/// A change of incarnation that was seen on the same connector, or of the node that has a slot. A
/// process that connects to a server for the first time cannot know what it has forgotten.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    pub(crate) before: String,
    pub(crate) seen_at: Instant,
    /// To an incarnation that was seen before: a server has come back as it was, and its own fences
    /// tell nothing of what was granted meanwhile.
    pub(crate) is_back: bool,
}

impl Change {
    /// How long a term with this lease may still go on that was granted before.
    pub(crate) fn quarantine(&self, lease: Duration) -> Duration {
        lease.saturating_sub(self.seen_at.elapsed())
    }
}

/// A server that tells another one with each connection must not fill the memory.
const MOST: usize = 1000;

/// The incarnations that a connector has led to.
#[derive(Debug, Default)]
pub(crate) struct Incarnations {
    /// The latest last: as many as there have been failovers and restarts, up to [`MOST`].
    seen: Vec<String>,
    change: Option<Change>,
}

impl Incarnations {
    /// A new connection leads to this one. Says what the last change was, if there was any.
    pub(crate) fn connected(&mut self, incarnation: &str) -> Option<Change> {
        // An id has forty characters.
        let incarnation: String = incarnation.chars().take(40).collect();
        let known = self.seen.iter().position(|seen| *seen == incarnation);
        if let Some(before) = self.seen.last()
            && *before != incarnation
        {
            self.change = Some(Change {
                before: before.clone(),
                seen_at: Instant::now(),
                is_back: known.is_some(),
            });
        }
        if let Some(known) = known {
            self.seen.remove(known);
        }
        self.seen.push(incarnation);
        if self.seen.len() > MOST {
            self.seen.remove(0);
        }
        self.change.clone()
    }

    /// The latest one.
    pub(crate) fn last(&self) -> Option<&str> {
        self.seen.last().map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_told_to_all_connections_after_it() {
        let mut incarnations = Incarnations::default();
        assert!(incarnations.connected("a").is_none(), "nothing was known");
        assert!(incarnations.connected("a").is_none());
        let change = incarnations.connected("b").unwrap();
        assert_eq!((change.before.as_str(), change.is_back), ("a", false));
        let again = incarnations.connected("b").unwrap();
        assert_eq!(again.seen_at, change.seen_at);
        let back = incarnations.connected("a").unwrap();
        assert_eq!((back.before.as_str(), back.is_back), ("b", true));
        assert_eq!(incarnations.last(), Some("a"));
    }

    #[test]
    fn a_server_with_another_id_each_time_does_not_fill_the_memory() {
        let mut incarnations = Incarnations::default();
        for number in 0..10_000 {
            incarnations.connected(&format!("{number:0>1000}"));
            incarnations.connected(&format!("{number}{}", "x".repeat(1000)));
        }
        assert!(incarnations.seen.len() <= MOST);
        assert!(incarnations.seen.iter().all(|seen| seen.len() <= 40));
    }

    #[test]
    fn the_quarantine_counts_from_when_the_change_was_seen() {
        let lease = Duration::from_secs(3600);
        let mut incarnations = Incarnations::default();
        incarnations.connected("a");
        let change = incarnations.connected("b").unwrap();
        assert!(change.quarantine(lease) <= lease);
        assert!(change.quarantine(lease) > lease / 2);
        assert_eq!(change.quarantine(Duration::ZERO), Duration::ZERO);
    }
}
