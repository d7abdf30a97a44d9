//! Tests across stores, and the simulator.

pub mod mutants;
pub mod sim;
