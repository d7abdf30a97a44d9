//! What the machine remembers.

use std::cmp;
use std::time::Duration;

use crate::contract::clock::Time;
use crate::election::machine::cause::Cause;
use crate::election::machine::command::{Command, Span};
use crate::election::machine::schedule::next_heartbeat;
use crate::policy::Policy;

#[derive(Clone, Debug, Hash)]
pub(super) enum State {
    Idle,
    Candidate(Candidacy),
    SittingOut(SittingOut),
    Leader(Leading),
    /// The validity is over, but the work still runs.
    Ended {
        /// The store says so, and holds nothing for us.
        lost: bool,
        overrun_at: Option<Time>,
    },
    /// `Release` or `Withdraw` is being repeated until it succeeds or makes no difference.
    GivingBack {
        command: Command,
        retry_at: Option<Time>,
        until: Time,
    },
    Finished,
}

#[derive(Clone, Debug, Hash)]
pub(super) struct Candidacy {
    /// When to call `acquire`; `None` while a call is under way.
    pub(super) acquire_at: Option<Time>,
    /// From then on a notification may bring that forward: at once while waiting for the holder,
    /// after a retry interval while backing off from a failure.
    pub(super) heeds_hints_from: Time,
    /// The last call has failed. What it wrote may be what a notification now says is held, so no
    /// notification puts the next attempt off.
    pub(super) failed: bool,
    /// A notification came while a call was under way, whose answer may be older than the
    /// notification.
    pub(super) hinted: bool,
    /// When the holder's lease can end, where that is known.
    pub(super) free_at: Option<Time>,
    /// When to ask the health probe, if there is one.
    pub(super) probe_at: Option<Time>,
    /// What waits for the probe to say yes.
    pub(super) pending: Pending,
    /// The store may hold something for this campaign: a place in a queue, or the lock.
    pub(super) entered: bool,
}

/// What a candidate does when its health probe says yes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Pending {
    /// It goes on waiting.
    Nothing,
    /// It calls `acquire`.
    Acquire,
    /// It leads: the store has granted this.
    Lead { proven_at: Time, lease: Duration },
}

/// The health probe has said no to a candidate, or the store answers too slowly: others must not
/// wait behind it.
#[derive(Clone, Debug, Hash)]
pub(super) struct SittingOut {
    /// `Withdraw` or `Release`, while the store may still hold something.
    pub(super) giving_back: Option<Command>,
    pub(super) retry_at: Option<Time>,
    /// By then what the store may hold has ended with its lease.
    pub(super) until: Time,
    pub(super) probe_at: Time,
    /// Not earlier, so that a probe that flips makes it leave at most once per heartbeat.
    pub(super) back_from: Time,
}

#[derive(Clone, Debug, Hash)]
pub(super) struct Leading {
    pub(super) span: Span,
    /// The proof behind the span.
    pub(super) proven_at: Time,
    /// When to call `renew`; `None` while a call is under way that is not overdue.
    pub(super) renew_at: Option<Time>,
    /// The last call has failed or is overdue.
    pub(super) missed: bool,
    /// The oldest proof that will do for the heartbeat that is under way or was missed.
    pub(super) not_before: Time,
    /// Overdue calls go on.
    pub(super) overlaps: bool,
    /// Why the work was told to stop.
    pub(super) cancelled: Option<Cause>,
    /// Until then the term is kept up for work that is stopping.
    pub(super) drain_until: Option<Time>,
}

impl Candidacy {
    /// Calls `acquire`, once the health probe has said yes where there is one.
    pub(super) fn call(&mut self, commands: &mut Vec<Command>) {
        self.acquire_at = None;
        self.hinted = false;
        if self.probe_at.is_some() {
            self.pending = Pending::Acquire;
            commands.push(Command::Probe);
        } else {
            self.entered = true;
            commands.push(Command::Acquire);
        }
    }
}

impl Leading {
    /// Whether a renewal tells more than what is known: the newest proof counts, for longer or
    /// for shorter. An older answer that arrives late changes nothing; of two answers with one
    /// proof the shorter counts.
    pub(super) fn is_news(&self, proven_at: Time, span: Span) -> bool {
        match proven_at.cmp(&self.proven_at) {
            cmp::Ordering::Greater => true,
            cmp::Ordering::Equal => span.valid_until < self.span.valid_until,
            cmp::Ordering::Less => false,
        }
    }

    /// When the next heartbeat is due: earlier than usual where the store has granted so little
    /// that the usual one would come after the work is told to stop, but never in a tight loop.
    pub(super) fn next_renewal(
        &self,
        now: Time,
        heartbeat: Duration,
        request_timeout: Duration,
        retry: Duration,
    ) -> Time {
        let usual = next_heartbeat(self.proven_at, heartbeat);
        let end = match self.cancelled {
            None => self.span.cancel_at,
            Some(_) => self.span.valid_until,
        };
        let latest = end.minus(request_timeout);
        if usual <= latest {
            return usual;
        }
        latest.max(now + retry).min(usual.max(now + retry))
    }

    /// When the work is told to stop. If it was told already: when the term is no longer kept up.
    pub(super) fn ends_at(&self) -> Time {
        match self.drain_until {
            None => self.span.cancel_at,
            Some(until) => until.min(self.span.valid_until),
        }
    }

    /// Tells the work to stop, once. The term is kept up for it until `drain_until`.
    pub(super) fn cancel(&mut self, cause: Cause, drain_until: Time, commands: &mut Vec<Command>) {
        if self.cancelled.is_none() {
            self.cancelled = Some(cause);
            self.drain_until = Some(drain_until);
            commands.push(Command::Cancel(cause));
        }
    }

    /// The next attempt, `pause` from now. One always begins a retry timeout before the work is
    /// told to stop: an outage that ends by then is survived, whatever its phase.
    pub(super) fn next_attempt(&self, now: Time, pause: Duration, retry_timeout: Duration) -> Time {
        let last = self.ends_at().minus(retry_timeout);
        let next = now + pause;
        if now < last { next.min(last) } else { next }
    }

    /// The heartbeat that is due, once.
    ///
    /// The first attempt gets the request timeout to answer. Those after it get less where they may
    /// go on beside the next one, which then finds out sooner whether the store is back.
    pub(super) fn take_due_renewal(&mut self, now: Time, policy: &Policy) -> Option<Command> {
        if self.renew_at.is_none_or(|at| now < at) {
            return None;
        }
        self.renew_at = None;
        if self.drain_until.is_some_and(|until| now >= until) {
            // The drain limit has passed, so the machine lets the validity end. `renew_at` is
            // cleared: a time in the past would wake the engine again and again.
            return None;
        }
        if !self.missed {
            // A proof of the last half heartbeat will do: so a session answers many elections'
            // heartbeats at once. For the attempts after it too: its late answer counts.
            self.not_before = now.minus(policy.heartbeat() / 2);
        }
        let (first, later) = (policy.request_timeout(), policy.retry_timeout());
        let overdue_at = if self.missed {
            self.next_attempt(now, if self.overlaps { later } else { first }, later)
        } else {
            now + first
        };
        Some(Command::Renew {
            not_before: self.not_before,
            overdue_at,
        })
    }
}
