//! A heartbeat thread waits for nobody who is told what it does.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tenure_core::{
    Election, HeartbeatThread, Identity, Leadership, LockName, MemoryBackend, Policy,
};
use tracing::{Event, Subscriber, span};

/// Longer than a lease of the policy here.
const BLOCKED: Duration = Duration::from_secs(4);

/// Its reader has stalled, and it writes a line for whatever becomes of a span.
struct Blocking;

/// The application may be blocked by its own subscriber; threads of ours are watched here.
fn block() {
    if thread::current()
        .name()
        .is_some_and(|name| name.starts_with("tenure-"))
    {
        thread::sleep(BLOCKED);
    }
}

impl Subscriber for Blocking {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        block();
        span::Id::from_u64(1)
    }

    fn event(&self, _: &Event<'_>) {
        block();
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {
        block();
    }

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {
        block();
    }

    fn enter(&self, _: &span::Id) {
        block();
    }

    fn exit(&self, _: &span::Id) {
        block();
    }

    fn clone_span(&self, id: &span::Id) -> span::Id {
        block();
        id.clone()
    }

    fn try_close(&self, _: span::Id) -> bool {
        block();
        true
    }
}

fn election(backend: &Arc<MemoryBackend>, name: &str, probe: Option<Arc<AtomicBool>>) -> Election {
    let builder = Election::builder(backend.clone(), LockName::new("job").unwrap())
        .identity(Identity::new(name).unwrap())
        .policy(Policy::fast())
        .spawn_on(HeartbeatThread::start().unwrap());
    let builder = match probe {
        Some(blocks) => builder.health(move || {
            while blocks.load(Ordering::Relaxed) {
                thread::sleep(Duration::from_millis(10));
            }
            true
        }),
        None => builder,
    };
    builder.build().unwrap()
}

/// For longer than a lease; then it is handed over, and given up in time.
async fn assert_goes_on(leadership: Leadership, rival: Election) {
    let mut campaign = std::pin::pin!(rival.campaign());
    assert!(futures_util::poll!(campaign.as_mut()).is_pending());
    let start = Instant::now();
    while start.elapsed() < BLOCKED {
        thread::sleep(Duration::from_millis(100));
    }
    assert!(leadership.is_valid(), "its heartbeats went on");
    let token = leadership.token();
    leadership.resign().await.unwrap();
    assert!(campaign.await.unwrap().token() > token);
}

#[tokio::test(flavor = "current_thread")]
async fn a_subscriber_that_blocks_costs_no_lease() {
    tracing::subscriber::set_global_default(Blocking).unwrap();
    let backend = Arc::new(MemoryBackend::private());
    let leadership = election(&backend, "leader", None).campaign().await.unwrap();
    assert_goes_on(leadership, election(&backend, "rival", None)).await;
}

#[tokio::test(flavor = "current_thread")]
async fn a_health_probe_that_blocks_costs_no_lease() {
    let blocks = Arc::new(AtomicBool::new(false));
    let backend = Arc::new(MemoryBackend::private());
    let leader = election(&backend, "leader", Some(blocks.clone()));
    let leadership = leader.campaign().await.unwrap();
    blocks.store(true, Ordering::Relaxed);
    assert_goes_on(leadership, election(&backend, "rival", None)).await;
    blocks.store(false, Ordering::Relaxed);
}

/// Blocks each call, once it is told to.
#[cfg(feature = "metrics")]
struct Recorder(Arc<AtomicBool>);

#[cfg(feature = "metrics")]
impl Recorder {
    fn block(&self) {
        while self.0.load(Ordering::Relaxed) {
            thread::sleep(Duration::from_millis(10));
        }
    }
}

#[cfg(feature = "metrics")]
impl metrics::Recorder for Recorder {
    fn describe_counter(
        &self,
        _: metrics::KeyName,
        _: Option<metrics::Unit>,
        _: metrics::SharedString,
    ) {
    }

    fn describe_gauge(
        &self,
        _: metrics::KeyName,
        _: Option<metrics::Unit>,
        _: metrics::SharedString,
    ) {
    }

    fn describe_histogram(
        &self,
        _: metrics::KeyName,
        _: Option<metrics::Unit>,
        _: metrics::SharedString,
    ) {
    }

    fn register_counter(&self, _: &metrics::Key, _: &metrics::Metadata<'_>) -> metrics::Counter {
        self.block();
        metrics::Counter::noop()
    }

    fn register_gauge(&self, _: &metrics::Key, _: &metrics::Metadata<'_>) -> metrics::Gauge {
        self.block();
        metrics::Gauge::noop()
    }

    fn register_histogram(
        &self,
        _: &metrics::Key,
        _: &metrics::Metadata<'_>,
    ) -> metrics::Histogram {
        self.block();
        metrics::Histogram::noop()
    }
}

#[cfg(feature = "metrics")]
#[tokio::test(flavor = "current_thread")]
async fn a_recorder_that_blocks_costs_no_lease() {
    let blocks = Arc::new(AtomicBool::new(false));
    metrics::set_global_recorder(Recorder(blocks.clone())).unwrap();
    let backend = Arc::new(MemoryBackend::private());
    let leader = election(&backend, "leader", None);
    let rival = election(&backend, "rival", None);
    let leadership = leader.campaign().await.unwrap();
    blocks.store(true, Ordering::Relaxed);
    assert_goes_on(leadership, rival).await;
    blocks.store(false, Ordering::Relaxed);
}
