//! Benchmarks of tenure; run them with `cargo bench -p tenure-benches`.
//!
//! - `guard`: what asking a term costs, beside a bare read of the boot clock.
//! - `idle`: what 10,000 elections cost that have nothing to do but their heartbeats.
//! - `takeover`: how long nobody leads after the leader was killed, with 300 real kills.
