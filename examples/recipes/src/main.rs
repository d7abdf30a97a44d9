//! Runs one of the recipes as a service; see the library.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tenure_recipes::{cron, drain, web};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    // The engine tells in the log why leadership changes.
    tracing_subscriber::fmt()
        .with_env_filter("tenure_core=info,tenure_recipes=info")
        .init();
    let recipe = std::env::args().nth(1).unwrap_or_default();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let told_to_stop = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    let settings = tenure::from_env()?;
    match recipe.as_str() {
        "web" => {
            let listener = TcpListener::bind("127.0.0.1:0").await?;
            let address = format!("http://{}", listener.local_addr()?);
            println!("{address}/leader");
            let election = settings.builder().await?.value(address.parse()?).build()?;
            web::serve(listener, election, told_to_stop).await
        }
        "cron" => {
            let file = std::env::var_os("LEDGER")
                .context("LEDGER is not set; set it to a file that all instances share")?;
            let ledger = cron::Ledger::open(Path::new(&file))?;
            let election = settings.election().await?;
            let minute = Duration::from_secs(60);
            cron::run(&election, ledger, minute, told_to_stop, |run| async move {
                println!("run {run}");
                Ok(())
            })
            .await
        }
        "drain" => {
            let election = settings.builder().await?;
            let election = election.drain_limit(Duration::from_secs(20)).build()?;
            drain::run(&election, told_to_stop, |token| async move {
                tokio::time::sleep(Duration::from_secs(5)).await;
                println!("an order is done under token {token}");
                Ok(())
            })
            .await
        }
        other => bail!("{other:?} is no recipe to run; use web, cron or drain"),
    }
}
