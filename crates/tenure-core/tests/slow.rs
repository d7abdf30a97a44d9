//! A subscriber that is slower than a heartbeat thread: what it misses, and what it does not.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use tenure_core::{Election, HeartbeatThread, LockName, MemoryBackend, Policy};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber, span};

/// How many terms: their lines and spans, without one a term, are many more than wait.
const TERMS: usize = 2_000;

/// The thread that calls the subscriber. On others it is never slow.
const THREAD: &str = "tenure-telemetry";

/// So long the test waits.
const PATIENCE: Duration = Duration::from_secs(60);

/// Counts the spans of calls. While it is slow it takes one call for each term.
#[derive(Clone, Default)]
struct Slow {
    pace: Arc<Pace>,
    begun: Arc<AtomicU64>,
    ended: Arc<AtomicU64>,
    /// How much it was told that it missed.
    missing: Arc<AtomicU64>,
    /// The term of the last lock was given back: all that was handed over before was told.
    last: Arc<AtomicBool>,
}

/// How many calls it takes, if it is slow.
#[derive(Default)]
struct Pace {
    left: Mutex<Option<u64>>,
    more: Condvar,
}

impl Pace {
    fn set(&self, left: Option<u64>) {
        *self.left.lock().unwrap() = left;
        self.more.notify_all();
    }

    fn one_more(&self) {
        if let Some(left) = &mut *self.left.lock().unwrap() {
            *left += 1;
        }
        self.more.notify_all();
    }

    fn take(&self) {
        let left = self.left.lock().unwrap();
        let none_left = |left: &mut Option<u64>| *left == Some(0);
        let mut left = self.more.wait_while(left, none_left).unwrap();
        *left = left.map(|left| left - 1);
    }
}

impl Slow {
    fn wait(&self) {
        if thread::current().name() == Some(THREAD) {
            self.pace.take();
        }
    }

    fn open(&self) -> u64 {
        let ended = self.ended.load(Ordering::Acquire);
        self.begun.load(Ordering::Acquire) - ended
    }
}

/// The fields of a line, as they are logged.
#[derive(Default)]
struct Line(BTreeMap<&'static str, String>);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.insert(field.name(), format!("{value:?}"));
    }
}

impl Line {
    fn is(&self, field: &str, value: &str) -> bool {
        self.0.get(field).is_some_and(|found| found == value)
    }
}

impl Subscriber for Slow {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        let target = metadata.target();
        target == "tenure_core::trace" || target == "tenure_core::telemetry" && metadata.is_event()
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        self.wait();
        self.begun.fetch_add(1, Ordering::AcqRel);
        span::Id::from_u64(1)
    }

    fn event(&self, event: &Event<'_>) {
        self.wait();
        let mut line = Line::default();
        event.record(&mut line);
        if let Some(missing) = line.0.get("missing") {
            self.missing
                .fetch_add(missing.parse().unwrap(), Ordering::Relaxed);
        }
        if line.is("message", "released") && line.is("lock", "\"last\"") {
            self.last.store(true, Ordering::Release);
        }
    }

    fn try_close(&self, _: span::Id) -> bool {
        self.wait();
        self.ended.fetch_add(1, Ordering::AcqRel);
        true
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

fn election(thread: &HeartbeatThread, lock: &str) -> Election {
    let backend = Arc::new(MemoryBackend::private());
    Election::builder(backend, LockName::new(lock).unwrap())
        .policy(Policy::fast())
        .spawn_on(thread.clone())
        .build()
        .unwrap()
}

#[tokio::test(flavor = "current_thread")]
async fn each_span_that_begins_ends_however_slow_the_subscriber_is() {
    let slow = Slow::default();
    tracing::subscriber::set_global_default(slow.clone()).unwrap();
    let thread = HeartbeatThread::start().unwrap();
    let flood = election(&thread, "job");
    slow.pace.set(Some(0));
    for _ in 0..TERMS {
        flood.campaign().await.unwrap().resign().await.unwrap();
        slow.pace.one_more();
    }
    slow.pace.set(None);
    // Until there is room for its lines.
    let last = election(&thread, "last");
    let start = Instant::now();
    while !slow.last.load(Ordering::Acquire) {
        last.campaign().await.unwrap().resign().await.unwrap();
        assert!(start.elapsed() < PATIENCE, "the last line is not told");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let missing = slow.missing.load(Ordering::Relaxed);
    assert!(missing > 0, "nothing was dropped");
    // The end of a call comes after its line.
    while slow.open() > 0 {
        assert!(start.elapsed() < PATIENCE, "{} spans are open", slow.open());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
