//! What elections log and count is what `docs/reference/observability.md` says, no more and no less.
#![cfg(feature = "metrics")]
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use metrics::{
    Counter, Gauge, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder, SharedString, Unit,
};
use tenure_core::testing::TestBackend;
use tenure_core::{
    Election, ElectionState, Error, ErrorKind, LockBackend as _, LockName, Next, Operation, Policy,
    Spawn, Task,
};
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
        ["tenure_core::telemetry", "tenure_core::trace"].contains(&metadata.target())
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

    // The heartbeats stop, and the work does not. A candidate has left before.
    let leadership = alice.campaign().await.unwrap();
    let carol = election(&backend, "carol");
    let campaign = tokio::time::timeout(lease / 3, carol.campaign()).await;
    assert!(campaign.is_err());
    carol.settled().await;
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

/// What the series hold, by name and labels.
#[derive(Clone, Default)]
struct Values {
    series: Arc<Mutex<BTreeMap<String, Arc<AtomicU64>>>>,
    described: Arc<Mutex<BTreeSet<String>>>,
}

/// How many values a histogram has.
struct Count(Arc<AtomicU64>);

impl HistogramFn for Count {
    fn record(&self, _: f64) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl Values {
    fn cell(&self, key: &Key) -> Arc<AtomicU64> {
        let labels = key.labels().filter(|label| label.key() != "lock");
        let labels: Vec<&str> = labels.map(metrics::Label::value).collect();
        let name = [&[key.name()], &labels[..]].concat().join(" ");
        self.series.lock().unwrap().entry(name).or_default().clone()
    }

    fn counted(&self, name: &str) -> Option<u64> {
        let series = self.series.lock().unwrap();
        series.get(name).map(|cell| cell.load(Ordering::Relaxed))
    }

    fn gauge(&self, name: &str) -> Option<f64> {
        self.counted(name).map(f64::from_bits)
    }

    fn describe(&self, name: &KeyName) {
        let name = name.as_str().to_owned();
        self.described.lock().unwrap().insert(name);
    }
}

impl Recorder for Values {
    fn describe_counter(&self, name: KeyName, _: Option<Unit>, _: SharedString) {
        self.describe(&name);
    }

    fn describe_gauge(&self, name: KeyName, _: Option<Unit>, _: SharedString) {
        self.describe(&name);
    }

    fn describe_histogram(&self, name: KeyName, _: Option<Unit>, _: SharedString) {
        self.describe(&name);
    }

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(self.cell(key))
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(self.cell(key))
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::from_arc(Arc::new(Count(self.cell(key))))
    }
}

/// There is no place for an engine.
#[derive(Debug)]
struct Refuses;

impl Spawn for Refuses {
    fn spawn(&self, _: Task) -> Result<(), Error> {
        let (kind, operation) = (ErrorKind::Misconfigured, Operation::Campaign);
        Err(Error::new(kind, operation, "no runtime"))
    }
}

#[tokio::test(flavor = "current_thread")]
async fn a_campaign_that_fails_before_its_engine_runs_still_counts_as_a_candidate() {
    let values = Values::default();
    let _recorder = metrics::set_default_local_recorder(&values);
    let _subscriber = tracing::subscriber::set_default(Seen::default());
    let backend = Arc::new(TestBackend::new());
    let election = Election::builder(backend, LockName::new("job").unwrap())
        .spawn_on(Refuses)
        .build()
        .unwrap();
    assert!(election.campaign().await.is_err());
    assert_eq!(values.gauge("tenure_is_candidate"), Some(1.0));
}

const GAUGES: [&str; 3] = ["tenure_is_leader", "tenure_slack_seconds", "tenure_token"];

