//! The command's run through one term.

use std::os::unix::process::ExitStatusExt as _;
use std::time::Duration;

use rustix::process::Signal;
use tenure::{BootClock, Cause, Clock as _, Event, Leadership, LockName, Term};
use tokio::sync::broadcast;
use tokio::time::Instant;

use crate::commands::run::limits::{Limits, at};
use crate::failure::Failure;
use crate::supervisor::child::{self, Child};
use crate::supervisor::guard::Guard;
use crate::supervisor::processes;
use crate::supervisor::requests::{Meaning, Requests};
use crate::supervisor::signals::{Received, Signals};

/// How soon after a kill it is looked whether the command is dead: a subreaper that is stopped does
/// not tell.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// How a term came to its end.
pub(super) enum Ending {
    /// The command exited by itself.
    Over(u8),
    /// We were told to stop, and the command has exited.
    Stopped(u8),
    /// The command was stopped because leadership was lost.
    Lost,
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
pub(super) struct CommandRun<'a> {
    limits: &'a Limits,
    lock: &'a LockName,
    term: Term,
    leadership: &'a Leadership,
    renewals: broadcast::Receiver<Event>,
    state: CommandState,
    requests: Requests,
    /// When a command that is stopped has to go on.
    stop_limit: Option<Instant>,
    /// Whether we have stopped with the command, as a job of a shell.
    was_suspended: bool,
    guard: Guard,
    child: Child,
}

impl<'a> CommandRun<'a> {
    pub(super) fn new(
        limits: &'a Limits,
        leadership: &'a Leadership,
        renewals: broadcast::Receiver<Event>,
        guard: Guard,
        child: Child,
    ) -> Self {
        Self {
            limits,
            lock: leadership.lock(),
            term: leadership.term(),
            leadership,
            renewals,
            state: CommandState::Running,
            requests: Requests::default(),
            stop_limit: None,
            was_suspended: false,
            guard,
            child,
        }
    }

