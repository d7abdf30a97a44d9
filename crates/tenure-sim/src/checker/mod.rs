//! Goes through a history and asserts the invariants.
//!
//! What a candidate cannot know (did the store apply a request whose answer was lost?) counts
//! neither as done nor as not done: only the store's own log and the terms' own answers count.
//!
//! A fault that no lock survives (a deletion, a store that loses its state) excuses what it must
//! lead to, for one validity of the fleet's longest policy. A second fault starts that time again.
//! After it everything is asserted as before: nothing is excused until the end of a run.

mod rules;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::Moment;
use crate::history::{Event, Fault, History, TermId, TermInfo};
use crate::invariant::{Invariant, Violation};

/// What two clocks at the drift bound make of a duration, and a timer's granularity.
fn at_most(duration: Duration) -> Duration {
    duration + duration / 1_000 + Duration::from_millis(5)
}

/// All that is wrong with a history.
pub fn check(history: &History) -> Vec<Violation> {
    let mut checker = Checker {
        terms: &history.terms,
        longest_validity: history.longest_validity,
        tokens_begin_again: history.tokens_begin_again,
        tokens_rise_from: history.tokens_rise_from,
        ..Checker::default()
    };
    for (at, event) in &history.events {
        checker.now = *at;
        checker.event(event);
    }
    checker.finish();
    checker.violations
}

#[derive(Default)]
struct Checker<'a> {
    terms: &'a [TermInfo],
    longest_validity: Duration,
    tokens_begin_again: bool,
    tokens_rise_from: Moment,
    now: Moment,
    violations: Vec<Violation>,
    /// What the stores have minted.
    mints: Vec<Mint>,
    /// The last mint of each token: an index into `mints`.
    minted: BTreeMap<u64, usize>,
    /// Which mint a term comes from.
    mint_of: BTreeMap<TermId, usize>,
    /// When the lock was last deleted under a mint.
    deleted: BTreeMap<usize, Moment>,
    /// When the store last lost its state.
    state_lost: Option<Moment>,
    /// When the store's tokens last began again.
    begun_again: Option<Moment>,
    last_minted: [u64; 2],
    /// When terms began, and the largest token until then.
    elected: Vec<(Moment, u64)>,
    tokens: BTreeSet<u64>,
    started: BTreeSet<TermId>,
    stopped: BTreeSet<TermId>,
    stepping_down: BTreeMap<TermId, Moment>,
    ended: BTreeMap<TermId, Moment>,
    /// When the director last set about to end a term.
    provoked: BTreeMap<TermId, Moment>,
    /// Terms whose end was expected, or has been reported.
    ending: BTreeSet<TermId>,
    /// When terms were over, unless the host was disturbed.
    over: BTreeMap<TermId, Moment>,
    overrun_told: BTreeSet<TermId>,
    /// Candidates whose first answer was one that somebody must mend.
    refused: BTreeSet<(usize, u32)>,
    /// Who gives two locks back, and has not given back the second of them yet.
    gives_both: Option<usize>,
    vacant: Vec<Vacancy>,
    must_notice: Vec<(TermId, Moment)>,
    calm: bool,
    settled: bool,
}

/// A term as a store has minted it.
struct Mint {
    at: Moment,
    candidate: usize,
    life: u32,
    token: u64,
}

/// Work that stops so soon after the end of its grace need not be reported: both may have
/// happened at the same moment.
const REPORT_SLACK: Duration = Duration::from_secs(1);

/// Part of the margin between a validity and its lease that a candidate needs to act after it has
/// looked at the clock (I2): a thousandth of the lease, at most 20 ms.
fn time_to_act(lease: Duration) -> Duration {
    (lease / 1_000).min(Duration::from_millis(20))
}

/// A time without a leader that was brought about.
struct Vacancy {
    /// How.
    how: &'static str,
    /// When it must be over.
    until: Moment,
    /// How long it may last from the lock's release.
    after_release: Duration,
}

