//! The search: breadth first, so that what it finds comes by the shortest way.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasherDefault, Hasher};
use std::time::{Duration, Instant};

use tenure_core::Error;

use crate::world::{Action, Rules, World};
use crate::{Options, Violation, rules};

/// What a search has found.
#[derive(Debug)]
pub struct Report {
    /// How many different states were reached.
    pub states: usize,
    /// How many steps were taken from them.
    pub steps: usize,
    /// How many steps the longest of the shortest ways to a state has.
    pub depth: usize,
    /// Whether every state was reached that can be, and not only those up to the depth.
    pub complete: bool,
    /// How long it took.
    pub took: Duration,
    /// The first state in which an invariant does not hold, and the way there.
    pub found: Option<(Violation, Vec<String>)>,
}

/// Fingerprints are hashes already.
#[derive(Debug, Default)]
struct AsItIs(u64);

impl Hasher for AsItIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {}

    fn write_u64(&mut self, value: u64) {
        self.0 = value;
    }
}

/// From which state each was reached first, and how.
type Ways = HashMap<u64, (u64, Action), BuildHasherDefault<AsItIs>>;

/// Tries everything that can happen.
///
/// Fails only when its own policies are refused.
pub fn search(options: &Options) -> Result<Report, Error> {
    let began = Instant::now();
    let rules = rules(options)?;
    let first = World::new(&rules);
    let root = first.fingerprint();
    let mut ways = Ways::default();
    ways.insert(root, (root, Action::Tick));
    let mut level = vec![(root, first)];
    let mut report = Report {
        states: 1,
        steps: 0,
        depth: 0,
        complete: false,
        took: Duration::ZERO,
        found: None,
    };
    let mut actions = Vec::new();
    let mut broken = Vec::new();
    while !level.is_empty() && report.depth < options.depth && ways.len() < options.states {
        let mut next = Vec::new();
        for (fingerprint, world) in level {
            world.actions(&rules, &mut actions);
            for &action in &actions {
                let mut after = world.clone();
                after.step(&rules, action, &mut broken);
                report.steps += 1;
                if let Some(violation) = options.first_of(&mut broken) {
                    let mut way = way(&rules, &ways, fingerprint);
                    way.push(action.to_string());
                    report.found = Some((violation, way));
                    report.states = ways.len();
                    report.took = began.elapsed();
                    return Ok(report);
                }
                let reached = after.fingerprint();
                if let Entry::Vacant(entry) = ways.entry(reached) {
                    entry.insert((fingerprint, action));
                    next.push((reached, after));
                }
            }
        }
        level = next;
        report.depth += 1;
    }
    report.complete = level.is_empty();
    report.states = ways.len();
    report.took = began.elapsed();
    Ok(report)
}

/// The steps to a state.
fn way(rules: &Rules, ways: &Ways, to: u64) -> Vec<String> {
    let mut actions = Vec::new();
    let mut at = to;
    while let Some(&(before, action)) = ways.get(&at) {
        if before == at {
            break;
        }
        actions.push(action);
        at = before;
    }
    actions.reverse();
    // Again from the start, with what each step has led to.
    let mut world = World::new(rules);
    let mut broken = Vec::new();
    let mut told = Vec::new();
    for action in actions {
        world.step(rules, action, &mut broken);
        told.push(format!("{action}: {world}"));
    }
    told
}
