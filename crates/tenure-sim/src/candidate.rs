//! What an application does with its election.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tenure_core::{
    Clock as _, Election, Error, Event as Told, Identity, Leadership, LockBackend, Next, Policy,
    PublishedValue, RunError, Term,
};
use tokio::select;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::oneshot;

use super::faults::SLOWEST;
use super::history::{Event, TermId, TermInfo};
use super::plan::CandidatePlan;
use super::process::{OnProcess, Process};

/// The application of one life of a candidate.
#[derive(Clone, Debug)]
pub struct Application {
    /// Its process.
    pub process: Arc<Process>,
    plan: CandidatePlan,
    election: Election,
    /// The stores whose locks it needs to lead.
    stores: &'static [u8],
    /// What `publish` has said yes to last, and in which term.
    published: Arc<Mutex<Option<(TermId, String)>>>,
}

/// The work's own error.
#[derive(Debug)]
pub struct WorkFailed;

/// How long a work that does not care goes on after it was told to stop, at most.
pub const LONGEST_OVERRUN: Duration = Duration::from_secs(40);

impl Application {
    /// An application on `backend`.
    pub fn new(
        process: Arc<Process>,
        plan: CandidatePlan,
        backend: Arc<dyn LockBackend>,
        identity: Identity,
        stores: &'static [u8],
    ) -> Result<Self, Error> {
        let drawn = process.world.rng().u64(..);
        let clone = process.world.plan.clones && process.candidate < 2;
        let seed = if clone {
            process.world.plan.seed
        } else {
            drawn
        };
        let probe = Arc::downgrade(&process);
        let election = Election::builder(backend, process.world.lock.clone())
            .identity(identity)
            .policy(plan.policy.clone())
            .drain_limit(plan.drain_limit)
            .spawn_on(OnProcess(process.clone()))
            .health(move || probe.upgrade().is_some_and(|process| process.is_well()))
            .seed(seed)
            .build()?;
        Ok(Self {
            process,
            plan,
            election,
            stores,
            published: Arc::default(),
        })
    }

    /// Starts it.
    pub fn start(self) {
        self.clone().report();
        let process = self.process.clone();
        process.clone().run(async move {
            self.main().await;
            process.exit();
        });
    }

    /// Writes down what the election tells, seen from outside of the process.
    fn report(self) {
        let mut events = self.election.events();
        let process = Arc::downgrade(&self.process);
        let plan = self.plan.clone();
        drop(self);
        drop(tokio::spawn(async move {
            loop {
                let told = match events.recv().await {
                    Ok(told) => told,
                    Err(RecvError::Lagged(_)) => continue,
                    Err(RecvError::Closed) => return,
                };
                let Some(process) = process.upgrade() else {
                    return;
                };
                let world = &process.world;
                match told {
                    Told::Renewed { .. } => world.renewed(process.candidate, process.life),
                    Told::Overrun => {
                        if let Some((term, _)) = world.latest(process.candidate, process.life) {
                            world.record(Event::OverrunTold(term));
                        }
                    }
                    Told::SteppingDown(cause) | Told::SteppedDown(cause) => {
                        let ended = matches!(told, Told::SteppedDown(_));
                        let Some((term, left)) = world.latest(process.candidate, process.life)
                        else {
                            continue;
                        };
                        let disturbed = process.was_disturbed(&plan.policy);
                        let cause = cause.into();
                        world.record(if ended {
                            Event::SteppedDown {
                                term,
                                cause,
                                disturbed,
                            }
                        } else {
                            Event::SteppingDown {
                                term,
                                cause,
                                left,
                                disturbed,
                            }
                        });
                    }
                    _ => {}
                }
            }
        }));
    }

    async fn main(&self) {
        let world = self.process.world.clone();
        while !*self.process.shutdown.borrow() {
            if world.chance(60) {
                self.run_until().await;
            } else {
                self.guard().await;
            }
            let longest = if world.faults().stormy { 3_000 } else { 100 };
            let pause = world.between(Duration::from_millis(10), Duration::from_millis(longest));
            select! {
                biased;
                () = self.process.told_to_shut_down() => {}
                () = self.process.clock.pause(pause) => {}
            }
        }
        self.election.settled().await;
    }

    /// The application that hands its work over.
    async fn run_until(&self) {
        let shutdown = self.process.told_to_shut_down();
        let outcome: Result<(), RunError<WorkFailed>> = self
            .election
            .run_until(shutdown, |term| async move {
                let id = self.begins(&term);
                self.work(id, &term).await
            })
            .await;
        if let Err(RunError::Election(error)) = outcome {
            self.gave_up(&error);
        }
    }

    /// An error that a campaign has returned.
    fn gave_up(&self, error: &Error) {
        let process = &self.process;
        process.world.record(Event::GaveUp {
            candidate: process.candidate,
            life: process.life,
            kind: error.kind().name(),
            hasty: error.is_retryable() || process.was_answered(),
        });
    }

