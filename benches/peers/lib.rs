//! Benchmarks beside other crates; what they share is in `tenure-benches`.
