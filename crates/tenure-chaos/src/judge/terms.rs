//! The terms of a history, each with the time in which its process surely believed in it.

use std::collections::BTreeMap;

use crate::history::{Line, Nanos};

/// A term as its process wrote it down.
#[derive(Clone, Debug, Default)]
pub struct TermSeen {
    /// The process.
    pub pid: u32,
    /// Its number in the fleet.
    pub candidate: usize,
    /// Which process of this candidate.
    pub life: u32,
    /// The term's token.
    pub token: u64,
    /// The candidate's lease, in milliseconds.
    pub lease: u64,
    /// When its campaign began.
    pub asked: Nanos,
    /// When it was elected.
    pub elected: Nanos,
    /// Until when it was valid at its election.
    pub first_until: Nanos,
    /// The last time at which its process saw it valid, and until when it was then.
    pub last_valid: (Nanos, Nanos),
    /// When the process began to work, and stopped.
    pub works: Option<Nanos>,
    /// When the process stopped to work.
    pub stops: Option<Nanos>,
    /// When it had given the lock back.
    pub released: Option<Nanos>,
    /// When the process was killed.
    pub killed: Option<Nanos>,
    /// Until when the process surely believed in its term.
    pub believed_until: Nanos,
    /// Its process stands still, and nothing was heard of it since.
    frozen: bool,
    /// Its writes to the register.
    pub writes: Vec<Line>,
}

impl TermSeen {
    /// Whether it was valid when it began. A process can be stopped between its election and its
    /// first look at the clock.
    pub fn is_valid_at_first(&self) -> bool {
        self.first_until > self.elected
    }
}

/// What is known of a process.
#[derive(Default)]
struct ProcessSeen {
    candidate: usize,
    life: u32,
    lease: u64,
    asked: Nanos,
    /// Its current term.
    term: Option<usize>,
}

/// All terms, in the order in which they began.
pub fn terms(lines: &[Line]) -> Vec<TermSeen> {
    let mut starts: BTreeMap<u64, u32> = BTreeMap::new();
    let mut processes: BTreeMap<u32, ProcessSeen> = BTreeMap::new();
    let mut terms: Vec<TermSeen> = Vec::new();
    for line in lines {
        let process = processes.entry(line.pid).or_default();
        match line.event.as_str() {
            "starts" => {
                let candidate = line.number(0).unwrap_or_default();
                let life = starts.entry(candidate).or_default();
                *life += 1;
                *process = ProcessSeen {
                    candidate: usize::try_from(candidate).unwrap_or_default(),
                    life: *life,
                    lease: line.number(1).unwrap_or_default(),
                    ..ProcessSeen::default()
                };
            }
            "campaigns" => process.asked = line.at,
            "elected" => {
                let until = line.number(0).unwrap_or_default();
                process.term = Some(terms.len());
                terms.push(TermSeen {
                    pid: line.pid,
                    candidate: process.candidate,
                    life: process.life,
                    token: line.token,
                    lease: process.lease,
                    asked: process.asked,
                    elected: line.at,
                    first_until: until,
                    last_valid: (line.at, until),
                    believed_until: line.at,
                    ..TermSeen::default()
                });
            }
            event => {
                let term = process.term.and_then(|index| terms.get_mut(index));
                if let Some(term) = term {
                    add(term, event, line);
                }
            }
        }
    }
    terms
}

/// Adds a line to the term of its process.
fn add(term: &mut TermSeen, event: &str, line: &Line) {
    let is_of_process = matches!(
        event,
        "valid" | "looked" | "wrote" | "stops" | "released" | "thawed"
    );
    if term.frozen && is_of_process {
        // A process that stands still does nothing: its term goes on until the clock ends it.
        term.frozen = false;
        let believed = term.last_valid.1.min(line.at);
        term.believed_until = term.believed_until.max(believed);
    }
    match event {
        "valid" => {
            term.last_valid = (line.at, line.number(0).unwrap_or_default());
            term.believed_until = term.believed_until.max(line.at);
        }
        // A look at one moment: until when it was valid then is not known.
        "looked" => term.believed_until = term.believed_until.max(line.at),
        "works" => term.works = Some(line.at),
        "wrote" => term.writes.push(line.clone()),
        "stops" => term.stops = term.stops.or(Some(line.at)),
        "released" => term.released = Some(line.at),
        "killed" if term.released.is_none() => term.killed = Some(line.at),
        "frozen" => term.frozen = term.stops.is_none(),
        _ => {}
    }
}

/// Two terms that were believed in at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BothBelieved {
    /// The one that began earlier: an index.
    pub older: usize,
    /// The other.
    pub newer: usize,
    /// When both were believed in first.
    pub from: Nanos,
    /// When both were believed in last.
    pub until: Nanos,
}

/// All overlaps.
pub fn overlaps(terms: &[TermSeen]) -> Vec<BothBelieved> {
    let mut found = Vec::new();
    for (newer, new) in terms.iter().enumerate() {
        if !new.is_valid_at_first() {
            continue;
        }
        for (older, old) in terms.iter().enumerate().take(newer) {
            let until = old.believed_until.min(new.believed_until.max(new.elected));
            if old.is_valid_at_first() && new.elected < old.believed_until {
                found.push(BothBelieved {
                    older,
                    newer,
                    from: new.elected,
                    until,
                });
            }
        }
    }
    found
}