    /// Supervises the command until it has exited, and leaves nothing of it behind.
    pub(super) async fn until_exit(mut self, signals: &mut Signals) -> Result<Ending, Failure> {
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
                let lock = self.lock;
                if dies {
                    tracing::warn!("{lock} is lost: {reason}; the command was killed");
                } else {
                    tracing::error!(
                        "the command still runs although {lock} is lost: {reason}; it has become \
                         another user and cannot be killed"
                    );
                }
            }
            self.look_whether_stopped();
            let drain_end = match self.state {
                CommandState::Draining(end) if !killed => Some(end),
                _ => None,
            };
            let time_left = self.time_left();
            let guard_ends = self.guard_ends();
            tokio::select! {
                biased;
                () = self.child.changed() => {}
                () = at(self.stop_limit), if !killed && self.state == CommandState::Running => {
                    self.child.look_for_stopped_start();
                    if self.child.stopped_by().is_none() {
                        continue;
                    }
                    self.leadership.stop(Cause::Shutdown);
                    self.child.kill();
                    self.state = CommandState::Losing;
                    killed = true;
                    let lock = self.lock;
                    tracing::error!("{lock} is given up: the command stayed stopped, and was killed");
                }
                () = self.term.cancelled(), if self.state == CommandState::Running => {
                    self.told_to_stop();
                }
                () = tokio::time::sleep(time_left), if !killed => {}
                () = at(drain_end) => {
                    self.child.kill();
                    killed = true;
                    tracing::warn!("the command did not stop in time and was killed");
                }
                received = signals.next() => killed |= self.pass_on(received),
                event = self.renewals.recv() => self.event(event).await,
                () = self.guard.changed() => {}
                () = tokio::time::sleep(LOOK_AGAIN), if killed => {
                    self.child.kill_rest();
                }
                () = tokio::time::sleep(guard_ends), if self.state == CommandState::Running => {
                    self.give_up("the command has no guard");
                }
            }
        }
        self.end().await
    }

    /// The time left until the command must be killed.
    fn time_left(&self) -> Duration {
        let left = self.limits.time_left(&self.term);
        match self.guard.unsure_from() {
            Some(end) => left.min(end.since(BootClock.now())),
            None => left,
        }
    }

    /// The time left until the command is told to stop because nobody guards it.
    fn guard_ends(&self) -> Duration {
        if self.guard.is_lost() {
            return Duration::ZERO;
        }
        match self.guard.unsure_from() {
            Some(end) => {
                let grace = self.limits.policy.stop_grace();
                end.minus(grace).since(BootClock.now())
            }
            None => Duration::MAX,
        }
    }

    /// Ends the term although it could go on.
    fn give_up(&mut self, reason: &str) {
        self.leadership.stop(Cause::Shutdown);
        self.child.stop(Signal::TERM);
        self.state = CommandState::Losing;
        tracing::error!(
            "{} is given up: {reason}; the command is told to stop",
            self.lock
        );
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
            self.lock
        );
    }

    /// Says whether the command was killed.
    fn pass_on(&mut self, received: Received) -> bool {
        if received.signal == Signal::CONT {
            self.go_on();
            return false;
        }
        match self.requests.meaning_of(received) {
            Meaning::PassOn => {
                self.child.signal(received.signal);
            }
            Meaning::Repeated => {}
            Meaning::Kill => {
                self.child.kill();
                return true;
            }
            Meaning::Stop => {
                self.child.stop(received.signal);
                self.state = CommandState::Draining(Instant::now() + self.limits.drain_limit);
                // From here on the term is kept up until the command is gone.
                self.leadership.stop(Cause::Shutdown);
            }
        }
        false
    }

    /// A command that is stopped does nothing, and holds the lock.
    fn look_whether_stopped(&mut self) {
        let Some(signal) = self.child.stopped_by() else {
            self.stop_limit = None;
            return;
        };
        if self.stop_limit.is_some() || self.state != CommandState::Running {
            return;
        }
        let grace = self.limits.policy.stop_grace();
        self.stop_limit = Some(Instant::now() + grace);
        if signal == Signal::TSTP.as_raw() && self.child.has_terminal() {
            if !processes::are_a_job() {
                tracing::warn!("nobody can continue the command after Ctrl-Z, so it goes on");
                self.stop_limit = None;
                self.child.go_on();
                return;
            }
            // Ctrl-Z: the shell sees us stop, and the guard kills the command when the term ends.
            self.child.take_terminal();
            self.was_suspended = true;
            let _orphaned = rustix::process::kill_current_process_group(Signal::TSTP);
            return;
        }
        let because = match Signal::from_named_raw(signal) {
            Some(Signal::TTIN | Signal::TTOU) => ": it uses a terminal in whose background it runs",
            _ => "",
        };
        tracing::warn!(
            "the command was stopped by signal {signal}{because}; unless it goes on within \
             {grace:?}, it is killed and {} is given up",
            self.lock
        );
    }

    /// We were continued. So is the command, if we had stopped with it and the term goes on.
    fn go_on(&mut self) {
        if !std::mem::take(&mut self.was_suspended) || self.time_left().is_zero() {
            return;
        }
        self.stop_limit = None;
        self.child.go_on();
    }

    async fn event(&mut self, event: Result<Event, broadcast::error::RecvError>) {
        match event {
            Ok(Event::Renewed { .. }) | Err(broadcast::error::RecvError::Lagged(_)) => {
                let end = self.limits.end(&self.term);
                self.guard.put_off(end);
                self.child.put_off(end, self.guard.witness());
                self.child.look_for_stopped_start();
            }
            Ok(_) => {}
            // The election lives as long as we do.
            Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
        }
    }

    async fn end(self) -> Result<Ending, Failure> {
        let subreaper_was_killed = self.child.subreaper_is_gone();
        let reason = self.reason();
        // What the command left behind is killed before nobody guards it any more.
        self.child.kill();
        let guard_killed =
            self.guard.end(subreaper_was_killed).await || self.child.was_killed_in_time();
        let status = self.child.finish().await?;
        let killed = status.signal() == Some(Signal::KILL.as_raw());
        let lost = match self.state {
            CommandState::Losing => true,
            CommandState::Running if subreaper_was_killed && !guard_killed => {
                tracing::error!(
                    "{} is given up: the subreaper was killed, and the command with it",
                    self.lock
                );
                true
            }
            // The guard did it: while we were stopped, or because it came first. The term need
            // not be cancelled for that: its last heartbeat may have come through too late for
            // the guard to be told.
            CommandState::Running if killed && (guard_killed || self.term.is_cancelled()) => {
                tracing::warn!("{} is lost: {reason}; the command was killed", self.lock);
                true
            }
            CommandState::Running | CommandState::Draining(_) => false,
        };
        let code = child::exit_code(status);
        Ok(match self.state {
            _ if lost => Ending::Lost,
            CommandState::Draining(_) => Ending::Stopped(code),
            _ => Ending::Over(code),
        })
    }
}
