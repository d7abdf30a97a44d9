//! Forks on every store, with real processes.
//!
//! `main` has no threads, so it may fork. Started without a role it is the director: it starts
//! itself again in a role for each case, hears what the processes say, and judges by the order in
//! which they say it. All of a case's processes write to one pipe, one line by one call.
//!
//! The director ends every process of a case by its id, also when the case fails.
#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "a failed one is a failed test"
)]

mod after;
mod before;
mod director;
mod midterm;
mod worker;

use std::process::ExitCode;

use worker::Stage;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match Stage::of(&arguments) {
        Some(stage) => {
            worker::play(&stage);
            ExitCode::SUCCESS
        }
        None => director::run_all(&arguments),
    }
}
