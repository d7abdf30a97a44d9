//! A service of which one instance at a time works.
//!
//! Nothing here says what the instances elect their leader on: that is a feature of the package
//! and a URL in the environment.
//!
//! ```text
//! cargo build -p tenure-example-swap --no-default-features --features STORE
//! TENURE_BACKEND=URL TENURE_LOCK=swap target/debug/swap
//! ```

use std::convert::Infallible;
use std::time::Duration;

use tenure::{Next, Term};
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let election = tenure::from_env()?.election().await?;
    let mut terminate = signal(SignalKind::terminate())?;
    println!("campaigns");
    let told_to_stop = async move {
        terminate.recv().await;
    };
    election.run_until(told_to_stop, work).await?;
    println!("leaves");
    Ok(())
}

/// Stands for what only the leader may do: one step after the other, until its term is over.
async fn work(term: Term) -> Result<Next, Infallible> {
    println!("leads under token {}", term.token());
    let step = Duration::from_millis(100);
    while term.permit(step).is_ok() && !term.is_cancelled() {
        tokio::time::sleep(step).await;
    }
    println!("has stopped");
    Ok(Next::Campaign)
}
