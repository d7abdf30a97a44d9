//! Fuzz targets for everything that tenure reads from a store or from a person.
//!
//! `cargo xtask fuzz` runs them under libFuzzer; a test runs each on the files of its corpus. A target
//! fails by a panic: one of the code that it calls, or one of its own, when an answer breaks a rule.

pub mod parts;
pub mod plant;
pub mod target;

mod inputs;
mod rules;
mod targets;
