//! The checker itself: histories by hand, which it must call fine or broken.
//!
//! Each excuse is asked three times: it holds right after its fault, it is over one validity
//! later, and a second fault starts it again.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::time::Duration;

use tenure_core::Policy;
use tenure_sim::checker::check;
use tenure_sim::history::{CauseLabel, Event, Fault, History, TermId, TermInfo};
use tenure_sim::invariant::Invariant;

const SECOND: Duration = Duration::from_secs(1);

/// The policy of all terms here is valid for 19.88 s after a heartbeat.
fn policy() -> Policy {
    Policy::default()
}

/// A fleet of two candidates, each of which began a term; what follows is the test's.
struct Fleet(History);

impl Fleet {
    /// Term 0 (token 1) and term 1 (token 2).
    fn new() -> Self {
        let mut fleet = Self(History::new(policy().validity(), true));
        fleet.elect(1, 1);
        fleet.elect(2, 2);
        fleet
    }

    fn at(&mut self, second: u64, event: Event) -> &mut Self {
        self.0.push(SECOND * u32::try_from(second).unwrap(), event);
        self
    }

    /// The store mints a token and its candidate hears of it.
    fn elect(&mut self, second: u64, token: u64) -> TermId {
        self.at(
            second,
            Event::Minted {
                store: 0,
                candidate: 0,
                life: 0,
                token,
            },
        );
        self.hear(second, token)
    }

    /// A candidate hears of a token, whenever that was minted.
    fn hear(&mut self, second: u64, token: u64) -> TermId {
        self.0.terms.push(TermInfo {
            candidate: 0,
            life: 0,
            token,
            policy: policy(),
            drain_limit: 5 * SECOND,
            stores: &[0],
            era: 0,
        });
        let term = self.0.terms.len() - 1;
        let now = SECOND * u32::try_from(second).unwrap();
        self.at(
            second,
            Event::Elected {
                term,
                until: now + 10 * SECOND,
                covered: Some(now + 20 * SECOND),
            },
        );
        term
    }

    #[track_caller]
    fn is_fine(&self) {
        let violations = check(&self.0);
        assert!(violations.is_empty(), "{violations:?}");
    }

    /// Broken once, in this invariant alone.
    #[track_caller]
    fn breaks(&self, invariant: Invariant) {
        let violations = check(&self.0);
        let broken: Vec<Invariant> = violations.iter().map(|v| v.invariant).collect();
        assert_eq!(broken, [invariant], "{violations:?}");
    }
}

/// Both terms of the fleet are valid together.
fn overlap() -> Event {
    Event::Overlap { older: 0, newer: 1 }
}

/// A valid term's write is refused by the resource.
fn refused() -> Event {
    Event::Effect {
        term: 0,
        at_least: SECOND,
        after: SECOND / 2,
        valid: true,
        accepted: false,
        seen: 2,
    }
}

/// A permit does not hold for as long as it says.
fn short_permit() -> Event {
    Event::Effect {
        term: 0,
        at_least: SECOND,
        after: SECOND / 2,
        valid: false,
        accepted: true,
        seen: 1,
    }
}

fn released_too_early() -> Event {
    Event::Released {
        store: 0,
        candidate: 0,
        token: 1,
        working: Some(0),
    }
}

/// A term that reaches beyond what the store has promised.
fn beyond() -> Event {
    Event::Renewed {
        term: 0,
        until: 3600 * SECOND,
        covered: Some(20 * SECOND),
    }
}

fn fell() -> Event {
    Event::MustStand {
        term: 0,
        what: "an outage that the policy tolerates",
        stands: false,
    }
}

fn deleted() -> Event {
    Event::Fault(Fault::Deleted { token: Some(1) })
}

fn state_lost() -> Event {
    Event::Fault(Fault::StateLost)
}

/// What must be called broken without a fault, and how.
fn accusations() -> [(fn() -> Event, Invariant); 6] {
    [
        (overlap, Invariant::Exclusive),
        (refused, Invariant::Tokens),
        (short_permit, Invariant::Permits),
        (beyond, Invariant::Covered),
        (fell, Invariant::Tolerance),
        (released_too_early, Invariant::ReleaseAfterWork),
    ]
}

#[test]
fn a_quiet_history_is_fine() {
    Fleet::new().is_fine();
}

#[test]
fn without_a_fault_nothing_is_excused() {
    for (event, invariant) in accusations() {
        let mut fleet = Fleet::new();
        fleet.at(30, event());
        fleet.breaks(invariant);
    }
}