impl<'a> Checker<'a> {
    fn broken(&mut self, invariant: Invariant, what: impl Into<String>) {
        self.violations.push(Violation {
            at: self.now,
            invariant,
            what: what.into(),
        });
    }

    fn term(&self, id: TermId) -> Option<&'a TermInfo> {
        self.terms.get(id)
    }

    /// Whether the store's promise for a term was broken by a fault that no lock survives: then
    /// the term may be valid until its last proof ends, beside another.
    fn is_excused(&self, id: TermId) -> bool {
        let mint = self.mint_of.get(&id);
        self.is_amnesiac() || self.is_recent(mint.and_then(|mint| self.deleted.get(mint)))
    }

    /// Whether the store has lost its state within the last validity.
    fn is_amnesiac(&self) -> bool {
        self.is_recent(self.state_lost.as_ref())
    }

    /// Whether a fault at that moment still excuses what follows from it.
    fn is_recent(&self, fault: Option<&Moment>) -> bool {
        let lasts = at_most(self.longest_validity);
        fault.is_some_and(|at| self.now <= *at + lasts)
    }

    fn event(&mut self, event: &Event) {
        match event {
            Event::Fault(Fault::Deleted { token }) => {
                let mint = token.and_then(|token| self.minted.get(&token));
                if let Some(mint) = mint {
                    self.deleted.insert(*mint, self.now);
                }
                if self.tokens_begin_again {
                    self.begin_again();
                }
            }
            Event::Fault(Fault::StateLost) => self.state_lost(),
            Event::Minted {
                store,
                candidate,
                life,
                token,
            } => self.minted(
                *store,
                Mint {
                    at: self.now,
                    candidate: *candidate,
                    life: *life,
                    token: *token,
                },
            ),
            Event::Released {
                store,
                candidate,
                token,
                working,
            } => {
                self.released(*token, *working);
                self.in_order(*store, *candidate);
            }
            Event::Elected {
                term,
                until,
                covered,
            } => {
                self.elected(*term);
                self.covered(*term, *until, *covered);
            }
            Event::Renewed {
                term,
                until,
                covered,
            } => self.covered(*term, *until, *covered),
            Event::Overlap { older, newer } => {
                if !self.is_excused(*older) && !self.is_excused(*newer) {
                    self.broken(
                        Invariant::Exclusive,
                        format!("terms {older} and {newer} are both valid"),
                    );
                }
            }
            Event::Resurrected(term) => self.broken(
                Invariant::OverForGood,
                format!("term {term} was over and is valid again"),
            ),
            Event::Impatient { candidate, left } => self.broken(
                Invariant::Backoff,
                format!("candidate {candidate} called {left:?} before it was asked to"),
            ),
            Event::Confirmed {
                term,
                proven: false,
            } => self.broken(
                Invariant::Confirm,
                format!("term {term} was confirmed without a proof"),
            ),
            Event::Livelock => self.broken(Invariant::Livelock, "nothing gets on"),
            Event::Calm(calm) => {
                self.calm = *calm;
                self.settled = false;
            }
            _ => self.campaign_event(event),
        }
    }

    fn campaign_event(&mut self, event: &Event) {
        match event {
            Event::Uncancelled(term) => self.broken(
                Invariant::OverForGood,
                format!("the work of term {term} was told to stop, and then that it need not"),
            ),
            Event::Published { term, kept: false } if !self.is_excused(*term) => self.broken(
                Invariant::Published,
                format!("a value of term {term} was published, and the store does not hold it"),
            ),
            Event::Refused { candidate, life } => {
                self.refused.insert((*candidate, *life));
            }
            Event::GaveUp {
                candidate,
                life,
                kind,
                hasty,
            } => {
                self.refused.remove(&(*candidate, *life));
                if *hasty {
                    self.broken(
                        Invariant::GivesUp,
                        format!("candidate {candidate} gave up for an error of kind {kind}"),
                    );
                }
            }
            Event::Unwell { candidate, what } => self.broken(
                Invariant::Health,
                format!("candidate {candidate} is unwell and {what}"),
            ),
            Event::GivesBoth { candidate } => self.gives_both = Some(*candidate),
            Event::Orphan { candidate } => self.broken(
                Invariant::Orphans,
                format!("candidate {candidate} has left and the store holds something for it"),
            ),
            _ => self.work_event(event),
        }
    }

    fn work_event(&mut self, event: &Event) {
        match event {
            Event::WorkStarted(term) if !self.started.insert(*term) => {
                self.broken(Invariant::StartStop, format!("term {term} started twice"));
            }
            Event::OverrunTold(term) => {
                self.overrun_told.insert(*term);
            }
            Event::WorkStopped { term, .. }
                if !self.started.contains(term) || !self.stopped.insert(*term) =>
            {
                self.broken(Invariant::StartStop, format!("term {term} stopped twice"));
            }
            Event::WorkStopped {
                term,
                crashed: false,
                disturbed: false,
            } => self.outlived(*term),
            Event::LatePermit(term) => self.broken(
                Invariant::Permits,
                format!("term {term} gave a permit after its work had stopped"),
            ),
            Event::Effect {
                term,
                at_least,
                after,
                valid,
                accepted,
                seen,
            } if after <= at_least && !self.is_excused(*term) => {
                if !valid {
                    self.broken(
                        Invariant::Permits,
                        format!(
                            "term {term} gave a permit for {at_least:?} and was over {after:?} later"
                        ),
                    );
                } else if !accepted && self.now >= self.tokens_rise_from {
                    self.broken(
                        Invariant::Tokens,
                        format!("a valid term {term} was refused: the resource had seen {seen}"),
                    );
                }
            }
            Event::SteppingDown {
                term,
                cause,
                left,
                disturbed,
            } => self.stepping_down(*term, cause.0, *left, *disturbed),
            Event::SteppedDown {
                term,
                cause,
                disturbed: false,
            } => {
                self.over.entry(*term).or_insert(self.now);
                if cause.0 == "expired" {
                    self.never_told(*term);
                }
            }
            Event::Ended(term) => self.ended(*term),
            _ => self.calm_event(event),
        }
    }

    fn calm_event(&mut self, event: &Event) {
        match event {
            Event::Settled { led, observed } => {
                self.settled = self.calm;
                if !led {
                    self.broken(Invariant::Recovery, "nobody leads in calm weather");
                }
                if !observed {
                    self.broken(Invariant::Observer, "the observer names another leader");
                }
            }
            Event::Provoked(term) => {
                self.provoked.insert(*term, self.now);
            }
            Event::Observed {
                token: None,
                led: true,
            } => self.broken(
                Invariant::Observer,
                "one who waits for the lock is shown as its leader",
            ),
            Event::Vacant {
                how,
                bound,
                after_release,
            } => self.vacant.push(Vacancy {
                how,
                until: self.now + *bound,
                after_release: *after_release,
            }),
            Event::MustStand {
                term,
                what,
                stands: false,
            } if !self.is_excused(*term) => {
                let invariant = if what.contains("drain") {
                    Invariant::Drain
                } else {
                    Invariant::Tolerance
                };
                self.broken(invariant, format!("term {term} did not survive {what}"));
            }
            Event::MustNotice { term, bound } => {
                self.must_notice.push((*term, self.now + *bound));
            }
            Event::Over {
                working,
                running,
                held,
            } => {
                if *working > 0 || *running > 0 {
                    self.broken(
                        Invariant::StartStop,
                        format!("after the shutdown {working} works and {running} tasks are left"),
                    );
                }
                if *held {
                    self.broken(
                        Invariant::Orphans,
                        "after everybody's shutdown the lock is held",
                    );
                }
            }
            _ => {}
        }
    }
}
