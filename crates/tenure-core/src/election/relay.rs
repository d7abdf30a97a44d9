//! What a heartbeat thread tells and asks, where it must not wait for who is told or asked: a
//! subscriber, a recorder or a health probe that blocks would cost the lease.
//!
//! The thread hands it to another one. On every other thread all is done at once, as before.

use std::cell::RefCell;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, OnceLock};
use std::thread;

use tracing::Span;

/// How many calls wait; what comes beyond is dropped and counted.
const WAITING: usize = 1024;

/// How many spans are open; one that comes beyond does not begin, and is counted. So the end of
/// each that has begun can wait beside the calls, and is never dropped.
const OPEN: usize = 1024;

type Telling = Box<dyn FnOnce() + Send>;

thread_local! {
    static RELAY: RefCell<Option<Relay>> = const { RefCell::new(None) };
}

/// Hands calls to a thread of its own, which ends with the last clone.
#[derive(Clone)]
pub(super) struct Relay {
    calls: Sender<Telling>,
    load: Arc<Load>,
}

#[derive(Default)]
struct Load {
    waiting: Arc<AtomicUsize>,
    open: Arc<AtomicUsize>,
    /// How many were dropped and not told of yet.
    dropped: AtomicU64,
}

/// Room for one call or span, until this is dropped.
struct Room(Arc<AtomicUsize>);

impl Room {
    fn take(taken: &Arc<AtomicUsize>, limit: usize) -> Option<Self> {
        let one_more = |taken: usize| (taken < limit).then_some(taken + 1);
        let there_is = taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more);
        there_is.is_ok().then(|| Self(taken.clone()))
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Relay {
    /// Starts its thread.
    pub(super) fn start() -> io::Result<Self> {
        let (calls, received) = channel();
        let load = Arc::<Load>::default();
        let counter = load.clone();
        let thread = thread::Builder::new().name("tenure-telemetry".to_owned());
        thread.spawn(move || call_all(&received, &counter))?;
        Ok(Self { calls, load })
    }

    /// From now on what this thread tells is told by the relay's.
    pub(super) fn use_on_this_thread(self) {
        RELAY.set(Some(self));
    }

    fn hand_over(&self, telling: impl FnOnce() + Send + 'static) {
        let Some(room) = Room::take(&self.load.waiting, WAITING) else {
            return self.count_dropped();
        };
        self.send(Box::new(move || {
            let _until_told = room;
            telling();
        }));
    }

    fn open(&self, begin: impl FnOnce() -> Span + Send + 'static) -> Option<OpenSpan> {
        let Some(room) = Room::take(&self.load.open, OPEN) else {
            self.count_dropped();
            return None;
        };
        let span = Arc::new(OnceLock::new());
        let cell = span.clone();
        self.send(Box::new(move || {
            // It is set once.
            let _first = cell.set(begin());
        }));
        Some(OpenSpan {
            relay: self.clone(),
            span,
            room,
        })
    }

    /// Its thread receives as long as there is a relay.
    fn send(&self, telling: Telling) {
        let _received = self.calls.send(telling);
    }

    fn count_dropped(&self) {
        self.load.dropped.fetch_add(1, Ordering::Relaxed);
    }
}

/// A span that the relay's thread begins and ends.
pub(super) struct OpenSpan {
    relay: Relay,
    span: Arc<OnceLock<Span>>,
    room: Room,
}

impl OpenSpan {
    /// Ends it, after a last look.
    pub(super) fn end(self, look: impl FnOnce(&Span) + Send + 'static) {
        let Self { relay, span, room } = self;
        relay.send(Box::new(move || {
            let _until_told = room;
            if let Some(span) = span.get() {
                look(span);
            }
            drop(span);
        }));
    }
}

fn call_all(received: &Receiver<Telling>, load: &Load) {
    for telling in received {
        let missing = load.dropped.swap(0, Ordering::Relaxed);
        // A subscriber that panics has told of it; the next call may fare better.
        let _panicked = catch_unwind(AssertUnwindSafe(|| {
            if missing > 0 {
                tracing::warn!(
                    target: "tenure_core::telemetry",
                    missing,
                    "dropped log lines, spans and counts: the log subscriber or the metrics \
                     recorder is too slow"
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
            relay.hand_over(telling);
        }
    });
}

/// The same for one of few calls, which is never dropped: the caller sees to it that only so many
/// wait at a time.
pub(super) fn hand_over_surely(telling: impl FnOnce() + Send + 'static) {
    RELAY.with_borrow(|relay| {
        if let Some(relay) = relay {
            relay.send(Box::new(telling));
        }
    });
}

/// Begins a span, on a thread that [hands over](is_used); none where too many are open.
pub(super) fn open(begin: impl FnOnce() -> Span + Send + 'static) -> Option<OpenSpan> {
    RELAY.with_borrow(|relay| relay.as_ref().and_then(|relay| relay.open(begin)))
}
