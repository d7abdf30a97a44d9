//! The recipe for OpenTelemetry, with an exporter in this process.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::future;
use std::sync::Arc;

use opentelemetry_sdk::trace::{InMemorySpanExporter, SdkTracerProvider};
use tenure::testing::TestBackend;
use tenure::{Election, LockName, Next, Policy};
use tenure_example_observability::traces;
use tracing_subscriber::layer::SubscriberExt as _;

/// Exported at once, while the term goes on.
#[tokio::test(start_paused = true)]
async fn heartbeats_are_exported_during_the_term_and_its_span_never() {
    let exporter = InMemorySpanExporter::default();
    let provider = SdkTracerProvider::builder()
        .with_simple_exporter(exporter.clone())
        .build();
    let names = || -> BTreeSet<String> {
        let spans = exporter.get_finished_spans().unwrap();
        spans
            .into_iter()
            .map(|span| span.name.into_owned())
            .collect()
    };
    let subscriber = tracing_subscriber::registry().with(traces(&provider));
    let _installed = tracing::subscriber::set_default(subscriber);

    let policy = Policy::fast();
    let backend = Arc::new(TestBackend::new());
    let election = Election::builder(backend, LockName::new("job").unwrap())
        .policy(policy.clone())
        .build()
        .unwrap();
    let work = async |_term| {
        tracing::info_span!("work").in_scope(|| tracing::info!("begins"));
        tokio::time::sleep(policy.heartbeat() * 3).await;
        assert_eq!(
            names(),
            ["acquire", "heartbeat", "work"].map(str::to_owned).into()
        );
        Ok::<_, Infallible>(Next::Stop)
    };
    election.run_until(future::pending(), work).await.unwrap();

    let all = ["acquire", "hand_over", "heartbeat", "work"];
    assert_eq!(names(), all.map(str::to_owned).into());
    for span in exporter.get_finished_spans().unwrap() {
        let of = |key: &str| {
            let found = span.attributes.iter().find(|one| one.key.as_str() == key);
            found.map(|one| one.value.to_string())
        };
        let outcome = match span.name.as_ref() {
            "acquire" => "held",
            "heartbeat" => "renewed",
            "hand_over" => "done",
            _ => continue,
        };
        assert_eq!(of("outcome").as_deref(), Some(outcome), "{span:?}");
        assert_eq!(of("lock").as_deref(), Some("job"), "{span:?}");
    }
}
