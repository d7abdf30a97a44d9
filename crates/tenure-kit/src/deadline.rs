//! One deadline for a call, and what is left of it for each of its steps.

use std::time::Duration;

use tokio::time::Instant;

use crate::store_error::StoreError;

/// A call gets at least this, however short the lease: a slow machine is no dead store.
pub const LEAST: Duration = Duration::from_secs(1);

/// When a call has to be over. Each of its steps is bounded by what is left.
///
/// The engine drops a call after the policy's request timeout, which is shorter than the lease. The
/// deadline limits background work, and callers that use a backend without the engine.
#[derive(Clone, Copy, Debug)]
pub struct Deadline {
    at: Instant,
    of: Duration,
}

impl Deadline {
    /// The deadline of a call that takes or extends a lease: when that would have ended. A later
    /// answer proves nothing, because what it proves counts from when the request was sent. The
    /// lease is the policy's, which the engine passes to each call.
    pub fn for_lease(lease: Duration) -> Self {
        Self::after(lease.max(LEAST))
    }

    /// The deadline of a call that has no lease.
    pub fn after(limit: Duration) -> Self {
        Self {
            at: Instant::now() + limit,
            of: limit,
        }
    }

    /// What is left of it.
    pub fn left(&self) -> Duration {
        self.at.saturating_duration_since(Instant::now())
    }

    /// `limit`, or what is left if that is less.
    pub fn at_most(&self, limit: Duration) -> Duration {
        limit.min(self.left())
    }

    /// Runs one step of the call, for `limit` at most.
    ///
    /// Fails as the step does, or with [`Timeout`](tenure_core::ErrorKind::Timeout): the error
    /// names `what` did not answer and the `setting` to raise, or the whole call's limit when that
    /// has passed first. Dropping the future drops the step.
    pub async fn step<T, D>(
        &self,
        what: &str,
        limit: Duration,
        setting: &str,
        step: impl Future<Output = Result<T, StoreError<D>>>,
    ) -> Result<T, StoreError<D>> {
        if limit <= self.left() {
            return within(what, limit, setting, step).await;
        }
        within(what, self.left(), setting, step)
            .await
            .map_err(|error| self.explained(what, error))
    }

    /// Runs all that is left of the call.
    pub async fn rest<T, D>(
        &self,
        what: &str,
        rest: impl Future<Output = Result<T, StoreError<D>>>,
    ) -> Result<T, StoreError<D>> {
        tokio::time::timeout_at(self.at, rest)
            .await
            .unwrap_or_else(|_| Err(self.passed(what)))
    }

    fn passed<D>(&self, what: &str) -> StoreError<D> {
        StoreError::timeout(what, self.of, Some("the limit of the whole call"))
    }

    fn explained<D>(&self, what: &str, error: StoreError<D>) -> StoreError<D> {
        // The step's own error is not the deadline's.
        if self.left().is_zero() && error.kind == tenure_core::ErrorKind::Timeout {
            return self.passed(what);
        }
        error
    }
}

/// Runs one step for `limit` at most: as [`Deadline::step`], where there is no deadline.
pub async fn within<T, D>(
    what: &str,
    limit: Duration,
    setting: &str,
    step: impl Future<Output = Result<T, StoreError<D>>>,
) -> Result<T, StoreError<D>> {
    tokio::time::timeout(limit, step)
        .await
        .unwrap_or_else(|_| Err(StoreError::timeout(what, limit, Some(setting))))
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tenure_core::ErrorKind;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    type Answer = Result<(), StoreError>;

    #[tokio::test(start_paused = true)]
    async fn a_step_gets_its_own_limit_or_what_is_left() {
        let deadline = Deadline::for_lease(5 * SECOND);
        let step = |limit| deadline.step("a:6379", limit, "connect_timeout", pending::<Answer>());
        let error = step(2 * SECOND).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Timeout);
        assert!(error.needs_reconnect());
        let text = error.to_string();
        assert_eq!(text, "a:6379 did not answer within 2s (connect_timeout)");
        assert_eq!(deadline.left(), 3 * SECOND);
        assert_eq!(deadline.at_most(4 * SECOND), 3 * SECOND);
        let text = step(4 * SECOND).await.unwrap_err().to_string();
        assert_eq!(
            text,
            "a:6379 did not answer within 5s (the limit of the whole call)"
        );
        assert_eq!(deadline.left(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn the_rest_of_a_call_ends_at_the_deadline() {
        let deadline = Deadline::for_lease(Duration::from_millis(10));
        let error = deadline.rest("b", pending::<Answer>()).await.unwrap_err();
        assert!(error.message().contains("within 1s"), "{error}");
        let done: Answer = Deadline::after(SECOND).rest("b", async { Ok(()) }).await;
        done.unwrap();
    }
}
