//! What has happened: the ground truth that the checker goes through.

use std::hash::{Hash, Hasher};
use std::time::Duration;

use tenure_core::{Cause, Policy};

use super::Moment;
use super::faults::Fate;
use super::plan::Family;

/// A term as its user saw it begin: an index into [`History::terms`].
pub type TermId = usize;

/// One thing that happened.
#[derive(Clone, Debug, Hash)]
#[expect(
    missing_docs,
    reason = "the names say what terms and candidates it is about"
)]
pub enum Event {
    /// A message was sent to the store.
    Sent {
        candidate: usize,
        /// What becomes of it.
        fate: Fate,
    },
    /// A fault began.
    Fault(Fault),
    /// The store began a term.
    Minted {
        /// Which store: the first or the second of two.
        store: u8,
        candidate: usize,
        life: u32,
        token: u64,
    },
    /// The store applied a renewal (or the adoption of a term).
    Prolonged { token: u64 },
    /// The store ended a term on its holder's request.
    Released {
        /// Which store: the first or the second of two.
        store: u8,
        candidate: usize,
        token: u64,
        /// Its work was still running.
        working: Option<TermId>,
    },
    /// A user got hold of a term.
    Elected {
        term: TermId,
        /// Until when it is valid, on its own clock, in true time.
        until: Moment,
        /// Before then the store gives the lock to nobody else.
        covered: Option<Moment>,
    },
    /// A heartbeat got through.
    Renewed {
        term: TermId,
        /// As in `Elected`.
        until: Moment,
        /// As in `Elected`.
        covered: Option<Moment>,
    },
    /// Two terms say that they are valid at the same moment.
    Overlap {
        /// The one that began earlier.
        older: TermId,
        /// The other.
        newer: TermId,
    },
    /// A term that was over is valid again.
    Resurrected(TermId),
    /// Work that was told to stop is told that it need not.
    Uncancelled(TermId),
    /// The engine reported that the work outlives its term.
    OverrunTold(TermId),
    /// The engine told the work to stop.
    SteppingDown {
        term: TermId,
        cause: CauseLabel,
        /// The validity left.
        left: Duration,
        /// The host was frozen or its timers were late not long ago.
        disturbed: bool,
    },
    /// The engine found that the validity was over.
    SteppedDown {
        term: TermId,
        cause: CauseLabel,
        /// As in `SteppingDown`.
        disturbed: bool,
    },
    /// The validity is over.
    Ended(TermId),
    /// The work was started.
    WorkStarted(TermId),
    /// The work has returned or was dropped.
    WorkStopped {
        term: TermId,
        /// By a crash of its process.
        crashed: bool,
        /// As in `SteppingDown`.
        disturbed: bool,
    },
    /// A side effect under a permit.
    Effect {
        term: TermId,
        /// For how long the permit was asked.
        at_least: Duration,
        /// How long after the permit the effect happened, on the host's clock.
        after: Duration,
        /// Whether the term was still valid at the effect.
        valid: bool,
        /// Whether the fenced register took it.
        accepted: bool,
        /// The largest token the register had seen.
        seen: u64,
    },
    /// A permit was given after the work had stopped.
    LatePermit(TermId),
    /// `confirm` said yes.
    Confirmed {
        term: TermId,
        /// Whether the store had applied something for it since it was asked.
        proven: bool,
    },
    /// A value that `publish` said yes to, compared with what the store holds.
    Published {
        term: TermId,
        /// Whether the store holds it.
        kept: bool,
    },
    /// The first answer to a candidate was one that somebody must mend.
    Refused { candidate: usize, life: u32 },
    /// `campaign` returned an error.
    GaveUp {
        candidate: usize,
        life: u32,
        /// The error's kind.
        kind: &'static str,
        /// Trying again would have helped, by the error or by an earlier answer of the store.
        hasty: bool,
    },
    /// A candidate whose health probe says no stays in the election, or begins a term.
    Unwell {
        candidate: usize,
        /// What it does.
        what: &'static str,
    },
    /// A candidate called although the store had asked it to wait.
    Impatient {
        candidate: usize,
        /// What was left of the wait.
        left: Duration,
    },
    /// What an observer sees.
    Observed {
        /// The leader's token.
        token: Option<u64>,
        /// Whether somebody leads.
        led: bool,
    },
    /// In calm weather a leader on two stores is asked to give both locks back.
    GivesBoth { candidate: usize },
    /// The faults have ended: from the settling time on everything must be well.
    Calm(bool),
    /// From here on terms must not change unless provoked.
    Settled {
        /// Somebody leads.
        led: bool,
        /// The observer names the leader.
        observed: bool,
    },
    /// The director is about to end a term itself.
    Provoked(TermId),
    /// The director has seen to it that the lock becomes free: somebody must lead by then.
    Vacant {
        how: &'static str,
        /// How long that may take.
        bound: Duration,
        /// How long it may take from the lock's release, if there is one.
        after_release: Duration,
    },
    /// A term that must have survived what was done to it.
    MustStand {
        term: TermId,
        /// What it must survive.
        what: &'static str,
        /// Whether it did.
        stands: bool,
    },
    /// The lock was deleted in calm weather: its holder must have noticed by then.
    MustNotice {
        term: TermId,
        /// How long that may take.
        bound: Duration,
    },
    /// The store holds something for a candidate that has left for good.
    Orphan { candidate: usize },
    /// The end: what was left over.
    Over {
        /// Works that have not stopped.
        working: usize,
        /// Engines and applications that have not ended.
        running: usize,
        /// The lock is not free.
        held: bool,
    },
    /// The simulation did not get on: so many steps at one moment.
    Livelock,
}

