//! What the gauges of an election say.
//!
//! On a heartbeat thread a write waits for its turn, and then sets what is right by then. At most
//! one write of each group waits, so none is ever dropped.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::contract::name::LockName;
use crate::contract::token::FencingToken;
use crate::election::event::Event;
use crate::election::{relay, series};

pub(super) struct Gauges {
    lock: LockName,
    state: Mutex<State>,
    of_candidate: Group,
    of_term: Group,
}

#[derive(Clone, Copy, Default)]
struct State {
    candidate: bool,
    /// The term, and what was left at its last heartbeat until its work would be told to stop.
    term: Option<(FencingToken, Duration)>,
}

/// Gauges that are written together. Two elections of a process may be for one lock, so an event
/// writes no gauge that it does not concern.
struct Group {
    waits: AtomicBool,
    write: fn(&LockName, State),
}

impl Group {
    const fn new(write: fn(&LockName, State)) -> Self {
        Self {
            waits: AtomicBool::new(false),
            write,
        }
    }
}

impl Gauges {
    pub(super) fn new(lock: LockName) -> Self {
        Self {
            lock,
            state: Mutex::default(),
            of_candidate: Group::new(|lock, state| series::candidate(lock, state.candidate)),
            of_term: Group::new(|lock, state| series::term_gauges(lock, state.term)),
        }
    }

    pub(super) fn candidate(self: &Arc<Self>, is_one: bool) {
        self.state().candidate = is_one;
        self.write(|gauges| &gauges.of_candidate);
    }

    pub(super) fn term(self: &Arc<Self>, term: Option<(FencingToken, Duration)>) {
        self.state().term = term;
        self.write(|gauges| &gauges.of_term);
    }

    fn slack(self: &Arc<Self>, left: Duration) {
        match &mut self.state().term {
            Some((_, slack)) => *slack = left,
            None => return,
        }
        self.write(|gauges| &gauges.of_term);
    }

    pub(super) fn note(self: &Arc<Self>, event: &Event) {
        match event {
            Event::Campaigning => self.candidate(true),
            Event::Renewed { slack } | Event::HeartbeatMissed { slack, .. } => self.slack(*slack),
            Event::SteppedDown(_) => self.term(None),
            _ => {}
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// After the change. The state is not locked meanwhile: a recorder may block.
    fn write(self: &Arc<Self>, group: fn(&Self) -> &Group) {
        if !relay::is_used() {
            self.write_now(group(self));
        } else if cfg!(feature = "metrics") && !group(self).waits.swap(true, Ordering::AcqRel) {
            let gauges = self.clone();
            relay::hand_over_surely(move || {
                // Before the look at the state: a later change needs another write.
                group(&gauges).waits.swap(false, Ordering::AcqRel);
                gauges.write_now(group(&gauges));
            });
        }
    }

    fn write_now(&self, group: &Group) {
        let state = *self.state();
        (group.write)(&self.lock, state);
    }
}
