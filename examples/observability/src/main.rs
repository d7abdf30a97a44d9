//! A candidate whose metrics Prometheus scrapes.
//!
//! ```sh
//! METRICS=127.0.0.1:9464 TENURE_BACKEND=file:///tmp/observed TENURE_LOCK=job cargo run -p tenure-example-observability
//! ```
//!
//! With `LEADS_WHILE=FILE` its health probe says yes only while that file exists.

use std::path::PathBuf;

use anyhow::Context as _;
use tenure::Next;
use tenure_example_observability::{recorder, serve_metrics};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt()
        .with_env_filter("tenure_core=info")
        .init();
    let recorder = recorder();
    let page = recorder.handle();
    // Before an election is built, or its metrics begin with its first campaign.
    metrics::set_global_recorder(recorder)?;
    let address = std::env::var("METRICS").context("METRICS is not set; set it to HOST:PORT")?;
    let listener = TcpListener::bind(&address).await;
    let listener = listener.with_context(|| format!("METRICS={address}: cannot listen there"))?;
    tokio::spawn(serve_metrics(listener, page));

    let mut builder = tenure::from_env()?.builder().await?;
    if let Some(file) = std::env::var_os("LEADS_WHILE") {
        let file = PathBuf::from(file);
        builder = builder.health(move || file.exists());
    }
    let election = builder.build()?;
    let mut terminate = signal(SignalKind::terminate())?;
    let told_to_stop = async move {
        terminate.recv().await;
    };
    election
        .run_until(told_to_stop, |term| async move {
            term.cancelled().await;
            anyhow::Ok(Next::Campaign)
        })
        .await?;
    Ok(())
}
