//! Tests across stores, and the simulator.

pub mod sim;
