//! What elections log and count is what `docs/reference/observability.md` says, no more and no less.
#![cfg(feature = "metrics")]
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::collections::BTreeSet;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use tenure_core::testing::TestBackend;
use tenure_core::{Election, ElectionState, ErrorKind, LockName, Next, Policy};
use tokio::time::sleep;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber, span};

const PAGE: &str = include_str!("../../../docs/reference/observability.md");

/// The beginnings of rows of the page's tables.
#[derive(Clone, Default)]
struct Seen {
    events: Arc<Mutex<BTreeSet<String>>>,
    spans: Arc<Mutex<BTreeSet<String>>>,
    metrics: Arc<Mutex<BTreeSet<String>>>,
    changes: Arc<Mutex<BTreeSet<String>>>,
    last_span: Arc<AtomicU64>,
}

fn row(name: &str, kind: &str, fields: impl Iterator<Item = impl fmt::Display>) -> String {
    let fields: Vec<String> = fields.map(|field| format!("`{field}`")).collect();
    format!("| `{name}` | {kind} | {} |", fields.join(", "))
}

fn level(level: Level) -> String {
    level.as_str().to_lowercase()
}

struct Message(String);

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            self.0 = format!("{value:?}");
        }
    }
}

impl Subscriber for Seen {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.target() == "tenure_core::telemetry"
    }

    fn new_span(&self, attributes: &span::Attributes<'_>) -> span::Id {
        let metadata = attributes.metadata();
        let kind = level(*metadata.level());
        let span = row(metadata.name(), &kind, metadata.fields().iter());
        self.spans.lock().unwrap().insert(span);
        span::Id::from_u64(self.last_span.fetch_add(1, Ordering::Relaxed) + 1)
    }

    fn event(&self, event: &Event<'_>) {
        let mut message = Message(String::new());
        event.record(&mut message);
        let fields = event.metadata().fields().iter();
        let fields = fields.filter(|field| field.name() != "message");
        let event = row(&message.0, &level(*event.metadata().level()), fields);
        self.events.lock().unwrap().insert(event);
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

impl Seen {
    fn metric(&self, key: &Key, kind: &str) {
        let labels = key.labels().map(metrics::Label::key);
        let metric = row(key.name(), kind, labels);
        self.metrics.lock().unwrap().insert(metric);
        for label in key.labels().filter(|label| label.key() == "change") {
            let change = label.value().to_owned();
            self.changes.lock().unwrap().insert(change);
        }
    }
}

impl Recorder for Seen {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        self.metric(key, "counter");
        Counter::noop()
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        self.metric(key, "gauge");
        Gauge::noop()
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        self.metric(key, "histogram");
        Histogram::noop()
    }
}

/// The beginnings of the rows below a heading, as far as the column before the explanation.
fn documented(heading: &str) -> BTreeSet<String> {
    // A heading that is not there, or has no table, is a page that lies.
    let (_, rest) = PAGE.split_once(&format!("\n## {heading}\n")).unwrap();
    let section = rest.split("\n## ").next().unwrap();
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    let rows: BTreeSet<String> = rows
        .map(|row| {
            let columns: Vec<&str> = row.split(" | ").take(3).collect();
            format!("{} |", columns.join(" | ").trim_end_matches(" |"))
        })
        .collect();
    assert!(!rows.is_empty(), "{heading}");
    rows
}

fn election(backend: &TestBackend, name: &str) -> Election {
    Election::builder(Arc::new(backend.clone()), LockName::new("job").unwrap())
        .identity(name.parse().unwrap())
        .policy(Policy::fast())
        .build()
        .unwrap()
}

async fn until(election: &Election, what: impl Fn(&ElectionState) -> bool) {
    let mut state = election.state();
    state.wait_for(|state| what(state)).await.unwrap();
}

/// All that can happen, on paused time.
async fn everything() {
    let backend = TestBackend::new();
    let lease = Policy::fast().lease();
    let alice = election(&backend, "alice");
    let bob = election(&backend, "bob");

    // A heartbeat, and a term that is given back.
    let leadership = alice.campaign().await.unwrap();
    sleep(lease).await;
    leadership.resign().await.unwrap();

    // Another candidate looks on; the store fails both, also at the release.
    let leadership = alice.campaign().await.unwrap();
    let waiting = tokio::spawn(async move { bob.campaign().await.map(|_| ()) });
    sleep(lease).await;
    backend.fail_with(Some(ErrorKind::Unavailable));
    sleep(lease / 2).await;
    let _failed = leadership.resign().await;
    backend.fail_with(None);
    waiting.await.unwrap().unwrap();
    alice.settled().await;

    // The heartbeats stop, and the work does not.
    let leadership = alice.campaign().await.unwrap();
    backend.freeze();
    leadership.term().lost().await;
    sleep(lease).await;
    backend.thaw();
    drop(leadership);
    alice.settled().await;

    // The process is stopped for longer than a lease.
    let leadership = alice.campaign().await.unwrap();
    backend.jump(lease * 2);
    sleep(lease).await;
    drop(leadership);
    alice.settled().await;

    // The lock is deleted under its leader.
    let leadership = alice.campaign().await.unwrap();
    backend.lose(alice.lock());
    sleep(lease).await;
    drop(leadership);
    alice.settled().await;

    // A health probe says no.
    let lock = alice.lock().clone();
    let unwell = Election::builder(Arc::new(backend.clone()), lock)
        .policy(Policy::fast())
        .health(|| false)
        .build()
        .unwrap();
    let campaign = tokio::time::timeout(lease, unwell.campaign()).await;
    assert!(campaign.is_err());
    unwell.settled().await;

    // Work that is called, and a shutdown.
    let work = async |_term| Ok::<_, std::convert::Infallible>(Next::Stop);
    let ended = alice.run_until(std::future::pending(), work).await;
    ended.unwrap();
    let leads = until(&alice, |state| {
        matches!(state, ElectionState::Leader { .. })
    });
    let work = async |term: tenure_core::Term| {
        term.cancelled().await;
        Ok::<_, std::convert::Infallible>(Next::Stop)
    };
    let ended = alice.run_until(leads, work).await;
    ended.unwrap();
    sleep(Duration::from_secs(1)).await;
}

#[test]
fn what_is_logged_and_counted_is_what_the_page_says() {
    let seen = Seen::default();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    tracing::subscriber::with_default(seen.clone(), || {
        metrics::with_local_recorder(&seen, || runtime.block_on(everything()));
    });
    assert_eq!(*seen.events.lock().unwrap(), documented("Events"));
    assert_eq!(*seen.spans.lock().unwrap(), documented("Spans"));
    assert_eq!(*seen.metrics.lock().unwrap(), documented("Metrics"));
    for change in seen.changes.lock().unwrap().iter() {
        assert!(PAGE.contains(&format!("`{change}`")), "{change}");
    }
}
