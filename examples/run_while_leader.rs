//! A service of which every instance runs this, and one at a time works. Stop it with Ctrl-C.
#![allow(missing_docs, reason = "an example has no callers")]

use std::time::Duration;

use tenure::{Election, LockName, Next, NotLeading, Policy, Term};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    // The engine tells in the log why leadership changes.
    tracing_subscriber::fmt()
        .with_env_filter("tenure_core=info")
        .init();

    let url = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "memory:".to_owned());
    let backend = tenure::connect(&url).await?;
    let election = Election::builder(backend, LockName::new("example.run")?)
        .policy(Policy::fast())
        .build()?;

    let ctrl_c = async {
        if let Err(error) = tokio::signal::ctrl_c().await {
            eprintln!("cannot wait for Ctrl-C, so stopping: {error}");
        }
    };
    election.run_until(ctrl_c, work).await?;
    println!("stopped, and gave the term back");
    Ok(())
}

/// Runs while this instance leads, and returns soon after it is told to stop.
async fn work(term: Term) -> anyhow::Result<Next> {
    let mut round = 0;
    loop {
        round += 1;
        match term.until_cancelled(refresh_cache(round)).await {
            Ok(()) => println!("round {round} under token {}", term.token()),
            // Not an error of the work: somebody else will lead, or nobody for a while.
            Err(NotLeading::Over { cause, .. }) => {
                println!("told to stop: {}", cause.describe());
                return Ok(Next::Campaign);
            }
            Err(other) => return Err(other.into()),
        }
    }
}

async fn refresh_cache(_round: u32) {
    tokio::time::sleep(Duration::from_secs(1)).await;
}
