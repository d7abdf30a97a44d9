//! `tenure run`: the command runs while leading, and never without the lock.

mod limits;
mod patience;
mod term;

use std::ffi::OsString;
use std::time::Duration;

use self::limits::{Limits, at};
use self::patience::Patience;
use self::term::{CommandRun, Ending};
use rustix::process::Signal;
use tenure::{
    BootClock, Clock as _, Election, Event, Expiry, HeartbeatThread, Holder, Identity, Leadership,
    LockName, Reach, Registry, Term, Time,
};
use tokio::sync::broadcast;

use crate::failure::{Failure, exit, signalled};
use crate::options::{self, RunArgs};
use crate::supervisor::child::{IDENTITY, LOCK, TOKEN};
use crate::supervisor::guard::Guard;
use crate::supervisor::prepared::Prepared;
use crate::supervisor::processes;
use crate::supervisor::reaper;
use crate::supervisor::signals::{Received, Signals};
use crate::supervisor::terminal::Terminal;
use crate::supervisor::witness::Witness;

/// How long the guard may take to answer that it is ready, at most.
const GUARD_LIMIT: Duration = Duration::from_secs(10);

/// What is told at this target is shown unless it is turned off, also without a terminal.
pub(crate) const WAITING: &str = "tenure::waiting";

/// What a candidate logs when it begins to campaign.
pub(crate) const WAITS: &str = "waits to be elected";

/// What to do, checked.
#[expect(
    clippy::struct_excessive_bools,
    reason = "one for each switch of the command line"
)]
struct Plan {
    registry: Registry,
    url: String,
    lock: LockName,
    identity: Identity,
    limits: Limits,
    exit_on_loss: bool,
    allow_unguarded: bool,
    no_cgroup: bool,
    pass_backend: bool,
    patience: Patience,
    hold_for: Duration,
    command: Vec<OsString>,
}

pub(crate) fn run(args: RunArgs, registry: &Registry) -> Result<u8, Failure> {
    let plan = Plan {
        registry: registry.clone(),
        lock: options::lock(&args.lock_args.lock)?,
        identity: options::identity(args.id.as_deref())?,
        limits: Limits::new(
            options::policy(&args.policy)?,
            options::duration("--drain-limit", &args.drain_limit)?,
        ),
        exit_on_loss: args.exit_on_loss,
        allow_unguarded: args.allow_unguarded,
        no_cgroup: args.no_cgroup,
        url: args.lock_args.backend.url()?,
        pass_backend: args.pass_backend,
        patience: Patience::of(args.try_once, args.wait.as_deref())?,
        hold_for: match args.hold_for {
            Some(text) => options::duration("--hold-for", &text)?,
            None => Duration::ZERO,
        },
        command: args.command,
    };
    can_find_processes()?;
    // On this thread, which lives as long as the process: the command dies with the thread that
    // started it.
    options::runtime()?.block_on(plan.carry_out())
}

/// Before anybody campaigns: what the command starts is found in `/proc`, and by the kernel making
/// us the parent of what has lost its own.
fn can_find_processes() -> Result<(), Failure> {
    if !processes::are_shown() {
        return Err(Failure::new(
            "/proc shows no processes, or those of another PID namespace, so what the command starts \
             could not be found and stopped; mount it: mount -t proc proc /proc",
        ));
    }
    let this = rustix::process::getpid();
    rustix::process::set_child_subreaper(Some(this))
        .map_err(|error| Failure::new(format!("cannot become a subreaper: {error}")))
}

/// Why a campaign ended without an election.
enum NotElected {
    Signal(Signal),
    TooLate,
}

