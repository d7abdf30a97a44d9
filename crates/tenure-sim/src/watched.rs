//! A backend whose answers are noted on their way: what a candidate was told decides what it may
//! do next.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt as _;
use tenure_core::{
    Acquired, CampaignId, Candidate, Capabilities, Changes, Error, ErrorKind, Grant, Hint,
    LockBackend, LockName, Loss, Occupancy, Policy, Renewal, SharedClock, Time,
};

use super::Moment;
use super::history::Event;
use super::process::Process;

/// One candidate's backend.
#[derive(Clone, Debug)]
pub struct Watched {
    inner: Arc<dyn LockBackend>,
    process: Arc<Process>,
    policy: Policy,
    heard: Arc<Mutex<Heard>>,
}

/// What the candidate was told.
#[derive(Debug, Default)]
struct Heard {
    /// When the lock can be free at the earliest.
    free_at: Option<Moment>,
    pause: Option<Pause>,
}

/// The store has asked to be left alone.
#[derive(Debug)]
struct Pause {
    campaign: CampaignId,
    since: Moment,
    asked: Duration,
    /// A hint has come since, or none will come any more.
    hinted: bool,
}

impl Watched {
    /// `inner`, as `process` uses it under `policy`.
    pub fn new(inner: Arc<dyn LockBackend>, process: Arc<Process>, policy: Policy) -> Self {
        Self {
            inner,
            process,
            policy,
            heard: Arc::default(),
        }
    }

    fn heard(&self) -> MutexGuard<'_, Heard> {
        lock(&self.heard)
    }

    /// Writes down an attempt that comes sooner than the store had asked, as far as it is to be
    /// heeded: for a heartbeat, and not past the moment at which the lock can be free. After a
    /// hint a retry interval is enough.
    fn check_backoff(&self, campaign: CampaignId) {
        let heard = {
            let mut heard = self.heard();
            heard.pause.take().map(|pause| (pause, heard.free_at))
        };
        let Some((pause, free_at)) = heard else {
            return;
        };
        let jitter = f64::from(self.policy.jitter_percent()) / 100.0;
        let retry = self.policy.retry_interval().mul_f64(1.0 - jitter);
        let longest = free_at.map_or(self.policy.heartbeat(), |at| {
            at.saturating_sub(pause.since).min(self.policy.heartbeat())
        });
        let asked = if pause.hinted {
            retry
        } else {
            pause.asked.min(longest).max(retry)
        };
        let until = pause.since + on_a_fast_clock(asked).saturating_sub(TICK);
        let left = until.saturating_sub(self.process.world.now());
        if pause.campaign == campaign && !left.is_zero() {
            let candidate = self.process.candidate;
            self.process
                .world
                .record(Event::Impatient { candidate, left });
        }
    }

    fn note(&self, campaign: CampaignId, answer: &Result<Acquired, Error>) {
        let now = self.process.world.now();
        match answer {
            Ok(acquired) => {
                self.process.note_answer();
                // One that wins too late to lead knows what it knew before.
                if let Acquired::Taken { free_in, .. } = acquired {
                    self.heard().free_at = free_in.map(|left| now + on_a_fast_clock(left));
                }
            }
            Err(error) if is_permanent(error) => {
                if !self.process.was_answered() {
                    let (candidate, life) = (self.process.candidate, self.process.life);
                    self.process
                        .world
                        .record(Event::Refused { candidate, life });
                }
            }
            Err(error) => {
                if let Some(asked) = error.retry_after() {
                    self.heard().pause = Some(Pause {
                        campaign,
                        since: now,
                        asked,
                        hinted: false,
                    });
                }
            }
        }
    }
}

const TICK: Duration = Duration::from_millis(2);

/// How much true time passes at least while a candidate's clock advances by so much.
fn on_a_fast_clock(duration: Duration) -> Duration {
    duration.mul_f64(0.998)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What somebody has to mend.
fn is_permanent(error: &Error) -> bool {
    !error.is_retryable() && error.kind() != ErrorKind::Corrupted
}

#[async_trait]
impl LockBackend for Watched {
    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    fn clock(&self) -> SharedClock {
        self.inner.clock()
    }

    async fn acquire(
        &self,
        lock: &LockName,
        candidate: &Candidate,
        lease: Duration,
    ) -> Result<Acquired, Error> {
        self.check_backoff(candidate.campaign);
        let answer = self.inner.acquire(lock, candidate, lease).await;
        self.note(candidate.campaign, &answer);
        answer
    }

    async fn renew(&self, grant: &Grant, not_before: Time) -> Result<Renewal, Error> {
        self.inner.renew(grant, not_before).await
    }

    fn may_go_on(&self, began_at: Time) -> bool {
        self.inner.may_go_on(began_at)
    }

    async fn release(&self, grant: &Grant) -> Result<(), Error> {
        self.inner.release(grant).await
    }

    async fn withdraw(&self, lock: &LockName, candidate: &Candidate) -> Result<(), Error> {
        self.inner.withdraw(lock, candidate).await
    }

    async fn holder(&self, lock: &LockName) -> Result<Occupancy, Error> {
        self.inner.holder(lock).await
    }

    fn changes(&self, name: &LockName) -> Changes {
        let (heard, world) = (self.heard.clone(), self.process.world.clone());
        let told = self.inner.changes(name).map(Some);
        let end = futures_util::stream::once(std::future::ready(None));
        Box::pin(
            told.chain(end)
                .inspect(move |hint| {
                    let mut heard = lock(&heard);
                    if let Some(Hint::HeldFor(left)) = hint {
                        heard.free_at = Some(world.now() + on_a_fast_clock(*left));
                    }
                    if let Some(pause) = &mut heard.pause {
                        pause.hinted = true;
                    }
                })
                .filter_map(std::future::ready),
        )
    }

    fn loss(&self, grant: &Grant) -> Option<Loss> {
        self.inner.loss(grant)
    }
}