/// The recorder is in force at the building and in each poll of this future.
async fn series_from_the_building_to_the_end_of_a_term(values: Values) {
    let backend = TestBackend::new();
    let follower = election(&backend, "alice");
    let zero = || GAUGES.map(|name| values.gauge(name)) == [Some(0.0); 3];
    assert!(zero(), "a candidate that never led is counted");
    let causes = documented("Why has leadership changed?");
    assert!(causes.len() > 5, "{causes:?}");
    let causes = causes.iter().filter(|row| !row.contains(" in the log |"));
    let causes = causes.filter_map(|row| row.split('`').nth(3));
    for change in causes.chain(["elected"]) {
        let name = format!("tenure_transitions_total {change}");
        assert_eq!(values.counted(&name), Some(0), "{name}");
    }
    assert_eq!(values.counted("tenure_overruns_total"), Some(0));
    assert_eq!(values.counted("tenure_heartbeats_missed_total"), Some(0));
    let is_candidate = || values.gauge("tenure_is_candidate");
    assert_eq!(is_candidate(), Some(0.0), "it does not campaign yet");
    let store = format!("tenure_store {}", backend.capabilities().store);
    assert_eq!(values.gauge(&store), Some(1.0), "{store}");

    // What an operator has to change keeps it a candidate, for the alert that nobody leads.
    backend.fail_with(Some(ErrorKind::Forbidden));
    let failed = follower.campaign().await;
    assert!(failed.is_err());
    backend.fail_with(None);
    follower.settled().await;
    assert_eq!(is_candidate(), Some(1.0), "it wants to lead and cannot");

    let leadership = follower.campaign().await.unwrap();
    assert_eq!(is_candidate(), Some(1.0));
    assert_eq!(values.gauge("tenure_is_leader"), Some(1.0));
    let token = values.gauge("tenure_token");
    assert_eq!(
        token.map(|token| token.to_string()),
        Some(leadership.token().to_string())
    );
    assert!(
        values.gauge("tenure_slack_seconds") > Some(0.0),
        "before any heartbeat"
    );

    // A second candidate for the lock, in this process, says nothing of the first.
    drop(election(&backend, "bob"));
    assert_eq!(values.gauge("tenure_is_leader"), Some(1.0));

    sleep(Policy::fast().heartbeat() * 2).await;
    backend.freeze();
    leadership.cancelled().await;
    backend.thaw();
    leadership.resign().await.unwrap();
    assert!(zero(), "nothing of a term is left after its end");
    follower.settled().await;
    assert_eq!(is_candidate(), Some(0.0), "its election is stopped");
    assert!(values.counted("tenure_heartbeats_missed_total") > Some(0));
    assert_eq!(
        values.counted("tenure_transitions_total heartbeats_missed"),
        Some(1)
    );
    assert_eq!(values.counted("tenure_transitions_total resigned"), Some(0));
    for histogram in ["tenure_campaign_seconds", "tenure_term_seconds"] {
        assert_eq!(values.counted(histogram), Some(1), "{histogram}");
    }
    assert!(values.counted("tenure_heartbeat_seconds") > Some(0));

    // A runtime that ends in mid-term.
    let leadership = follower.campaign().await.unwrap();
    std::mem::forget(leadership);
}

#[test]
fn series_begin_with_the_election_and_gauges_end_with_the_term() {
    let values = Values::default();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    // Beside the other test, which needs each event and must not meet one that nobody wants.
    let subscriber = tracing::subscriber::set_default(Seen::default());
    metrics::with_local_recorder(&values, || {
        runtime.block_on(series_from_the_building_to_the_end_of_a_term(
            values.clone(),
        ));
        assert_eq!(values.gauge("tenure_is_leader"), Some(1.0));
        drop(runtime);
    });
    drop(subscriber);
    for gauge in GAUGES.into_iter().chain(["tenure_is_candidate"]) {
        assert_eq!(values.gauge(gauge), Some(0.0), "{gauge}");
    }
    let rows = documented("Metrics");
    let names = rows.iter().filter_map(|row| row.split('`').nth(1));
    let names: BTreeSet<String> = names.map(str::to_owned).collect();
    assert_eq!(
        *values.described.lock().unwrap(),
        names,
        "each metric has a help text"
    );
}