impl Plan {
    async fn carry_out(self) -> Result<u8, Failure> {
        let mut signals = Signals::handle()?;
        reaper::reap_orphans()?;
        let (election, by_session) = tokio::select! {
            connected = self.connect() => connected?,
            received = signals.ending() => return Ok(signalled(received.signal)),
        };
        let store = self.registry.store_of(&self.url)?;
        if store.reach() == Reach::Process {
            tracing::warn!(
                "{}: elects within this one process, so every candidate will lead",
                store.name()
            );
        }
        if !self.limits.leave_time_to_stop() {
            tracing::warn!(
                "when leadership is lost the command is killed without being told to stop: lease \
                 and heartbeat leave no time for that; use a shorter heartbeat"
            );
        }
        let mut has_led = false;
        loop {
            let leadership = match self.campaign(&election, &mut signals).await? {
                Ok(leadership) => leadership,
                Err(why) => {
                    // What the store may have granted meanwhile is given back.
                    election.settled().await;
                    return Ok(match why {
                        NotElected::Signal(signal) => signalled(signal),
                        // The command has run, so it is not as if nothing had happened.
                        NotElected::TooLate if has_led => exit::LOST,
                        NotElected::TooLate => exit::NOT_ELECTED,
                    });
                }
            };
            has_led = true;
            let elected = BootClock.now();
            // Whatever has happened, the command is reaped when this returns.
            let ending = self
                .lead(&leadership, election.events(), by_session, &mut signals)
                .await;
            if matches!(ending, Ok(Ending::Over(_))) {
                self.hold(&leadership.term(), elected, &mut signals).await;
            }
            let interrupted = release(leadership, &mut signals).await;
            match (ending?, interrupted) {
                (Ending::Over(code) | Ending::Stopped(code), _) => return Ok(code),
                (Ending::Lost, Some(signal)) => return Ok(signalled(signal)),
                (Ending::Lost, None) if self.exit_on_loss => return Ok(exit::LOST),
                // After a wish to resign the next campaign lets the others go first.
                (Ending::Lost, None) => {}
            }
        }
    }

    /// Keeps the lock of a command that has exited early.
    async fn hold(&self, term: &Term, elected: Time, signals: &mut Signals) {
        loop {
            let left = (elected + self.hold_for).since(BootClock.now());
            if left.is_zero() {
                return;
            }
            tokio::select! {
                () = tokio::time::sleep(left) => {}
                () = term.cancelled() => {
                    tracing::warn!("{} was lost before --hold-for was over", self.lock);
                    return;
                }
                _ = signals.ending() => return,
            }
        }
    }

    /// Waits to be elected, or for a signal that says to leave, or for as long as we were told.
    ///
    /// What an operator has to fix is an error at the start only. Later on the engine waits for it:
    /// a service that has worked must not stay down because its store was out of order for a
    /// moment.
    async fn campaign(
        &self,
        election: &Election,
        signals: &mut Signals,
    ) -> Result<Result<Leadership, NotElected>, Failure> {
        tracing::info!("{} {WAITS} for {}", self.identity, self.lock);
        let mut events = election.events();
        let mut campaign = std::pin::pin!(election.campaign());
        let mut is_told = false;
        let end = self.patience.end(&self.limits.policy);
        loop {
            tokio::select! {
                biased;
                leadership = &mut campaign => return Ok(Ok(leadership?)),
                received = signals.ending() => return Ok(Err(NotElected::Signal(received.signal))),
                () = at(end) => {
                    tracing::warn!("not elected for {} in the time given", self.lock);
                    return Ok(Err(NotElected::TooLate));
                }
                event = next_event(&mut events) => if let Event::LeaderSeen(holder) = event {
                    self.refuse_to_wait_for_itself(&holder)?;
                    if !is_told {
                        let leader = holder.identity.escape_debug();
                        tracing::info!(target: WAITING, "waiting for {}: {leader} leads", self.lock);
                    }
                    is_told = true;
                    if self.patience == Patience::None {
                        return Ok(Err(NotElected::TooLate));
                    }
                },
            }
        }
    }

