//! A benchmark beside other crates; what it shares with others is in `tenure-benches`.
