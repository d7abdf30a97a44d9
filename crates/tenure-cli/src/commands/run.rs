//! `tenure run`: the command runs while leading, and never without the lock.

use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt as _;
use std::time::Duration;

use rustix::process::Signal;
use tenure::{
    BootClock, Cause, Clock as _, Election, Event, HeartbeatThread, Identity, Leadership, LockName,
    Policy, Reach, Store, Term, Time,
};
use tokio::sync::broadcast;
use tokio::time::Instant;

use crate::failure::{Failure, exit, signalled};
use crate::options::{self, RunArgs};
use crate::supervisor::child::{self, Child};
use crate::supervisor::guard::Guard;
use crate::supervisor::signals::Signals;
use crate::supervisor::witness::Witness;

/// How long before the validity's end the command is killed, at most.
const MAX_MARGIN: Duration = Duration::from_millis(500);

/// What a candidate logs when it begins to campaign.
pub(crate) const WAITS: &str = "waits to be elected";

/// What to do, checked.
struct Plan {
    url: String,
    lock: LockName,
    identity: Identity,
    policy: Policy,
    drain_limit: Duration,
    exit_on_loss: bool,
    command: Vec<OsString>,
}

pub(crate) fn run(args: RunArgs) -> Result<u8, Failure> {
    let plan = Plan {
        lock: options::lock(&args.lock_args.lock)?,
        identity: options::identity(args.id.as_deref())?,
        policy: with_time_to_tell(options::policy(&args.policy)?),
        drain_limit: options::duration("--drain-limit", &args.drain_limit)?,
        exit_on_loss: args.exit_on_loss,
        url: args.lock_args.backend,
        command: args.command,
    };
    // On this thread, which lives as long as the process: the command dies with the thread that
    // started it.
    options::runtime()?.block_on(plan.carry_out())
}

/// How a term came to its end.
enum Ending {
    /// The command exited by itself, or we were told to stop.
    Over(u8),
    /// The command was stopped because leadership was lost.
    Lost,
}

impl Plan {
    async fn carry_out(self) -> Result<u8, Failure> {
        let mut signals = Signals::handle()?;
        let election = tokio::select! {
            election = self.connect() => election?,
            signal = signals.ending() => return Ok(signalled(signal)),
        };
        if Store::of(&self.url)?.reach() == Reach::Process {
            tracing::warn!("memory: elects within this one process, so every candidate will lead");
        }
        if self.policy.stop_grace() <= margin(&self.policy) {
            tracing::warn!(
                "when leadership is lost the command is killed without being told to stop: lease \
                 and heartbeat leave no time for that; use a shorter heartbeat"
            );
        }
        loop {
            let leadership = match self.campaign(&election, &mut signals).await? {
                Ok(leadership) => leadership,
                Err(signal) => {
                    election.settled().await;
                    return Ok(signalled(signal));
                }
            };
            // Whatever has happened, the command is reaped when this returns.
            let ending = self
                .lead(&leadership, election.events(), &mut signals)
                .await;
            let interrupted = release(leadership, &mut signals).await;
            match (ending?, interrupted) {
                (Ending::Over(code), _) => return Ok(code),
                (Ending::Lost, Some(signal)) => return Ok(signalled(signal)),
                (Ending::Lost, None) if self.exit_on_loss => return Ok(exit::LOST),
                (Ending::Lost, None) => {}
            }
        }
    }

    /// Waits to be elected, or for a signal that says to leave.
    ///
    /// What somebody has to mend is an error at the start only. Later on the engine waits for it:
    /// a service that has worked must not stay down because its store was out of order for a
    /// moment.
    async fn campaign(
        &self,
        election: &Election,
        signals: &mut Signals,
    ) -> Result<Result<Leadership, Signal>, Failure> {
        tracing::info!("{} {WAITS} for {}", self.identity, self.lock);
        tokio::select! {
            leadership = election.campaign() => Ok(Ok(leadership?)),
            signal = signals.ending() => Ok(Err(signal)),
        }
    }

    async fn connect(&self) -> Result<Election, Failure> {
        let heartbeats = HeartbeatThread::start()
            .map_err(|error| Failure::new(format!("cannot start a thread: {error}")))?;
        let url = self.url.clone();
        let backend = heartbeats
            .run(async move { tenure::connect(&url).await })
            .await??;
        let election = Election::builder(backend, self.lock.clone())
            .identity(self.identity.clone())
            .policy(self.policy.clone())
            .drain_limit(self.drain_limit)
            .spawn_on(heartbeats)
            .build()?;
        Ok(election)
    }

