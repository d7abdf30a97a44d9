//! Runs one seed.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use tenure_core::LockName;
use tokio::runtime::Builder;

use super::checker::{Violation, check};
use super::director::Director;
use super::fleet::Fleet;
use super::history::{Event, History};
use super::plan::Plan;
use super::world::{LIVELOCK, World};

/// What came of a seed.
#[derive(Debug)]
pub struct Report {
    /// The plan.
    pub plan: Plan,
    /// Everything that happened.
    pub history: History,
    /// What is wrong with it.
    pub violations: Vec<Violation>,
}

/// Simulates `seed` for so long, and checks what happened.
pub fn run(seed: u64, length: Duration, verbose: bool) -> Report {
    let plan = Plan::new(seed, length);
    let history = simulate(plan.clone(), verbose);
    let violations = check(&history);
    Report {
        plan,
        history,
        violations,
    }
}

fn simulate(plan: Plan, verbose: bool) -> History {
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
            let fleet = Fleet::start(&world);
            let director = Director::new(fleet);
            tokio::select! {
                biased;
                () = stuck(world.clone()) => {}
                () = director.direct() => {}
            }
        });
    }));
    world.close();
    drop(runtime);
    if played.is_err() && !world.is_stuck() {
        world.history().push(Duration::ZERO, Event::Livelock);
    }
    std::mem::take(&mut *world.history())
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
            "cargo run --release -p tenure-tests --bin sim -- --seed {seed} --hours {} --trace",
            length.as_secs_f64() / 3600.0
        )
    }
}

struct Trace<'a>(&'a Report);

impl fmt::Display for Trace<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { plan, history, .. } = self.0;
        writeln!(
            f,
            "seed {}: {:?}, wake-up by {:?}, store clock {:+} ppm",
            plan.seed, plan.family, plan.wakeup, plan.store_ppm
        )?;
        for (number, candidate) in plan.candidates.iter().enumerate() {
            writeln!(
                f,
                "candidate {number}: {:+} ppm, drain limit {:?}, {}",
                candidate.ppm, candidate.drain_limit, candidate.policy
            )?;
        }
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
}