    /// The application that keeps a guard.
    async fn guard(&self) {
        let world = &self.process.world;
        let longest = world.between(Duration::from_millis(10), Duration::from_secs(120));
        let impatient = world.faults().stormy && world.chance(30);
        let campaign = self.election.campaign();
        let elected = select! {
            biased;
            () = self.process.told_to_shut_down() => return,
            elected = campaign => elected,
            () = self.process.clock.pause(longest), if impatient => return,
        };
        let leadership = match elected {
            Ok(leadership) => leadership,
            Err(error) => return self.gave_up(&error),
        };
        let term = leadership.term();
        let id = self.begins(&term);
        let result = {
            let work = self.work(id, &term);
            let mut work = std::pin::pin!(work);
            select! {
                biased;
                result = &mut work => result,
                never = self.publish_now_and_then(id, &leadership) => never,
                () = self.process.told_to_shut_down() => {
                    leadership.stop(tenure_core::Cause::Shutdown);
                    work.await
                }
            }
        };
        if result.is_ok() {
            // The release may fail; then the lease ends by itself.
            let _unreleased = leadership.resign().await;
        } else {
            drop(leadership);
        }
    }

    /// Publishes values, often while a heartbeat is under way. Never returns.
    async fn publish_now_and_then<T>(&self, id: TermId, leadership: &Leadership) -> T {
        let (world, clock) = (&self.process.world, &self.process.clock);
        for count in 0_u32.. {
            let longest = self.plan.policy.heartbeat() * 4;
            clock.pause(world.between(Duration::ZERO, longest)).await;
            let value = format!("value-{count}");
            let publish = async {
                if world.chance(50) {
                    tokio::task::yield_now().await;
                }
                leadership
                    .publish(PublishedValue::new(value.as_str()).ok())
                    .await
            };
            let both = async {
                if world.chance(50) {
                    // Its heartbeat leaves before the value is known.
                    futures_util::future::join(leadership.confirm(), publish)
                        .await
                        .1
                } else {
                    publish.await
                }
            };
            // An unanswered one may have been published or not.
            self.note_published(None);
            let published = select! {
                biased;
                outcome = both => outcome.is_ok(),
                () = clock.pause(Duration::from_secs(20)) => false,
            };
            if published {
                self.note_published(Some((id, value)));
                self.check_published(id, leadership);
            }
        }
        std::future::pending().await
    }

    fn note_published(&self, value: Option<(TermId, String)>) {
        if let Ok(mut published) = self.published.lock() {
            *published = value;
        }
    }

    /// Compares what `publish` has said yes to with what the stores hold. Not in bad weather: an
    /// older heartbeat that arrives late takes its value along, until the next one.
    fn check_published(&self, id: TermId, term: &Term) {
        let world = &self.process.world;
        let published = self.published.lock().map_or(None, |value| value.clone());
        let Some((of, value)) = published else {
            return;
        };
        let lately = world.now().saturating_sub(SLOWEST * 4);
        if of != id || world.was_stormy_since(lately) || world.was_slow_since(lately) {
            return;
        }
        let info = world.term(id);
        let applied = info.and_then(|info| world.last_applied(&info));
        if term.is_valid()
            && let Some(applied) = applied
        {
            let kept = applied.values.iter().all(|v| v.as_deref() == Some(&value));
            world.record(Event::Published { term: id, kept });
        }
    }

    fn begins(&self, term: &Term) -> TermId {
        let process = &self.process;
        let info = TermInfo {
            candidate: process.candidate,
            life: process.life,
            token: term.token().as_u64(),
            policy: self.plan.policy.clone(),
            drain_limit: self.plan.drain_limit,
            stores: self.stores,
            era: process
                .world
                .era(process.candidate, process.life, term.token()),
        };
        let id = process.world.elected(info, term, process.clock.drift);
        if process.has_been_unwell() && !process.was_disturbed(&self.plan.policy) {
            process.world.record(Event::Unwell {
                candidate: process.candidate,
                what: "begins a term",
            });
        }
        self.note_the_end(id, term);
        id
    }

    /// Writes down when the term is over. Only its own process asks the term, since whoever asks
    /// after the end also ends it; of a process that stands still the world knows by the clock.
    fn note_the_end(&self, id: TermId, term: &Term) {
        let (over, told) = oneshot::channel::<()>();
        let (world, term) = (self.process.world.clone(), term.clone());
        self.process.run(async move {
            term.lost().await;
            drop(over);
        });
        drop(tokio::spawn(async move {
            select! {
                biased;
                _over_or_crashed = told => {}
                () = world.over_by_the_clock(id) => {}
            }
            world.record(Event::Ended(id));
        }));
    }

