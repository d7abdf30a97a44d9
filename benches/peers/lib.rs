//! What the benchmarks beside other crates share.
//!
//! All calls of a table are made in turns in one run, so a machine that is busy is busy for all.

#![allow(missing_docs, reason = "for the benchmarks of this package")]

#[path = "../record.rs"]
pub mod record;

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How often each call is measured; `TENURE_BENCH_ROUNDS`, by default 500.
pub fn rounds() -> u64 {
    let rounds = std::env::var("TENURE_BENCH_ROUNDS").ok();
    rounds.and_then(|text| text.parse().ok()).unwrap_or(500)
}

/// The same for what is over in milliseconds: a short run too has enough of them for a median.
pub fn quick_rounds() -> u64 {
    rounds().max(100)
}

static TABLE: Mutex<String> = Mutex::new(String::new());

/// Begins a table: what is printed from here on belongs to it.
pub fn table(title: &str) {
    println!("{title}");
    title.clone_into(&mut TABLE.lock().unwrap_or_else(PoisonError::into_inner));
}

/// The durations of one kind of call.
pub struct Series {
    name: &'static str,
    taken: Vec<Duration>,
}

impl Series {
    pub fn new(name: &'static str) -> Self {
        let taken = Vec::new();
        Self { name, taken }
    }

    pub async fn time<T>(&mut self, call: impl Future<Output = T>) -> T {
        let start = Instant::now();
        let value = call.await;
        self.taken.push(start.elapsed());
        value
    }

    pub fn add(&mut self, taken: Duration) {
        self.taken.push(taken);
    }

    pub fn is_empty(&self) -> bool {
        self.taken.is_empty()
    }

    fn at(&self, percent: usize) -> Duration {
        let mut sorted = self.taken.clone();
        sorted.sort_unstable();
        sorted[(sorted.len() - 1) * percent / 100]
    }

    /// One line; with what it is beside this floor. It goes to the report too.
    pub fn print(&self, beside: Option<&Self>) {
        let table = TABLE.lock().unwrap_or_else(PoisonError::into_inner).clone();
        record::series(
            &table,
            self.name,
            beside.map(|floor| floor.name),
            &self.taken,
        );
        let (early, median, late) = (self.at(10), self.at(50), self.at(99));
        let ratio = beside.map_or(String::new(), |floor| {
            let ratio = median.as_secs_f64() / floor.at(50).as_secs_f64();
            format!("  {ratio:.2} x")
        });
        println!(
            "  {:<58} p10 {early:>9.1?}  median {median:>9.1?}  p99 {late:>9.1?}{ratio}",
            self.name
        );
    }
}
