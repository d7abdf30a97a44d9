//! How late a task of this process wakes up: what a process is measured by that was starved.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::{Instant, sleep};

/// How often the task wakes up.
const PERIOD: Duration = Duration::from_millis(20);

/// The longest delay since it was asked for.
#[derive(Clone, Debug)]
pub(crate) struct Late(Arc<AtomicU64>);

impl Late {
    /// Starts the task on this runtime.
    pub(crate) fn watch() -> Self {
        let longest = Arc::new(AtomicU64::new(0));
        let own = Self(longest.clone());
        tokio::spawn(async move {
            loop {
                let due = Instant::now() + PERIOD;
                sleep(PERIOD).await;
                let late = u64::try_from(due.elapsed().as_millis()).unwrap_or(u64::MAX);
                longest.fetch_max(late, Ordering::Relaxed);
            }
        });
        own
    }

    /// The longest delay since the last call, in milliseconds.
    pub(crate) fn take(&self) -> u64 {
        self.0.swap(0, Ordering::Relaxed)
    }
}