    /// Runs the command for as long as the term goes on.
    async fn lead(
        &self,
        leadership: &Leadership,
        renewals: broadcast::Receiver<Event>,
        signals: &mut Signals,
    ) -> Result<Ending, Failure> {
        let term = leadership.term();
        if term.is_cancelled() {
            // We were stopped between the election and here.
            return Ok(Ending::Lost);
        }
        let witness = Witness::of(&self.lock);
        let child = Child::start(&self.command, &term)?;
        let guard = Guard::start(child.group(), self.end(&term), witness)?;
        tracing::info!(
            "elected for {} with token {}: the command runs",
            self.lock,
            term.token()
        );
        let run = CommandRun {
            plan: self,
            term,
            leadership,
            renewals,
            state: CommandState::Running,
            guard,
            child,
        };
        run.until_exit(signals).await
    }

    /// The time left until the command must be killed.
    fn time_left(&self, term: &Term) -> Duration {
        term.remaining().saturating_sub(margin(&self.policy))
    }

    /// When the command must be killed. The guard does it then, if we cannot.
    fn end(&self, term: &Term) -> Time {
        // The clock is read first, so that this is never too late.
        let now = BootClock.now();
        now + self.time_left(term)
    }
}

/// The command is killed this long before the validity ends, so that it is dead by then.
fn margin(policy: &Policy) -> Duration {
    (policy.stop_grace() / 4).clamp(least_margin(policy), MAX_MARGIN)
}

/// What a kill takes does not depend on how long the command may take to stop, so it is not taken
/// off this when the stop grace is short.
fn least_margin(policy: &Policy) -> Duration {
    (policy.lease() / 100).min(MAX_MARGIN)
}

/// `policy` with a stop grace that does not end before it has begun: the command is killed a
/// [`margin`] before the validity ends, and has to be told to stop before that. A policy so tight
/// that there is no room for it stays as it is: then the command is killed without a word.
fn with_time_to_tell(policy: Policy) -> Policy {
    let least = least_margin(&policy) * 2;
    if policy.stop_grace() >= least {
        return policy;
    }
    let roomy = policy.to_builder().stop_grace(least).build();
    roomy.unwrap_or(policy)
}

/// Gives the lock back, now that the command is gone; a second signal says not to wait for it.
async fn release(leadership: Leadership, signals: &mut Signals) -> Option<Signal> {
    let lock = leadership.lock().clone();
    let mut resigned = std::pin::pin!(leadership.resign());
    let mut interrupted = None;
    loop {
        tokio::select! {
            outcome = &mut resigned => {
                if let Err(error) = outcome {
                    tracing::warn!("{lock} was not released: {}", error.message());
                }
                return interrupted;
            }
            signal = signals.ending() => {
                if interrupted.is_some() {
                    return interrupted;
                }
                interrupted = Some(signal);
            }
        }
    }
}

/// What the command was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CommandState {
    Running,
    /// To stop, because leadership is being lost.
    Losing,
    /// To stop, because we were told to; it is killed at the time given.
    Draining(Instant),
}

/// The command's run through one term.
struct CommandRun<'a> {
    plan: &'a Plan,
    term: Term,
    leadership: &'a Leadership,
    renewals: broadcast::Receiver<Event>,
    state: CommandState,
    guard: Guard,
    child: Child,
}

