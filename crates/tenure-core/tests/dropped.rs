//! Metrics of a heartbeat thread when the recorder blocks: what is dropped, and what is right later.
#![cfg(feature = "metrics")]
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use tenure_core::{Election, HeartbeatThread, LockName, MemoryBackend, Policy};

/// How many terms: what they report is much more than waits.
const TERMS: usize = 500;

/// So long the test waits.
const PATIENCE: Duration = Duration::from_secs(60);

/// Blocks the thread that reports for the heartbeat thread, while it is shut.
#[derive(Clone, Default)]
struct Gate {
    shut: Arc<(Mutex<bool>, Condvar)>,
    gauges: Arc<Mutex<BTreeMap<String, Arc<AtomicU64>>>>,
}

impl Gate {
    fn set(&self, shut: bool) {
        *self.shut.0.lock().unwrap() = shut;
        self.shut.1.notify_all();
    }

    fn wait(&self) {
        if thread::current().name() == Some("tenure-telemetry") {
            let shut = self.shut.0.lock().unwrap();
            drop(self.shut.1.wait_while(shut, |shut| *shut).unwrap());
        }
    }

    fn has(&self, lock: &str, gauges: [(&str, f64); 2]) -> bool {
        let known = self.gauges.lock().unwrap();
        gauges.into_iter().all(|(name, value)| {
            let cell = known.get(&format!("{name} {lock}"));
            cell.is_some_and(|cell| cell.load(Ordering::Relaxed) == value.to_bits())
        })
    }

    async fn until(&self, lock: &str, gauges: [(&str, f64); 2]) {
        let start = Instant::now();
        while !self.has(lock, gauges) {
            assert!(start.elapsed() < PATIENCE, "{lock} never has {gauges:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

impl Recorder for Gate {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, _: &Key, _: &Metadata<'_>) -> Counter {
        self.wait();
        Counter::noop()
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        self.wait();
        let labels = key.labels().filter(|label| label.key() == "lock");
        let labels: Vec<&str> = labels.map(metrics::Label::value).collect();
        let name = format!("{} {}", key.name(), labels.concat());
        Gauge::from_arc(self.gauges.lock().unwrap().entry(name).or_default().clone())
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        self.wait();
        Histogram::noop()
    }
}

fn election(thread: &HeartbeatThread, lock: &str) -> Election {
    let backend = Arc::new(MemoryBackend::private());
    Election::builder(backend, LockName::new(lock).unwrap())
        .policy(Policy::fast())
        .spawn_on(thread.clone())
        .build()
        .unwrap()
}

fn leads(is_leader: bool) -> [(&'static str, f64); 2] {
    let value = f64::from(u8::from(is_leader));
    [("tenure_is_leader", value), ("tenure_is_candidate", value)]
}

#[tokio::test(flavor = "current_thread")]
async fn gauges_are_right_after_reports_were_dropped() {
    let gate = Gate::default();
    metrics::set_global_recorder(gate.clone()).unwrap();
    let thread = HeartbeatThread::start().unwrap();
    let past = election(&thread, "past");
    let term = past.campaign().await.unwrap();
    gate.until("past", leads(true)).await;

    gate.set(true);
    let flood = election(&thread, "flood");
    for _ in 0..TERMS {
        flood.campaign().await.unwrap().resign().await.unwrap();
    }
    term.resign().await.unwrap();
    past.settled().await;
    let present = election(&thread, "present");
    let _term = present.campaign().await.unwrap();
    gate.set(false);

    gate.until("past", leads(false)).await;
    gate.until("present", leads(true)).await;
    gate.until("flood", leads(false)).await;
}
