//! An election: one candidate for one lock. This page is the life of a term.
//!
//! # Who decides what
//!
//! | part | it decides | it does not |
//! |---|---|---|
//! | the owner: [`Leadership`], [`run_until`](Election::run_until) | when the work is over, when it must stop for a reason of its own, what is published | when the term ends |
//! | the machine: [`machine`] | every call to the store and its time, who leads until when, why a term ends | it has no clock and does no I/O |
//! | the engine: one task per campaign | nothing: it gives the machine what happens and the time, and carries out its commands | |
//! | the term: [`Term`] | at each look, whether the time that the machine set has come | what is done about it |
//! | the backend: [`LockBackend`](crate::LockBackend) | who has the lock at the store | whether a leader is still one |
//!
//! # From `campaign()` to `Finish`
//!
//! 1. [`Election::campaign`] claims the election, draws a campaign number and starts the engine.
//! 2. The engine subscribes to the store's notifications and gives the machine `Input::Campaign`.
//!    The machine answers `Command::Acquire`; the engine calls the backend, under the request timeout.
//! 3. While another candidate leads, the answer is `Taken`. The machine waits for a notification, or
//!    for the end of the holder's lease, and asks again. After an error it waits a retry interval.
//! 4. The answer `Held` brings a grant. The machine computes a [`Span`](machine::Span) from the
//!    moment *before* the request: until when the term is valid, and when the work must stop. It
//!    answers `Command::Elect`. The engine makes the term, and `campaign()` returns its owner.
//! 5. Once per heartbeat the machine asks for `Command::Renew`. A new proof moves the span
//!    (`Command::Extend`). A failed call is repeated until the time is up. `Leadership::publish` and
//!    `Term::confirm` are instructions to the engine, and make the next heartbeat come at once.
//! 6. The work must stop. There are five reasons, and the first one is recorded in the term:
//!    - the time has come (`Span::cause_at`: the machine and the term both ask there);
//!    - the owner says so (`Leadership::stop`): `Command::Cancel`, and the machine keeps the term up
//!      for the work, for at most the drain limit;
//!    - a wish that came with a heartbeat's answer: the same;
//!    - the store says that the term is over: `Command::End` at once;
//!    - the owner gives the term back: every look at the term says "over" from that call on.
//! 7. The validity ends: `Command::End`. If the work still runs, `Command::Overrun` reports it.
//! 8. The work has returned (`Input::WorkEnded`). Only now does the machine ask for
//!    `Command::Release`, so no successor starts beside the work. It repeats a release that fails
//!    for at most one lease.
//! 9. `Command::Finish`: the engine answers the owner and ends. The next campaign may start.
//!
//! A dropped campaign goes from any step before 4 to `Command::Withdraw`, which takes back what the
//! store may hold, and then to 9. A candidate whose health probe says no withdraws too, waits, and
//! begins again at 2 under a new number.
//!
//! # Where it is
//!
//! | file | |
//! |---|---|
//! | `builder.rs`, `context.rs` | how an election is described, and what its parts share |
//! | `instruction.rs` | what the owner and the work ask of the engine |
//! | `machine/` | every decision, with a table of its transitions in `machine/tests/transitions.rs` |
//! | `engine/` | the task: its calls to the store, its answers, the commands |
//! | `term.rs`, `leadership.rs`, `run.rs` | the work's side, the owner's side, work that is run while leading |
//! | `observer.rs` | watching without being a candidate |
//! | `event.rs`, `telemetry.rs`, `gauges.rs`, `series.rs`, `spans.rs` | what is reported |

pub(crate) mod builder;
pub(crate) mod context;
pub(crate) mod engine;
pub(crate) mod event;
#[cfg(tenure_shuttle)]
pub(crate) mod exposed;
mod gauges;
pub(crate) mod instruction;
pub(crate) mod leadership;
pub mod machine;
pub(crate) mod observer;
mod probe;
mod relay;
pub(crate) mod run;
mod series;
mod spans;
pub(crate) mod spawn;
pub(crate) mod telemetry;
pub(crate) mod term;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{broadcast, oneshot, watch};

use crate::contract::backend::Candidate;
use crate::contract::error::{Error, ErrorKind, Operation};
use crate::contract::name::{Identity, LockName};
use crate::contract::process::Process;
use crate::election::context::{Context, Occupied};
use crate::election::engine::Engine;
use crate::election::event::{ElectionState, Event};
use crate::election::instruction::{Instruction, Instructions};
use crate::election::leadership::Leadership;
use crate::policy::Policy;

/// One candidate for one lock, which leads one term at a time.
///
/// Cheap to clone; clones are the same candidate.
///
/// ```
/// use std::sync::Arc;
/// use tenure_core::{Election, LockName, MemoryBackend};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), tenure_core::Error> {
/// let backend = Arc::new(MemoryBackend::private());
/// let election = Election::builder(backend, LockName::new("nightly-batch")?).build()?;
///
/// let leadership = election.campaign().await?;
/// if let Ok(permit) = leadership.permit(std::time::Duration::from_secs(1)) {
///     println!("leading with fencing token {}", permit.token);
/// }
/// leadership.resign().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Election {
    context: Arc<Context>,
}

