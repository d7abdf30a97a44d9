//! Each scenario under thousands of schedules. A failure prints its schedule, which
//! `shuttle::replay` takes.

mod scenarios;

use scenarios::{election, stores, term};

/// How many schedules each scenario runs under: `TENURE_SCHEDULES`, or else few enough for every
/// run of the tests.
fn schedules() -> usize {
    let Ok(chosen) = std::env::var("TENURE_SCHEDULES") else {
        return 1_000;
    };
    chosen
        .parse()
        .unwrap_or_else(|_| panic!("TENURE_SCHEDULES={chosen} is not a number"))
}

fn tried(scenario: fn()) {
    shuttle::check_random(scenario, schedules());
    // Few switches, at the worst moments.
    shuttle::check_pct(scenario, schedules() / 2, 3);
}

macro_rules! tried {
    ($($file:ident::$name:ident),* $(,)?) => {$(
        #[test]
        fn $name() {
            tried($file::$name);
        }
    )*};
}

tried!(
    term::extend_beside_looks,
    term::stop_beside_time,
    term::waits_beside_end,
    term::waits_beside_time,
    term::waits_beside_extension,
    election::instructions_to_one_engine,
    election::asked_beside_the_end_of_the_engine,
    election::two_elections_on_one_backend,
    stores::two_judge_a_living_holder,
    stores::two_are_told_of_a_release,
    stores::two_candidates_on_both,
);

/// The moment that matters is short: more schedules, with a single switch.
#[test]
fn two_compete_on_both() {
    tried(stores::two_compete_on_both);
    shuttle::check_pct(stores::two_compete_on_both, schedules() * 5, 2);
}

/// Under every schedule there is.
#[test]
fn extend_beside_end() {
    shuttle::check_dfs(term::extend_beside_end, None);
}

/// Under every schedule there is.
#[test]
fn cancel_beside_looks() {
    shuttle::check_dfs(term::cancel_beside_looks, None);
}
