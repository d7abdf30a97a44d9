//! Work that runs while leading.

use std::future::Future;
use std::pin::pin;

use tracing::Instrument as _;

use crate::contract::error::Error;
use crate::election::leadership::Leadership;
use crate::election::machine::Cause;
use crate::election::term::Term;
use crate::election::{Election, telemetry};

/// What comes after the work has returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Next {
    /// Campaign again.
    Campaign,
    /// Leave the election.
    Stop,
}

/// Why [`Election::run_until`] ended with an error.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError<E> {
    /// The election cannot work: see [`Election::campaign`].
    #[error(transparent)]
    Election(Error),
    /// The work returned this error.
    #[error("the work failed: {0}")]
    Work(E),
}

impl Election {
    /// Campaigns, runs `work` while leading, gives the term back when it has returned, and goes
    /// on as the work says, until `shutdown` completes.
    ///
    /// - The work gets the [`Term`]. It must stop when [`Term::cancelled`] says so: that is early
    ///   enough for the policy's stop grace to fit before the validity ends. Work that is one
    ///   future can be wrapped in [`Term::until_cancelled`].
    /// - The term is given back only after the work has returned, however long that takes. Work
    ///   that overruns its term is reported as [`Event::Overrun`](crate::Event::Overrun).
    /// - On `shutdown` the work is told to stop and awaited, and the term is kept up meanwhile,
    ///   for at most the election's drain limit; then this returns `Ok`.
    /// - After work that returned by itself, or a wish that the leader resign, the others get a
    ///   retry interval's head start before this candidate campaigns again.
    /// - A panic of the work gives the term back and goes on to the caller.
    ///
    /// Dropping the future drops the work and then gives the term back, in the background. No
    /// signal handlers are installed: pass a `shutdown` that waits for your signals.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use tenure_core::{Election, LockName, MemoryBackend, Next};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let backend = Arc::new(MemoryBackend::private());
    /// # let election = Election::builder(backend, LockName::new("batch")?).build()?;
    /// let shutdown = std::future::pending(); // tokio::signal::ctrl_c() in a service
    /// election
    ///     .run_until(shutdown, |term| async move {
    ///         println!("leading with token {}", term.token());
    ///         Ok::<_, std::io::Error>(Next::Stop)
    ///     })
    ///     .await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn run_until<S, W, F, E>(&self, shutdown: S, mut work: W) -> Result<(), RunError<E>>
    where
        S: Future<Output = ()>,
        W: FnMut(Term) -> F,
        F: Future<Output = Result<Next, E>>,
    {
        let mut shutdown = pin!(shutdown);
        loop {
            let leadership = tokio::select! {
                biased;
                () = &mut shutdown => break,
                elected = self.campaign() => elected.map_err(RunError::Election)?,
            };
            let term = leadership.term();
            let span = telemetry::term(term.lock(), term.token());
            let working = span
                .in_scope(|| work(term.clone()))
                .instrument(span.clone());
            let (outcome, stopping) = lead(&leadership, working, shutdown.as_mut()).await;
            let told_to_stop = term.cause().is_some();
            if let Err(error) = leadership.resign().await {
                // Logged by the engine too; the lease ends by itself, so the work's outcome counts.
                tracing::debug!(lock = %self.lock(), error = ?error.to_string(), "not released");
            }
            let next = outcome.map_err(RunError::Work)?;
            if stopping || next == Next::Stop {
                return Ok(());
            }
            if !told_to_stop {
                tokio::select! {
                    biased;
                    () = &mut shutdown => return Ok(()),
                    () = self.pause() => {}
                }
            }
        }
        // The campaign was dropped: what it may have left in the store goes before we do.
        self.settled().await;
        Ok(())
    }
}

/// Runs the work to its end; says whether the service is shutting down.
async fn lead<F, E>(
    leadership: &Leadership,
    work: F,
    mut shutdown: std::pin::Pin<&mut impl Future<Output = ()>>,
) -> (Result<Next, E>, bool)
where
    F: Future<Output = Result<Next, E>>,
{
    let mut work = pin!(work);
    tokio::select! {
        biased;
        outcome = &mut work => (outcome, false),
        () = &mut shutdown => {
            leadership.stop(Cause::Shutdown);
            (work.await, true)
        }
    }
}
