//! How a service shows its election to Prometheus and to OpenTelemetry.

use std::time::Duration;

use anyhow::Context as _;
use axum::Router;
use axum::routing::get;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tokio::net::TcpListener;
use tracing::Subscriber;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::registry::LookupSpan;

/// How often what histograms have recorded is put together.
const UPKEEP: Duration = Duration::from_secs(5);

/// The recorder, for `metrics::set_global_recorder`: install it before an election is built.
pub fn recorder() -> PrometheusRecorder {
    PrometheusBuilder::new().build_recorder()
}

/// Answers `GET /metrics` until the service ends.
pub async fn serve_metrics(listener: TcpListener, metrics: PrometheusHandle) -> anyhow::Result<()> {
    let page = metrics.clone();
    let routes = Router::new().route("/metrics", get(async move || page.render()));
    let upkeep = async {
        loop {
            tokio::time::sleep(UPKEEP).await;
            metrics.run_upkeep();
        }
    };
    tokio::select! {
        served = axum::serve(listener, routes) => served.context("cannot serve the metrics"),
        () = upkeep => Ok(()),
    }
}

/// Exports spans: of an election the short ones alone. Its log lines and its long spans, `campaign`
/// and `term`, stay with the log: an exporter would keep a term's span until the term ends.
pub fn traces<S>(provider: &SdkTracerProvider) -> impl Layer<S> + use<S>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
{
    let exported = Targets::new()
        .with_default(LevelFilter::INFO)
        .with_target("tenure_core::trace", LevelFilter::DEBUG)
        .with_target("tenure_core::telemetry", LevelFilter::OFF);
    tracing_opentelemetry::layer()
        .with_tracer(provider.tracer("tenure"))
        .with_filter(exported)
}