    async fn work(&self, id: TermId, term: &Term) -> Result<Next, WorkFailed> {
        let world = &self.process.world;
        let mut resignations = self.process.resignations();
        let working = Working::start(self, id, term);
        if world.chance(20) {
            self.straggle(id, term);
        }
        self.effect(id, term, Duration::ZERO).await;
        let enough = world.now() + world.between(Duration::from_secs(1), Duration::from_secs(900));
        loop {
            let pause = world.between(Duration::from_millis(200), Duration::from_secs(8));
            select! {
                biased;
                () = term.cancelled() => break,
                Ok(()) = resignations.changed() => break,
                () = self.process.clock.pause(pause) => {}
            }
            if world.now() >= enough && world.faults().stormy {
                break;
            }
            if world.chance(5) {
                self.confirm(id, term).await;
            }
            self.check_published(id, term);
            let at_least = world.between(Duration::ZERO, self.plan.policy.stop_grace());
            self.effect(id, term, at_least).await;
        }
        if !term.is_cancelled() {
            drop(working);
            return Ok(Next::Campaign);
        }
        let asked = self
            .process
            .stop
            .lock()
            .ok()
            .and_then(|mut stop| stop.take());
        let goes_on = asked.map_or_else(
            || {
                if world.faults().stormy && world.chance(15) {
                    world.between(Duration::ZERO, LONGEST_OVERRUN)
                } else {
                    // What it was promised: the stop grace, less what a timer needs.
                    let grace = self.plan.policy.stop_grace();
                    world.between(
                        Duration::ZERO,
                        grace.saturating_sub(Duration::from_millis(5)),
                    )
                }
            },
            |(goes_on, _)| goes_on,
        );
        let until = self.process.clock.now() + goes_on;
        loop {
            let left = until.since(self.process.clock.now());
            if left.is_zero() {
                break;
            }
            let pause = left.min(Duration::from_millis(700));
            self.process.clock.pause(pause).await;
            if !term.is_cancelled() {
                world.record(Event::Uncancelled(id));
            }
            self.effect(id, term, Duration::from_millis(50)).await;
        }
        if asked.is_some_and(|(_, must_stand)| must_stand) {
            world.record(Event::MustStand {
                term: id,
                what: "a drain within its limit",
                stands: term.is_valid(),
            });
        }
        drop(working);
        if world.chance(10) {
            return Err(WorkFailed);
        }
        Ok(Next::Campaign)
    }

    async fn confirm(&self, id: TermId, term: &Term) {
        let world = &self.process.world;
        let asked = world.now();
        if let Ok(_permit) = term.confirm().await {
            let applied = world.term(id).and_then(|info| world.last_applied(&info));
            world.record(Event::Confirmed {
                term: id,
                proven: applied.is_some_and(|applied| applied.at >= asked),
            });
        }
    }

    /// Asks for a permit, and acts under it as late as it allows.
    async fn effect(&self, id: TermId, term: &Term, at_least: Duration) {
        let (world, clock) = (&self.process.world, &self.process.clock);
        let Ok(permit) = term.permit(at_least) else {
            return;
        };
        let permitted = clock.now();
        let pause = if world.chance(30) {
            at_least
        } else {
            world.between(Duration::ZERO, at_least)
        };
        // A timer is a millisecond late at best.
        let pause = pause.saturating_sub(Duration::from_millis(2));
        if !pause.is_zero() {
            clock.pause(pause).await;
        }
        let era = world.term(id).map_or(0, |term| term.era);
        let (accepted, seen) = world.write_fenced(era, permit.token);
        // A store that grants less than before takes back what the permit has promised.
        let lately = world.now().saturating_sub(self.plan.policy.lease());
        let shortened = world.was_stingy_since(lately);
        world.record(Event::Effect {
            term: id,
            at_least,
            after: clock.now().since(permitted),
            valid: term.is_valid() || shortened,
            accepted,
            seen,
        });
    }

    /// A thread that the application has forgotten: it asks, as it should, and must be refused
    /// from the moment on that the work has stopped.
    fn straggle(&self, id: TermId, term: &Term) {
        let (process, term) = (self.process.clone(), term.clone());
        self.process.run(async move {
            let mut asked_after_the_end = 0;
            while asked_after_the_end < 20 {
                process.clock.pause(Duration::from_millis(900)).await;
                let working = process.world.is_working(id);
                if !working {
                    asked_after_the_end += 1;
                    if term.permit(Duration::ZERO).is_ok() {
                        process.world.record(Event::LatePermit(id));
                    }
                }
            }
        });
    }
}

/// The work is running as long as this lives, however it ends.
struct Working {
    process: Arc<Process>,
    policy: Policy,
    id: TermId,
}

impl Working {
    fn start(application: &Application, id: TermId, term: &Term) -> Self {
        let process = application.process.clone();
        process.world.work_started(id, term.token());
        Self {
            process,
            policy: application.plan.policy.clone(),
            id,
        }
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        let crashed = !self.process.is_alive();
        let disturbed = self.process.was_disturbed(&self.policy);
        self.process.world.work_stopped(self.id, crashed, disturbed);
    }
}
