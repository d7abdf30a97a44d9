//! Which node of a cluster has which slots, as far as nodes have told, which slots have come to
//! another node since, and for how long the former one may go on.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use tenure_core::record::MAX_LEASE;
use tenure_kit::Address;

use crate::keys::hash_tag;
use crate::net::incarnation::Change;

pub(crate) const SLOTS: u16 = 16384;

/// The `cluster-node-timeout` that servers come with.
pub(super) const USUAL_NODE_TIMEOUT: Duration = Duration::from_secs(15);

/// How long beyond a lease a term may go on that another node has granted before.
///
/// A node that is cut off from the others grants and renews terms until it takes more than half of
/// them for lost. That is a node timeout after it has asked them something without an answer, which
/// it does when it has heard nothing for half of one. The others may have asked it just when it was cut off, and
/// promote its replica half a node timeout earlier than it stops. (`clusterCron` in the server's
/// source. Of 20 nodes that were cut off on loopback each stopped before its replica was promoted,
/// at the closest by a third of the timeout; but nothing makes sure of it.)
///
/// The rest is for what a node does only ten times a second, and for another host's clock.
pub(super) fn quarantine(node_timeout: Duration) -> Duration {
    node_timeout / 2 + Duration::from_millis(500)
}

/// Slots with one holder, from the first to the last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) first: u16,
    pub(crate) last: u16,
    pub(crate) holder: Address,
}

impl Range {
    fn has(&self, slot: u16) -> bool {
        (self.first..=self.last).contains(&slot)
    }
}

/// Slots that another node had before, and when that was seen.
///
/// A replica that is promoted may never have heard of the first term of a lock, and so has nothing
/// to tell by that there was one. By address, not by incarnation: different nodes have different
/// ones all the time. A slot that was moved with all its keys looks the same, and costs a lock that
/// is new a lease.
#[derive(Debug)]
struct Handover {
    first: u16,
    last: u16,
    change: Change,
}

#[derive(Debug, Default)]
pub(super) struct SlotMap {
    ranges: Vec<Range>,
    /// What nodes have told since the ranges were asked for.
    moved: HashMap<u16, Address>,
    /// The latest last.
    handovers: Vec<Handover>,
    version: u64,
}

impl SlotMap {
    pub(crate) fn version(&self) -> u64 {
        self.version
    }

    pub(crate) fn holder_of(&self, slot: u16) -> Option<&Address> {
        self.moved
            .get(&slot)
            .or_else(|| holder_in(&self.ranges, slot))
    }

    /// The nodes that have slots.
    pub(crate) fn holders(&self) -> impl Iterator<Item = &Address> {
        self.ranges.iter().map(|range| &range.holder)
    }

    /// The last time that a slot was seen to have come to another node.
    pub(crate) fn change_of(&self, slot: u16) -> Option<&Change> {
        let has = |handover: &&Handover| (handover.first..=handover.last).contains(&slot);
        let handover = self.handovers.iter().rev().find(has);
        handover.map(|handover| &handover.change)
    }

    /// Takes over what a node has told of all slots. `incarnation_of` gives the last
    /// incarnation that was known of a node.
    ///
    /// A slot that it names nobody for stays where it was: the node that gets it next is not the first
    /// to have it.
    pub(crate) fn learn(
        &mut self,
        mut told: Vec<Range>,
        incarnation_of: impl Fn(&Address) -> String,
    ) {
        let now = by_slot(&told);
        let mut before = by_slot(&self.ranges);
        for (slot, holder) in &self.moved {
            if let Some(known) = before.get_mut(usize::from(*slot)) {
                *known = Some(holder);
            }
        }
        let pairs = || before.iter().zip(&now);
        let handed =
            runs(pairs().map(|(before, now)| before.filter(|_| now.is_some() && before != now)));
        let unnamed = runs(pairs().map(|(before, now)| before.filter(|_| now.is_none())));
        told.extend(unnamed);
        for range in handed {
            self.hand_over(&range, &incarnation_of);
        }
        self.ranges = told;
        self.moved.clear();
        self.version += 1;
    }

    /// Takes over what a node has told of one slot.
    pub(crate) fn learn_one(
        &mut self,
        slot: u16,
        holder: Address,
        incarnation_of: impl Fn(&Address) -> String,
    ) {
        let before = self.holder_of(slot).cloned();
        if let Some(before) = before.filter(|before| *before != holder) {
            let range = Range {
                first: slot,
                last: slot,
                holder: before,
            };
            self.hand_over(&range, &incarnation_of);
        }
        self.moved.insert(slot, holder);
    }

    fn hand_over(&mut self, from: &Range, incarnation_of: &impl Fn(&Address) -> String) {
        // Those that no lease reaches back to, or that this one is later than, tell nothing more.
        self.handovers.retain(|old| {
            let covered = from.has(old.first) && from.has(old.last);
            !covered && old.change.seen_at.elapsed() <= MAX_LEASE
        });
        self.handovers.push(Handover {
            first: from.first,
            last: from.last,
            change: Change {
                before: incarnation_of(&from.holder),
                seen_at: Instant::now(),
                // A node that comes back is made a replica first.
                is_back: false,
            },
        });
    }
}

pub(crate) fn holder_in(ranges: &[Range], slot: u16) -> Option<&Address> {
    let range = ranges.iter().find(|range| range.has(slot));
    range.map(|range| &range.holder)
}