    /// A command that leads starts another candidate for its own lock, and waits for it.
    fn refuse_to_wait_for_itself(&self, holder: &Holder) -> Result<(), Failure> {
        let is_set = |name: &str, value: &str| std::env::var(name).is_ok_and(|set| set == value);
        let token = std::env::var(TOKEN)
            .ok()
            .and_then(|token| token.parse().ok());
        let same_term =
            token.is_some_and(|token: u64| holder.token.is_none_or(|of| of.as_u64() == token));
        if same_term && is_set(LOCK, self.lock.as_str()) && is_set(IDENTITY, &holder.identity) {
            return Err(Failure::new(format!(
                "this runs inside the command that leads {}, so it would wait for itself; name \
                 another lock with --lock",
                self.lock
            )));
        }
        Ok(())
    }

    /// The election, and whether its lock ends with a session.
    async fn connect(&self) -> Result<(Election, bool), Failure> {
        let heartbeats = HeartbeatThread::start()
            .map_err(|error| Failure::new(format!("cannot start a thread: {error}")))?;
        let (registry, url) = (self.registry.clone(), self.url.clone());
        let backend = heartbeats
            .run(async move { registry.connect(&url).await })
            .await??;
        let by_session = backend.capabilities().expiry == Expiry::Session;
        let election = Election::builder(backend, self.lock.clone())
            .identity(self.identity.clone())
            .policy(self.limits.policy.clone())
            .drain_limit(self.limits.drain_limit)
            .spawn_on(heartbeats)
            .build()?;
        Ok((election, by_session))
    }

    /// Runs the command for as long as the term goes on.
    async fn lead(
        &self,
        leadership: &Leadership,
        renewals: broadcast::Receiver<Event>,
        by_session: bool,
        signals: &mut Signals,
    ) -> Result<Ending, Failure> {
        let term = leadership.term();
        if term.is_cancelled() {
            // We were stopped between the election and here.
            return Ok(Ending::Lost);
        }
        let witness = Witness::of(&self.lock, by_session);
        let prepared = Prepared::new(
            &self.command,
            &term,
            self.passed_backend(),
            Terminal::in_foreground(),
            !self.no_cgroup,
        )
        .await;
        let limit = self.limits.time_left(&term).min(GUARD_LIMIT);
        let end = self.limits.end(&term);
        let (mut guard, subreaper) =
            Guard::start(prepared, end, witness, limit, self.allow_unguarded).await?;
        // Starting it took its time.
        if term.is_cancelled() || self.limits.time_left(&term).is_zero() {
            return Ok(Ending::Lost);
        }
        let end = self.limits.end(&term);
        let child = subreaper.run(end, guard.witness()).await?;
        guard.guard_group(child.group());
        tracing::info!(
            "elected for {} with token {}: the command runs",
            self.lock,
            term.token()
        );
        let run = CommandRun::new(&self.limits, leadership, renewals, guard, child);
        run.until_exit(signals).await
    }

    /// What the command gets of the store's URL, which may hold a password.
    fn passed_backend(&self) -> Option<&str> {
        self.pass_backend.then_some(self.url.as_str())
    }
}

/// Gives the lock back, now that the command is gone; a second signal says not to wait for it.
async fn release(leadership: Leadership, signals: &mut Signals) -> Option<Signal> {
    let lock = leadership.lock().clone();
    let mut resigned = std::pin::pin!(leadership.resign());
    let mut interrupted: Option<Received> = None;
    loop {
        tokio::select! {
            outcome = &mut resigned => {
                if let Err(error) = outcome {
                    tracing::warn!("{lock} was not released: {}", error.message());
                }
                break;
            }
            received = signals.ending() => match interrupted {
                Some(first) if received.repeats(first.at) => {}
                Some(_) => break,
                None => interrupted = Some(received),
            },
        }
    }
    interrupted.map(|first| first.signal)
}

/// The next event; those that came too fast are no matter.
async fn next_event(events: &mut broadcast::Receiver<Event>) -> Event {
    loop {
        match events.recv().await {
            Ok(event) => return event,
            Err(broadcast::error::RecvError::Lagged(_)) => {}
            // The election lives as long as we do.
            Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
        }
    }
}
