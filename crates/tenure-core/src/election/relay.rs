//! What a heartbeat thread tells and asks, where it must not wait for who is told or asked: a
//! subscriber, a recorder or a health probe that blocks would cost the lease.
//!
//! The thread hands it to another one. On every other thread all is done at once, as before.

use std::cell::RefCell;
use std::io;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread;

/// How many calls wait; what comes beyond is dropped and counted.
const WAITING: usize = 1024;

type Telling = Box<dyn FnOnce() + Send>;

thread_local! {
    static RELAY: RefCell<Option<Relay>> = const { RefCell::new(None) };
}

/// Hands calls to a thread of its own, which ends with the last clone.
#[derive(Clone)]
pub(super) struct Relay {
    calls: SyncSender<Telling>,
    /// How many were dropped and not told of yet.
    dropped: Arc<AtomicU64>,
}

impl Relay {
    /// Starts its thread.
    pub(super) fn start() -> io::Result<Self> {
        let (calls, received) = sync_channel(WAITING);
        let dropped = Arc::new(AtomicU64::new(0));
        let counter = dropped.clone();
        let thread = thread::Builder::new().name("tenure-telemetry".to_owned());
        thread.spawn(move || call_all(&received, &counter))?;
        Ok(Self { calls, dropped })
    }

    /// From now on what this thread tells is told by the relay's.
    pub(super) fn use_on_this_thread(self) {
        RELAY.set(Some(self));
    }

    /// What could not be handed over.
    fn hand_over(&self, telling: Telling) -> Option<Telling> {
        match self.calls.try_send(telling) {
            Ok(()) => None,
            Err(TrySendError::Full(telling) | TrySendError::Disconnected(telling)) => {
                self.dropped.fetch_add(1, Ordering::Relaxed);
                Some(telling)
            }
        }
    }
}

fn call_all(received: &Receiver<Telling>, dropped: &AtomicU64) {
    for telling in received {
        let missing = dropped.swap(0, Ordering::Relaxed);
        // A subscriber that panics has told of it; the next call may fare better.
        let _panicked = catch_unwind(AssertUnwindSafe(|| {
            if missing > 0 {
                tracing::warn!(
                    target: "tenure_core::telemetry",
                    missing,
                    "log lines and metrics were dropped: the subscriber or the recorder blocks"
                );
            }
            telling();
        }));
    }
}

/// Whether this thread hands over what it tells.
pub(super) fn is_used() -> bool {
    // A task can be dropped so late in a thread's end that nothing is left of its relay.
    RELAY
        .try_with(|relay| relay.borrow().is_some())
        .unwrap_or(false)
}

/// Hands over a call, on a thread that [does so](is_used).
pub(super) fn hand_over(telling: impl FnOnce() + Send + 'static) {
    RELAY.with_borrow(|relay| {
        if let Some(relay) = relay {
            drop(relay.hand_over(Box::new(telling)));
        }
    });
}

/// The same for a call that holds a span. Where there is no room it is not dropped: the span's end
/// would tell the subscriber that blocks. At most as many as wait are left like that.
pub(super) fn hand_over_span(telling: impl FnOnce() + Send + 'static) {
    RELAY.with_borrow(|relay| {
        if let Some(relay) = relay {
            mem::forget(relay.hand_over(Box::new(telling)));
        }
    });
}
