//! Campaign, do some guarded work, give the term back.
#![allow(missing_docs, reason = "an example has no callers")]

use std::time::Duration;

use tenure::{Election, LockName};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let url = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "memory:".to_owned());
    let backend = tenure::connect(&url).await?;
    let election = Election::builder(backend, LockName::new("example.elect")?).build()?;

    println!("{} campaigns on {url}", election.identity());
    let leadership = election.campaign().await?;
    println!("elected, fencing token {}", leadership.token());

    for step in 1..=3 {
        // Ask beside each side effect, for as long as the effect can take at most.
        let permit = leadership.permit(Duration::from_secs(2))?;
        write_somewhere(step, permit.token.as_u64()).await;
    }

    leadership.resign().await?;
    println!("gave the term back: the next candidate leads now");
    Ok(())
}

/// Stands for a write to a resource that refuses tokens smaller than the largest it has seen.
async fn write_somewhere(step: u32, token: u64) {
    tokio::time::sleep(Duration::from_millis(200)).await;
    println!("step {step} written under token {token}");
}
