//! Graceful shutdown: the order at hand is finished, under the lock, and then the next instance
//! begins at once.
//!
//! On `shutdown` the term says "stop" to the work, and is kept up, heartbeat by heartbeat, until
//! the work has returned or the drain limit is over. Only then is the lock given back. So set the
//! drain limit below what the platform allows between its SIGTERM and its SIGKILL (30 s on
//! Kubernetes), and take no new order once told to stop.

use std::future::Future;
use std::time::Duration;

use tenure::{Cause, Election, FencingToken, Next, Term};

/// How long an order must be able to go on at least when it is begun.
const ORDER: Duration = Duration::from_secs(1);

/// Processes one order after the other while leading, until `shutdown`.
pub async fn run<P, F>(
    election: &Election,
    shutdown: impl Future<Output = ()>,
    process: P,
) -> anyhow::Result<()>
where
    P: Fn(FencingToken) -> F,
    F: Future<Output = anyhow::Result<()>>,
{
    let process = &process;
    election
        .run_until(shutdown, |term| while_leading(term, process))
        .await?;
    Ok(())
}

async fn while_leading<P, F>(term: Term, process: &P) -> anyhow::Result<Next>
where
    P: Fn(FencingToken) -> F,
    F: Future<Output = anyhow::Result<()>>,
{
    while !term.is_cancelled() {
        let Ok(permit) = term.permit(ORDER) else {
            break;
        };
        tokio::select! {
            done = process(permit.token) => done?,
            () = must_break_off(&term) => {
                tracing::warn!("an order is broken off: the next leader finds it unfinished");
                break;
            }
        }
    }
    Ok(Next::Campaign)
}

/// A shutdown leaves time to finish, as long as the term lasts; a lost lock does not.
async fn must_break_off(term: &Term) {
    term.cancelled().await;
    if term.cause() == Some(Cause::Shutdown) {
        term.lost().await;
    }
}
