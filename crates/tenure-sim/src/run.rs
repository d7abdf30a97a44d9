//! Runs one seed.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use tenure_core::LockName;
use tokio::runtime::Builder;

use super::checker::check;
use super::director::Director;
use super::drills::Drill;
use super::fleet::Fleet;
use super::history::{Event, History};
use super::invariant::{Invariant, Violation};
use super::moving::{self, Move};
use super::plan::{Knowledge, Plan};
use super::world::{LIVELOCK, World};

/// Every so many seeds the fleet also moves to another store.
const MOVES_EVERY: u64 = 4;

/// What came of a seed.
#[derive(Debug)]
pub struct Report {
    /// The plan.
    pub plan: Plan,
    /// Everything that happened.
    pub history: History,
    /// What happened to the same fleet on the move from one store to another, which every fourth
    /// seed plays too.
    pub moved: Option<History>,
    /// The scene that other seeds play, and what happened in it.
    pub drill: Option<(Drill, History)>,
    /// What is wrong with it.
    pub violations: Vec<Violation>,
}

/// Simulates `seed` for so long, and checks what happened.
pub fn run(seed: u64, length: Duration, verbose: bool) -> Report {
    run_plan(Plan::new(seed, length), verbose)
}

/// Simulates a plan, and checks what happened.
pub fn run_plan(plan: Plan, verbose: bool) -> Report {
    let seed = plan.seed;
    let (history, _) = simulate(plan.clone(), verbose, async |world| {
        Director::new(Fleet::start(&world)).direct().await;
    });
    let mut violations = check(&history);
    let moved = seed.is_multiple_of(MOVES_EVERY).then(|| {
        let mut plan = plan.clone();
        // What only one store alone can be.
        plan.repeats = false;
        plan.knowledge = Knowledge::None;
        let (history, fleet) = simulate(plan, verbose, async |world| {
            let mut fleet = Move::new(&world);
            fleet.play().await;
            fleet.settled()
        });
        violations.extend(moving::violations(&history, &fleet.unwrap_or_default()));
        history
    });
    let drill = Drill::of(seed).map(|drill| {
        let scene = async |world| drill.play(world).await;
        let (history, found) = simulate(drill.plan(plan.clone()), verbose, scene);
        let livelocks = check(&history).into_iter();
        violations.extend(livelocks.filter(|found| found.invariant == Invariant::Livelock));
        violations.extend(found.unwrap_or_default());
        (drill, history)
    });
    Report {
        plan,
        history,
        moved,
        drill,
        violations,
    }
}

/// Plays in a world of its own, until the end or until it does not get on.
fn simulate<T>(
    plan: Plan,
    verbose: bool,
    story: impl AsyncFnOnce(Arc<World>) -> T,
) -> (History, Option<T>) {
    #[expect(
        clippy::expect_used,
        reason = "without a runtime there is no simulation"
    )]
    let runtime = Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    #[expect(clippy::expect_used, reason = "a constant")]
    let lock = LockName::new("simulated").expect("a valid name");
    let world = {
        let _within = runtime.enter();
        World::new(plan, lock, verbose)
    };
    let played = catch_unwind(AssertUnwindSafe(|| {
        runtime.block_on(async {
            tokio::select! {
                biased;
                () = stuck(world.clone()) => None,
                outcome = story(world.clone()) => Some(outcome),
            }
        })
    }));
    world.close();
    drop(runtime);
    if played.is_err() && !world.is_stuck() {
        world.history().push(Duration::ZERO, Event::Livelock);
    }
    let history = std::mem::take(&mut *world.history());
    (history, played.ok().flatten())
}

/// Returns when the simulation does not get on, which a task's panic has told.
async fn stuck(world: Arc<World>) {
    loop {
        tokio::time::sleep(Duration::from_secs(5)).await;
        if world.is_stuck() {
            return;
        }
    }
}

/// Silences the panics by which a livelock is ended: the report says it better.
pub fn quiet_livelocks() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let payload = panic.payload();
        let text = payload.downcast_ref::<&str>().copied();
        let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
        if !text.is_some_and(|text| text.contains(LIVELOCK)) {
            usual(panic);
        }
    }));
}

impl Report {
    /// The history as text.
    pub fn trace(&self) -> impl fmt::Display + '_ {
        Trace(self)
    }

    /// The command that shows this seed again.
    pub fn replay(&self) -> String {
        let Plan { seed, length, .. } = &self.plan;
        format!(
            "cargo run --release -p tenure-sim --bin sim -- --seed {seed} --hours {} --trace",
            length.as_secs_f64() / 3600.0
        )
    }
}

struct Trace<'a>(&'a Report);

impl fmt::Display for Trace<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { plan, .. } = self.0;
        writeln!(
            f,
            "seed {}: {:?} (knows {:?} of holders, versions repeat: {}, tells of loss: {}), wake-up \
             by {:?}, store clock {:+} ppm",
            plan.seed,
            plan.family,
            plan.knowledge,
            plan.repeats,
            plan.tells_of_loss,
            plan.wakeup,
            plan.store_ppm
        )?;
        for (number, candidate) in plan.candidates.iter().enumerate() {
            writeln!(
                f,
                "candidate {number}: {:+} ppm, drain limit {:?}, {}",
                candidate.ppm, candidate.drain_limit, candidate.policy
            )?;
        }
        write_history(f, &self.0.history)?;
        if let Some(moved) = &self.0.moved {
            writeln!(f, "on the move from one store to another:")?;
            write_history(f, moved)?;
        }
        if let Some((drill, history)) = &self.0.drill {
            writeln!(f, "the scene {drill:?}:")?;
            write_history(f, history)?;
        }
        Ok(())
    }
}

fn write_history(f: &mut fmt::Formatter<'_>, history: &History) -> fmt::Result {
    for (number, term) in history.terms.iter().enumerate() {
        writeln!(
            f,
            "term {number}: candidate {} (life {}), token {}",
            term.candidate, term.life, term.token
        )?;
    }
    for (at, event) in &history.events {
        writeln!(f, "{:>14.6} {event:?}", at.as_secs_f64())?;
    }
    Ok(())
}
