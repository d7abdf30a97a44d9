//! What a run must show at least, or it proves nothing.

use crate::history::{Line, Nanos};
use crate::judge::terms::TermSeen;
use crate::judge::verdict::{Minimums, Struck, Verdict};

impl Minimums {
    /// What a run misses.
    pub(super) fn missed_by(&self, verdict: &Verdict) -> Vec<String> {
        let mut missed = Vec::new();
        if verdict.terms < self.terms {
            missed.push(format!("{} terms, not {}", verdict.terms, self.terms));
        }
        if verdict.led_percent < self.led_percent {
            missed.push(format!("a process led for {} %", verdict.led_percent));
        }
        let (hit, all) = (verdict.at_leader, verdict.struck.len());
        if hit * 100 < all * self.at_leader_percent {
            missed.push(format!("{hit} of {all} faults hit the process that led"));
        }
        let (killed, wanted) = (verdict.leaders_killed, self.leaders_killed);
        if killed < wanted {
            missed.push(format!("{killed} leaders were killed, not {wanted}"));
        }
        let blind = verdict.struck.iter().filter(|s| s.evidence.is_empty());
        missed.extend(blind.map(|struck| format!("{} left no evidence", struck.fault)));
        missed
    }
}

/// The faults of a history. They come one at a time.
pub(super) fn struck(lines: &[Line]) -> Vec<Struck> {
    let mut all: Vec<Struck> = Vec::new();
    for line in lines {
        let (fault, rest) = line.rest.split_once(' ').unwrap_or((&line.rest, ""));
        match line.event.as_str() {
            "strikes" => all.push(Struck {
                at: line.at,
                healed: None,
                pid: line.pid,
                fault: fault.to_owned(),
                evidence: String::new(),
            }),
            "healed" | "unseen" => {
                if let Some(last) = all.last_mut() {
                    last.healed = Some(line.at);
                    if line.event == "healed" {
                        rest.trim().clone_into(&mut last.evidence);
                    }
                }
            }
            _ => {}
        }
    }
    all
}

/// Whether a fault hit a process whose term was valid then.
pub(super) fn hit_a_leader(struck: &Struck, terms: &[TermSeen]) -> bool {
    let mut of_process = terms.iter().filter(|term| term.pid == struck.pid);
    // Its last look at its term was a piece of work ago.
    of_process.any(|term| {
        let (seen, until) = term.last_valid;
        let believed = term.believed_until.max(seen.max(until.min(struck.at)));
        let stopped = term.stops.unwrap_or(Nanos::MAX);
        (term.elected..=believed).contains(&struck.at) && struck.at <= stopped
    })
}

/// For which part of the history a process led, in percent.
pub(super) fn led_percent(lines: &[Line], terms: &[TermSeen]) -> u64 {
    let (Some(first), Some(last)) = (lines.first(), lines.last()) else {
        return 0;
    };
    let mut led = 0;
    let mut until = 0;
    for term in terms.iter().filter(|term| term.is_valid_at_first()) {
        let from = term.elected.max(until);
        led += term.believed_until.saturating_sub(from);
        until = until.max(term.believed_until);
    }
    led * 100 / (last.at - first.at).max(1)
}