/// The holder of each slot.
fn by_slot(ranges: &[Range]) -> Vec<Option<&Address>> {
    let mut holders = vec![None; usize::from(SLOTS)];
    // The first that has a slot counts.
    for range in ranges.iter().rev() {
        let slots = usize::from(range.first)..=usize::from(range.last);
        if let Some(of_range) = holders.get_mut(slots) {
            of_range.fill(Some(&range.holder));
        }
    }
    holders
}

/// What is said of each slot in turn, as ranges.
fn runs<'a>(holders: impl Iterator<Item = Option<&'a Address>>) -> Vec<Range> {
    let mut runs: Vec<Range> = Vec::new();
    for (slot, holder) in (0..SLOTS).zip(holders) {
        let Some(holder) = holder else { continue };
        match runs.last_mut() {
            Some(run) if run.last + 1 == slot && run.holder == *holder => run.last = slot,
            _ => runs.push(Range {
                first: slot,
                last: slot,
                holder: holder.clone(),
            }),
        }
    }
    runs
}

/// The slot of a key.
pub(super) fn slot_of(key: &str) -> u16 {
    let mut crc: u16 = 0;
    for byte in hash_tag(key).unwrap_or(key).bytes() {
        crc ^= u16::from(byte) << 8;
        for _ in 0..8 {
            let carry = crc & 0x8000 != 0;
            crc <<= 1;
            if carry {
                crc ^= 0x1021;
            }
        }
    }
    crc % SLOTS
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(port: u16) -> Address {
        Address::new("a", port)
    }

    fn map_of(ranges: &[(u16, u16, u16)]) -> Vec<Range> {
        let range = |&(first, last, port)| Range {
            first,
            last,
            holder: node(port),
        };
        ranges.iter().map(range).collect()
    }

    fn incarnation_of(node: &Address) -> String {
        format!("incarnation of {}", node.port())
    }

    fn before(map: &SlotMap, slot: u16) -> Option<&str> {
        map.change_of(slot).map(|change| change.before.as_str())
    }

    #[test]
    fn a_slot_that_comes_to_another_node_is_remembered() {
        let mut map = SlotMap::default();
        map.learn(map_of(&[(0, 99, 1), (100, 16383, 2)]), incarnation_of);
        assert!(map.handovers.is_empty(), "nothing was known");
        map.learn(
            map_of(&[(0, 49, 1), (50, 149, 3), (150, 16383, 2)]),
            incarnation_of,
        );
        assert_eq!(before(&map, 49), None);
        assert_eq!(before(&map, 50), Some("incarnation of 1"));
        assert_eq!(before(&map, 99), Some("incarnation of 1"));
        assert_eq!(before(&map, 100), Some("incarnation of 2"));
        assert_eq!(before(&map, 149), Some("incarnation of 2"));
        assert_eq!(before(&map, 150), None);
        assert_eq!(map.holder_of(149), Some(&node(3)));

        // The same told again is no change.
        let seen_at = map.change_of(50).unwrap().seen_at;
        map.learn(
            map_of(&[(0, 49, 1), (50, 149, 3), (150, 16383, 2)]),
            incarnation_of,
        );
        assert_eq!(map.change_of(50).unwrap().seen_at, seen_at);
        // Back again is one.
        map.learn(map_of(&[(0, 99, 1), (100, 16383, 2)]), incarnation_of);
        assert_eq!(before(&map, 50), Some("incarnation of 3"));
        assert_eq!(map.handovers.len(), 1, "of those the last is kept");
    }

    #[test]
    fn a_slot_that_a_node_sends_on_is_remembered_once() {
        let mut map = SlotMap::default();
        map.learn_one(7, node(1), incarnation_of);
        assert_eq!(before(&map, 7), None, "nothing was known");
        map.learn(map_of(&[(0, 16383, 1)]), incarnation_of);
        map.learn_one(7, node(2), incarnation_of);
        assert_eq!(before(&map, 7), Some("incarnation of 1"));
        assert_eq!((before(&map, 6), before(&map, 8)), (None, None));
        let seen_at = map.change_of(7).unwrap().seen_at;
        map.learn_one(7, node(2), incarnation_of);
        map.learn(
            map_of(&[(0, 6, 1), (7, 7, 2), (8, 16383, 1)]),
            incarnation_of,
        );
        assert_eq!(map.change_of(7).unwrap().seen_at, seen_at);
        assert_eq!(map.handovers.len(), 1);
    }

    #[test]
    fn a_slot_that_is_not_named_stays_known() {
        let mut map = SlotMap::default();
        map.learn(map_of(&[(0, 16383, 1)]), incarnation_of);
        map.learn(map_of(&[(0, 99, 2), (200, 16383, 1)]), incarnation_of);
        assert_eq!(map.holder_of(150), Some(&node(1)));
        assert_eq!(before(&map, 150), None);
        map.learn(map_of(&[(0, 199, 2), (200, 16383, 1)]), incarnation_of);
        assert_eq!(before(&map, 150), Some("incarnation of 1"));
        // Nonsense harms nobody.
        map.learn(map_of(&[(9, 1, 3), (0, 60000, 3)]), incarnation_of);
    }

    #[test]
    fn slots_are_those_of_redis() {
        // CRC16 as the cluster specification gives it for "123456789".
        assert_eq!(slot_of("123456789"), 0x31C3);
        // By `CLUSTER KEYSLOT`.
        assert_eq!(slot_of("foo"), 12182);
        assert_eq!(slot_of("tenure:{bar}:fence"), 5061);
    }
}