impl CommandRun<'_> {
    async fn until_exit(mut self, signals: &mut Signals) -> Result<Ending, Failure> {
        let mut killed = false;
        while !self.child.has_exited() {
            // First of all, whatever has woken us: after a freeze the term is over, and the
            // command must not do anything any more.
            if !killed && self.time_left().is_zero() {
                let dies = self.child.kill();
                killed = true;
                if self.state == CommandState::Running {
                    self.state = CommandState::Losing;
                }
                let reason = self.reason();
                let lock = &self.plan.lock;
                if dies {
                    tracing::warn!("{lock} is lost: {reason}; the command was killed");
                } else {
                    tracing::error!(
                        "the command still runs although {lock} is lost: {reason}; it has become \
                         another user and cannot be killed"
                    );
                }
            }
            let drain_end = match self.state {
                CommandState::Draining(end) if !killed => Some(end),
                _ => None,
            };
            let time_left = self.time_left();
            tokio::select! {
                biased;
                () = self.child.exited() => {}
                () = self.term.cancelled(), if self.state == CommandState::Running => {
                    self.told_to_stop();
                }
                () = tokio::time::sleep(time_left), if !killed => {}
                () = at(drain_end) => {
                    self.child.kill();
                    killed = true;
                    tracing::warn!("the command did not stop in time and was killed");
                }
                signal = signals.next() => killed |= self.pass_on(signal),
                event = self.renewals.recv() => self.event(event).await,
            }
        }
        self.end().await
    }

    /// The time left until the command must be killed.
    fn time_left(&self) -> Duration {
        self.plan.time_left(&self.term)
    }

    fn reason(&self) -> &'static str {
        self.term.cause().unwrap_or(Cause::Expired).describe()
    }

    fn told_to_stop(&mut self) {
        if self.child.has_exited() || self.time_left().is_zero() {
            return;
        }
        self.child.stop(Signal::TERM);
        self.state = CommandState::Losing;
        let reason = self.reason();
        tracing::warn!(
            "{} is being lost: {reason}; the command is told to stop",
            self.plan.lock
        );
    }

    /// Says whether the command was killed.
    fn pass_on(&mut self, signal: Signal) -> bool {
        if signal != Signal::TERM && signal != Signal::INT {
            self.child.signal(signal);
            return false;
        }
        if matches!(self.state, CommandState::Draining(_)) {
            self.child.kill();
            return true;
        }
        self.child.stop(signal);
        self.state = CommandState::Draining(Instant::now() + self.plan.drain_limit);
        // From here on the term is kept up until the command is gone.
        self.leadership.stop(Cause::Shutdown);
        false
    }

    async fn event(&mut self, event: Result<Event, broadcast::error::RecvError>) {
        match event {
            Ok(Event::Renewed { .. }) | Err(broadcast::error::RecvError::Lagged(_)) => {
                self.guard.put_off(self.plan.end(&self.term));
            }
            Ok(_) => {}
            // The election lives as long as we do.
            Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
        }
    }

    async fn end(self) -> Result<Ending, Failure> {
        let reason = self.reason();
        // What the command left behind is killed before nobody guards it any more.
        self.child.kill();
        let guard_killed = self.guard.end();
        let status = self.child.finish().await?;
        let killed = status.signal() == Some(Signal::KILL.as_raw());
        let lost = match self.state {
            CommandState::Losing => true,
            // The guard did it: while we were stopped, or because it came first. The term need
            // not be cancelled for that: its last heartbeat may have come through too late for
            // the guard to be told.
            CommandState::Running if killed && (guard_killed || self.term.is_cancelled()) => {
                tracing::warn!(
                    "{} is lost: {reason}; the command was killed",
                    self.plan.lock
                );
                true
            }
            CommandState::Running | CommandState::Draining(_) => false,
        };
        Ok(if lost {
            Ending::Lost
        } else {
            Ending::Over(child::exit_code(status))
        })
    }
}

async fn at(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_is_told_before_it_is_killed_and_killed_before_the_validity_ends() {
        let second = Duration::from_secs(1);
        for lease in [
            second / 10,
            second * 2,
            second * 20,
            second * 600,
            second * 3600,
        ] {
            for grace in [
                Duration::ZERO,
                Duration::from_millis(1),
                lease / 200,
                lease / 100,
                lease / 50,
                lease / 4,
            ] {
                let policy = Policy::builder().lease(lease).stop_grace(grace);
                let policy = with_time_to_tell(policy.build().unwrap());
                let margin = margin(&policy);
                assert!(margin <= policy.stop_grace() / 2, "{policy}: {margin:?}");
                assert!(margin >= (lease / 100).min(MAX_MARGIN), "{policy}");
                assert!(policy.stop_grace() >= grace, "{policy}");
                assert_eq!(policy.lease(), lease);
            }
        }
    }

    #[test]
    fn the_usual_stop_grace_is_left_alone() {
        let long = Policy::builder()
            .lease(Duration::from_secs(600))
            .heartbeat(Duration::from_secs(60))
            .stop_grace(Duration::from_secs(5));
        let long = long.build().unwrap();
        for policy in [Policy::default(), Policy::client_go(), Policy::fast(), long] {
            assert_eq!(with_time_to_tell(policy.clone()), policy);
        }
    }

    #[test]
    fn a_policy_without_room_for_it_is_not_refused() {
        let tight = Policy::builder()
            .lease(Duration::from_secs(2))
            .heartbeat(Duration::from_millis(1650))
            .stop_grace(Duration::from_millis(10));
        let tight = tight.build().unwrap();
        assert_eq!(with_time_to_tell(tight.clone()), tight);
        assert_eq!(margin(&tight), Duration::from_millis(20));
    }
}
