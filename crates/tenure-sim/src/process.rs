//! A candidate's process: frozen, continued, killed.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tenure_core::{Error, Policy, Spawn, Task};
use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::Moment;
use super::clock::SimClock;
use super::world::{LATEST_TIMER, World};

/// One life of a candidate: from its start to its exit or crash.
pub struct Process {
    /// The world.
    pub world: Arc<World>,
    /// The candidate's number.
    pub candidate: usize,
    /// Counts its lives.
    pub life: u32,
    /// The host's clock; it runs on while the process is frozen.
    pub clock: Arc<SimClock>,
    /// Told to shut down.
    pub shutdown: watch::Sender<bool>,
    /// The work is asked to return.
    resign: watch::Sender<()>,
    /// The health probe says no from then until then.
    unwell: Mutex<(Moment, Moment)>,
    /// How long the work is to go on when it is told to stop next, and whether its term must be
    /// valid until then.
    pub stop: Mutex<Option<(Duration, bool)>>,
    frozen: AtomicBool,
    alive: AtomicBool,
    exited: AtomicBool,
    running: AtomicUsize,
    disturbed: Mutex<Moment>,
    /// The store has answered an `acquire`.
    answered: AtomicBool,
    wakers: Mutex<Vec<Waker>>,
    tasks: Mutex<Vec<AbortHandle>>,
}

impl Process {
    /// A process without tasks.
    pub fn new(world: Arc<World>, candidate: usize, life: u32, clock: Arc<SimClock>) -> Arc<Self> {
        Arc::new(Self {
            world,
            candidate,
            life,
            clock,
            shutdown: watch::Sender::new(false),
            resign: watch::Sender::new(()),
            unwell: Mutex::default(),
            stop: Mutex::default(),
            frozen: AtomicBool::new(false),
            alive: AtomicBool::new(true),
            exited: AtomicBool::new(false),
            running: AtomicUsize::new(0),
            disturbed: Mutex::default(),
            answered: AtomicBool::new(false),
            wakers: Mutex::default(),
            tasks: Mutex::default(),
        })
    }

    /// Runs a task of this process.
    pub fn run(self: &Arc<Self>, task: impl Future<Output = ()> + Send + 'static) {
        self.running.fetch_add(1, Ordering::Relaxed);
        let task = tokio::spawn(Freezable {
            process: self.clone(),
            task: Box::pin(task),
        });
        let mut tasks = lock(&self.tasks);
        tasks.retain(|task| !task.is_finished());
        tasks.push(task.abort_handle());
    }

    /// Kills it: nothing of it runs any more, and nothing is given back.
    pub fn crash(&self) {
        self.alive.store(false, Ordering::Relaxed);
        self.world.died(self.candidate, self.life);
        for task in lock(&self.tasks).drain(..) {
            task.abort();
        }
    }

    /// Whether it was not killed.
    pub fn is_alive(&self) -> bool {
        self.alive.load(Ordering::Relaxed)
    }

    /// The application has returned.
    pub fn exit(&self) {
        self.exited.store(true, Ordering::Relaxed);
        self.world.died(self.candidate, self.life);
    }

    /// Whether the application has returned.
    pub fn has_exited(&self) -> bool {
        self.exited.load(Ordering::Relaxed)
    }

    /// The store has answered an `acquire`.
    pub fn note_answer(&self) {
        self.answered.store(true, Ordering::Relaxed);
    }

    /// Whether the store has ever answered an `acquire`.
    pub fn was_answered(&self) -> bool {
        self.answered.load(Ordering::Relaxed)
    }

    /// How many tasks have not ended.
    pub fn running(&self) -> usize {
        self.running.load(Ordering::Relaxed)
    }

    /// SIGSTOP: its tasks are not polled; its clock and the store run on.
    pub fn freeze(&self) {
        self.frozen.store(true, Ordering::Relaxed);
    }

    /// SIGCONT.
    pub fn thaw(&self) {
        if self.frozen.swap(false, Ordering::Relaxed) {
            *lock(&self.disturbed) = self.world.now();
        }
        for waker in lock(&self.wakers).drain(..) {
            waker.wake();
        }
    }

    /// Whether it is frozen now.
    pub fn is_frozen(&self) -> bool {
        self.frozen.load(Ordering::Relaxed)
    }

    /// Whether it was frozen at, or after, `since`.
    pub fn frozen_since(&self, since: Moment) -> bool {
        self.is_frozen() || *lock(&self.disturbed) >= since.max(Duration::from_nanos(1))
    }

    /// From now on the health probe says no, for so long.
    pub fn make_unwell(&self, lasts: Duration) {
        let now = self.world.now();
        *lock(&self.unwell) = (now, now + lasts);
    }

    /// The health probe.
    pub fn is_well(&self) -> bool {
        self.world.now() >= lock(&self.unwell).1
    }

    /// Whether the probe has said no for a while, and not only from this very moment on.
    pub fn has_been_unwell(&self) -> bool {
        let (since, until) = *lock(&self.unwell);
        let now = self.world.now();
        since < now && now < until
    }

    /// Whether its timers may be late, or its leases short, so that it cannot be held to the
    /// exact moment. A timer that was set in bad weather may be late in good weather.
    pub fn was_disturbed(&self, policy: &Policy) -> bool {
        let longest = policy.lease() + LATEST_TIMER;
        let lately = self.world.now().saturating_sub(longest);
        let late = self.world.plan.late_timers && self.world.was_stormy_since(lately);
        late || self.frozen_since(lately) || self.world.was_stingy_since(lately)
    }

    /// Asks the work that runs now to return.
    pub fn resign(&self) {
        self.resign.send_replace(());
    }

    /// Changes when the work is asked to return.
    pub fn resignations(&self) -> watch::Receiver<()> {
        self.resign.subscribe()
    }

    /// Returns once it is told to shut down.
    pub async fn told_to_shut_down(&self) {
        let mut shutdown = self.shutdown.subscribe();
        // The sender is `self`, so it is there.
        let _told = shutdown.wait_for(|told| *told).await;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Process")
            .field("candidate", &self.candidate)
            .field("life", &self.life)
            .finish_non_exhaustive()
    }
}

/// Where the election of a process puts its engine.
#[derive(Clone, Debug)]
pub struct OnProcess(pub Arc<Process>);

impl Spawn for OnProcess {
    fn spawn(&self, task: Task) -> Result<(), Error> {
        self.0.run(task);
        Ok(())
    }
}

/// A task that is not polled while its process is frozen.
struct Freezable {
    process: Arc<Process>,
    task: Task,
}

impl Future for Freezable {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if !self.process.is_alive() {
            return Poll::Pending;
        }
        if self.process.is_frozen() {
            lock(&self.process.wakers).push(cx.waker().clone());
            return Poll::Pending;
        }
        self.task.as_mut().poll(cx)
    }
}

impl Drop for Freezable {
    fn drop(&mut self) {
        self.process.running.fetch_sub(1, Ordering::Relaxed);
    }
}