impl Election {
    /// Campaigns until elected.
    ///
    /// Faults of the store are retried for as long as it takes. What an operator has to change
    /// (permissions, configuration) is an error if the first answer that this election gets from
    /// the store says so; later it is an event, and the campaign goes on.
    ///
    /// Cancel safe: dropping the future withdraws from the election, in the background. One
    /// `Election` campaigns or leads once at a time; a second call meanwhile is an
    /// [`InvalidInput`](ErrorKind::InvalidInput) error. A release still under way is waited for.
    /// After a term whose leader was [asked](crate::Cause::Asked) to resign the campaign begins a
    /// retry interval later, so that the others go first.
    ///
    /// In a child that was forked since the election was built it fails with
    /// [`Forked`](ErrorKind::Forked): connect and build the election after the fork. It fails with
    /// [`Unsupported`](ErrorKind::Unsupported) when the operating system gives no random number.
    pub async fn campaign(&self) -> Result<Leadership, Error> {
        let context = &self.context;
        context.process.check(Operation::Campaign)?;
        let occupied = Occupied::claim(context)?;
        let turn = context.turn.clone().lock_owned().await;
        context.head_start().await;
        let instructions = Arc::new(Instructions::default());
        let (elected, outcome) = oneshot::channel();
        let failed = |_: &Error| context.campaign_failed();
        let (campaign, seed) = context.draw().inspect_err(failed)?;
        let mut candidate = Candidate::new(context.setup.identity.clone(), campaign);
        candidate.value.clone_from(&context.setup.value);
        let engine = Engine::new(
            context.clone(),
            candidate,
            instructions.clone(),
            seed,
            elected,
            turn,
        );
        let spawned = context.setup.spawner.spawn(Box::pin(engine.run()));
        spawned.inspect_err(failed)?;
        let mut pending = PendingCampaign {
            instructions: instructions.clone(),
            process: context.process.clone(),
            over: false,
        };
        let outcome = outcome.await.unwrap_or_else(|_| {
            Err(Error::new(
                ErrorKind::Internal,
                Operation::Campaign,
                "the engine was stopped: is its runtime shutting down?",
            ))
        });
        pending.over = true;
        Ok(Leadership::new(outcome?, instructions, occupied))
    }

    /// Waits until dropped campaigns and leaderships have given back in the background what they
    /// held, or until a request timeout has passed. Call it before the process exits: then others
    /// need not wait for the lease to end.
    pub async fn settled(&self) {
        let deadline = self.context.clock.now() + self.context.setup.policy.request_timeout();
        tokio::select! {
            biased;
            _turn = self.context.turn.lock() => {}
            () = self.context.clock.sleep_until(deadline) => {}
        }
    }

    /// Gives the others a head start.
    pub(crate) async fn pause(&self) {
        let until = self.context.clock.now() + self.context.setup.policy.retry_interval();
        self.context.clock.sleep_until(until).await;
    }

    /// The lock that is campaigned for.
    pub fn lock(&self) -> &LockName {
        &self.context.setup.lock
    }

    /// Who campaigns.
    pub fn identity(&self) -> &Identity {
        &self.context.setup.identity
    }

    /// The policy.
    pub fn policy(&self) -> &Policy {
        &self.context.setup.policy
    }

    /// Where the election stands, as a value to watch. It may be behind; ask the
    /// [`Term`](crate::Term) before a side effect.
    pub fn state(&self) -> watch::Receiver<ElectionState> {
        self.context.state().subscribe()
    }

    /// What happens from now on. A subscriber that lags behind misses the oldest events, and is
    /// told how many.
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.context.events()
    }

    /// How far the engine is behind its own timer: for a liveness probe.
    ///
    /// Zero when it is on time or nothing is to be done; more than a request timeout when its
    /// runtime is starved or blocked.
    pub fn engine_lag(&self) -> Duration {
        self.context.due.lag(self.context.clock.now())
    }
}

impl fmt::Debug for Election {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Election")
            .field("lock", &self.context.setup.lock)
            .field("identity", &self.context.setup.identity)
            .field("state", &*self.context.state().borrow())
            .finish_non_exhaustive()
    }
}

/// Withdraws when the future of a campaign is dropped before it is elected, or after that but
/// before its owner has got the leadership.
struct PendingCampaign {
    instructions: Arc<Instructions>,
    process: Process,
    over: bool,
}

impl Drop for PendingCampaign {
    fn drop(&mut self) {
        if !self.over && self.process.is_current() {
            self.instructions.send(Instruction::WorkEnded(None));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::election::context::Numbers;
    use crate::memory::MemoryBackend;

    #[tokio::test]
    async fn without_random_numbers_a_campaign_fails_and_the_next_one_is_free_to_try() {
        let backend = Arc::new(MemoryBackend::private());
        let lock = LockName::new("test").unwrap();
        let mut election = Election::builder(backend, lock).build().unwrap();
        let context = Arc::get_mut(&mut election.context).unwrap();
        context.setup.numbers = Numbers::System(|| {
            Err(Error::new(
                ErrorKind::Unsupported,
                Operation::Configure,
                "no number",
            ))
        });
        for _ in 0..2 {
            let error = election.campaign().await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported);
        }
    }
}