#[test]
fn what_a_lost_state_leads_to_is_excused_for_one_validity() {
    for (event, invariant) in accusations() {
        let mut fleet = Fleet::new();
        fleet.at(10, state_lost()).at(29, event());
        fleet.is_fine();
        let mut fleet = Fleet::new();
        fleet.at(10, state_lost()).at(31, event());
        fleet.breaks(invariant);
    }
}

#[test]
fn a_second_fault_starts_the_time_again() {
    for fault in [state_lost, deleted] {
        let mut fleet = Fleet::new();
        fleet.at(10, fault()).at(25, fault()).at(44, overlap());
        fleet.is_fine();
        fleet.at(46, overlap());
        fleet.breaks(Invariant::Exclusive);
    }
}

#[test]
fn a_deletion_excuses_its_own_term_for_one_validity() {
    // A release that comes too early is not among what a deletion leads to.
    for (event, invariant) in accusations()
        .into_iter()
        .filter(|(_, invariant)| *invariant != Invariant::ReleaseAfterWork)
    {
        let mut fleet = Fleet::new();
        fleet.at(10, deleted()).at(29, event());
        fleet.is_fine();
        let mut fleet = Fleet::new();
        fleet.at(10, deleted()).at(31, event());
        fleet.breaks(invariant);
        let mut fleet = Fleet::new();
        let others = Event::Fault(Fault::Deleted { token: Some(7) });
        fleet.at(10, others).at(29, event());
        fleet.breaks(invariant);
    }
}

#[test]
fn an_overlap_that_outlives_its_excuse_is_broken_though_it_began_within_it() {
    let mut fleet = Fleet::new();
    fleet.at(10, state_lost());
    for second in 11..30 {
        fleet.at(second, overlap());
    }
    fleet.is_fine();
    fleet.at(31, overlap());
    fleet.breaks(Invariant::Exclusive);
}

#[test]
fn tokens_begin_again_with_the_store_and_rise_from_there() {
    let mut fleet = Fleet::new();
    fleet.at(10, state_lost());
    fleet.elect(11, 1);
    fleet.elect(12, 2);
    fleet.is_fine();
    // Within the excuse of the lost state, and yet no fault of it: minted twice since.
    fleet.at(
        13,
        Event::Minted {
            store: 0,
            candidate: 0,
            life: 0,
            token: 2,
        },
    );
    fleet.breaks(Invariant::Tokens);
}

#[test]
fn a_repeated_token_is_broken() {
    let mut fleet = Fleet::new();
    fleet.hear(10, 2);
    fleet.breaks(Invariant::Tokens);
    let mut fleet = Fleet::new();
    fleet.hear(10, 3);
    fleet.breaks(Invariant::Tokens);
    // An answer from before the loss may be on its way.
    let mut fleet = Fleet::new();
    fleet.at(10, state_lost());
    fleet.hear(11, 3);
    fleet.is_fine();
    fleet.hear(31, 4);
    fleet.breaks(Invariant::Tokens);
}

#[test]
fn a_term_that_was_provoked_may_end_within_one_validity() {
    let calm = |fleet: &mut Fleet| {
        fleet.at(5, Event::Calm(true)).at(
            6,
            Event::Settled {
                led: true,
                observed: true,
            },
        );
    };
    let ended = || Event::Ended(0);
    let mut fleet = Fleet::new();
    calm(&mut fleet);
    fleet.at(10, ended());
    fleet.breaks(Invariant::Recovery);
    let mut fleet = Fleet::new();
    calm(&mut fleet);
    fleet.at(10, Event::Provoked(0)).at(29, ended());
    fleet.is_fine();
    let mut fleet = Fleet::new();
    calm(&mut fleet);
    fleet.at(10, Event::Provoked(0)).at(31, ended());
    fleet.breaks(Invariant::Recovery);
    let mut fleet = Fleet::new();
    calm(&mut fleet);
    fleet
        .at(10, Event::Provoked(0))
        .at(25, Event::Provoked(0))
        .at(44, ended());
    fleet.is_fine();
    // A drain that began in time may end when its limit says.
    let mut fleet = Fleet::new();
    calm(&mut fleet);
    let told = Event::SteppingDown {
        term: 0,
        cause: CauseLabel("shutdown"),
        left: 15 * SECOND,
        disturbed: false,
    };
    fleet
        .at(10, Event::Provoked(0))
        .at(11, told)
        .at(34, ended());
    fleet.is_fine();
}
