//! Waiting for a condition, and never for a time.

use std::thread;
use std::time::{Duration, Instant};

/// How long anything may take before the test has failed.
pub const LIMIT: Duration = Duration::from_secs(120);

const PAUSE: Duration = Duration::from_millis(5);

/// Waits until a condition holds.
pub async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !holds().await {
        assert!(start.elapsed() < LIMIT, "waited in vain until {what}");
        tokio::time::sleep(PAUSE).await;
    }
}

/// The same for what needs no await; its future can be sent to another thread.
pub async fn until_seen(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < LIMIT, "waited in vain until {what}");
        tokio::time::sleep(PAUSE).await;
    }
}

/// The same on this thread, without a runtime.
pub fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < LIMIT, "waited in vain until {what}");
        thread::sleep(PAUSE);
    }
}

/// Waits for a future, for as long as anything may take.
pub async fn within_limit<T>(what: &str, future: impl Future<Output = T>) -> T {
    let outcome = tokio::time::timeout(LIMIT, future).await;
    outcome.unwrap_or_else(|_| panic!("waited in vain for {what}"))
}