/// A fault of the director.
#[derive(Clone, Debug, Hash)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Fault {
    Partition {
        candidate: usize,
        requests: bool,
        replies: bool,
        lasts: Duration,
    },
    Freeze {
        candidate: usize,
        lasts: Duration,
    },
    Crash {
        candidate: usize,
    },
    Start {
        candidate: usize,
        life: u32,
    },
    Slow {
        lasts: Duration,
    },
    Outage {
        lasts: Duration,
    },
    Down {
        lasts: Duration,
    },
    Throttled {
        lasts: Duration,
    },
    Unwell {
        candidate: usize,
        lasts: Duration,
    },
    Deleted {
        token: Option<u64>,
    },
    Denied {
        lasts: Duration,
    },
    Stingy {
        store: u8,
        percent: u32,
        lasts: Duration,
    },
    Touched,
    Moves {
        from: Family,
        to: Family,
    },
    StateLost,
    Resign {
        candidate: usize,
    },
    Shutdown {
        candidate: usize,
    },
    Hint {
        candidate: usize,
    },
}

/// A cause as something that can be hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CauseLabel(pub &'static str);

impl From<Cause> for CauseLabel {
    fn from(cause: Cause) -> Self {
        Self(cause.name())
    }
}

/// What is known of a term from its begin.
#[derive(Clone, Debug)]
pub struct TermInfo {
    /// Its candidate.
    pub candidate: usize,
    /// Which life of it.
    pub life: u32,
    /// Its token.
    pub token: u64,
    /// Its policy.
    pub policy: Policy,
    /// The drain limit of its election.
    pub drain_limit: Duration,
    /// The stores whose locks it needs.
    pub stores: &'static [u8],
    /// How often the store's tokens had begun again.
    pub era: u64,
}

/// Everything that has happened, in order.
#[derive(Debug, Default)]
pub struct History {
    /// The events.
    pub events: Vec<(Moment, Event)>,
    /// The terms.
    pub terms: Vec<TermInfo>,
    /// The validity of the longest policy in the fleet: how long a fault excuses what follows.
    pub longest_validity: Duration,
    /// Tokens begin again with each deletion of the lock.
    pub tokens_begin_again: bool,
    /// While a fleet moves to a store whose tokens are larger, they may fall until then.
    pub tokens_rise_from: Moment,
    hash: Fnv,
    /// Keeps messages too, for a trace.
    verbose: bool,
}

impl History {
    /// An empty history of a fleet; a verbose one keeps messages too.
    pub fn new(longest_validity: Duration, verbose: bool) -> Self {
        Self {
            longest_validity,
            verbose,
            ..Self::default()
        }
    }

    /// The same, of a store whose tokens begin again with a deletion, or not.
    #[must_use]
    pub fn whose_tokens_begin_again(self, tokens_begin_again: bool) -> Self {
        Self {
            tokens_begin_again,
            ..self
        }
    }

    /// Appends an event.
    pub fn push(&mut self, at: Moment, event: Event) {
        (at, &event).hash(&mut self.hash);
        if self.verbose || !matches!(event, Event::Sent { .. }) {
            self.events.push((at, event));
        }
    }

    /// A fingerprint: equal histories have equal ones.
    pub fn hash(&self) -> u64 {
        self.hash.finish()
    }
}

/// FNV-1a: a hash that is the same on every run and platform.
#[derive(Clone, Debug)]
struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Hasher for Fnv {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 ^= u64::from(*byte);
            self.0 = self.0.wrapping_mul(0x0100_0000_01b3);
        }
    }
}
