//! One attempt for all who want its outcome.

use std::convert::Infallible;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::store_error::StoreError;
use crate::tasks::Tasks;

/// Work of which one run at a time is under way, and whose outcome everybody gets who waits: to
/// connect, to ask for a map of slots, to send a heartbeat. Thousands of elections of one process
/// may want the same at the same moment.
///
/// A run goes on in the background to its end, also when no one waits. A caller that is not polled,
/// or goes away, keeps no other waiting.
pub struct SingleFlight<T, D = Infallible> {
    tasks: Tasks,
    state: Mutex<State<T, D>>,
}

struct State<T, D> {
    begun: u64,
    last: Option<Run<T, D>>,
}

/// An end without an outcome is that of the runtime.
type Outcome<T, D> = Option<Result<T, StoreError<D>>>;

struct Run<T, D> {
    number: u64,
    outcome: watch::Receiver<Outcome<T, D>>,
}

impl<T, D> Run<T, D> {
    fn is_under_way(&self) -> bool {
        self.outcome.borrow().is_none() && self.outcome.has_changed().is_ok()
    }
}

impl<T, D> SingleFlight<T, D>
where
    T: Clone + Send + Sync + 'static,
    D: Clone + Send + Sync + 'static,
{
    /// The work runs on the runtime of `tasks`.
    pub fn new(tasks: Tasks) -> Self {
        let state = State {
            begun: 0,
            last: None,
        };
        Self {
            tasks,
            state: Mutex::new(state),
        }
    }

    /// The outcome of a run: of the one under way, or of a new one.
    ///
    /// Of a run that had begun before this call a success counts if `accept` says so, and a failure
    /// does not: what it met may be over. Then another run begins. Cancel safe.
    pub async fn run<F>(
        &self,
        accept: impl Fn(&T) -> bool,
        work: impl Fn() -> F,
    ) -> Result<T, StoreError<D>>
    where
        F: Future<Output = Result<T, StoreError<D>>> + Send + 'static,
    {
        let before = self.state().begun;
        loop {
            let (number, mut outcome) = self.join(&work);
            let outcome = outcome.wait_for(Option::is_some).await;
            let Some(outcome) = outcome.ok().and_then(|outcome| outcome.clone()) else {
                return Err(StoreError::runtime_is_gone());
            };
            let is_new = number > before;
            match outcome {
                Ok(value) if is_new || accept(&value) => return Ok(value),
                Err(error) if is_new => return Err(error),
                _ => {}
            }
        }
    }

    /// Begins a run unless one is under way, and does not wait for it.
    pub fn start<F>(&self, work: impl Fn() -> F)
    where
        F: Future<Output = Result<T, StoreError<D>>> + Send + 'static,
    {
        self.join(&work);
    }

    /// Whether a run is under way.
    pub fn is_under_way(&self) -> bool {
        self.state().last.as_ref().is_some_and(Run::is_under_way)
    }

    fn join<F>(&self, work: &impl Fn() -> F) -> (u64, watch::Receiver<Outcome<T, D>>)
    where
        F: Future<Output = Result<T, StoreError<D>>> + Send + 'static,
    {
        let mut state = self.state();
        if let Some(run) = state.last.as_ref().filter(|run| run.is_under_way()) {
            return (run.number, run.outcome.clone());
        }
        let (sender, outcome) = watch::channel(None);
        let working = self.tasks.spawn(work());
        // Another task, since the one that works may panic.
        drop(self.tasks.spawn(async move {
            let outcome = working.await;
            let outcome = outcome.unwrap_or_else(|why| Err(StoreError::task_failed(&why)));
            sender.send_replace(Some(outcome));
        }));
        state.begun += 1;
        let number = state.begun;
        state.last = Some(Run {
            number,
            outcome: outcome.clone(),
        });
        (number, outcome)
    }

    fn state(&self) -> MutexGuard<'_, State<T, D>> {
        // Whole at every step.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T, D> fmt::Debug for SingleFlight<T, D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SingleFlight").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use tenure_core::ErrorKind;
    use tokio::sync::Notify;

    use super::*;

    type Flight = SingleFlight<u32>;
    type Answer = Result<u32, StoreError>;

    /// Work that counts its runs and ends when it is let go.
    #[derive(Clone, Default)]
    struct Work {
        runs: Arc<AtomicU32>,
        go: Arc<Notify>,
    }

    impl Work {
        async fn succeed(self) -> Answer {
            let run = self.runs.fetch_add(1, Ordering::AcqRel) + 1;
            self.go.notified().await;
            Ok(run)
        }

        async fn fail(self) -> Answer {
            let run = self.succeed().await?;
            Err(StoreError::new(ErrorKind::Unavailable, run.to_string()))
        }
    }

    async fn until_begun(work: &Work, runs: u32) {
        while work.runs.load(Ordering::Acquire) < runs {
            tokio::task::yield_now().await;
        }
    }

    fn flight() -> Arc<Flight> {
        Arc::new(Flight::new(Tasks::here().unwrap()))
    }

    #[tokio::test]
    async fn callers_share_a_run_and_one_that_is_not_polled_keeps_nobody_waiting() {
        let (flight, work) = (flight(), Work::default());
        let mut unpolled = Box::pin(flight.run(|_| true, || work.clone().succeed()));
        tokio::select! {
            biased;
            _ = &mut unpolled => unreachable!("it was not let go"),
            () = until_begun(&work, 1) => {}
        }
        let all: Vec<_> = (0..100)
            .map(|_| {
                let (flight, work) = (flight.clone(), work.clone());
                tokio::spawn(async move { flight.run(|_| true, || work.clone().succeed()).await })
            })
            .collect();
        tokio::task::yield_now().await;
        assert!(flight.is_under_way());
        work.go.notify_one();
        for one in all {
            assert_eq!(one.await.unwrap().unwrap(), 1);
        }
        assert!(!flight.is_under_way());
        drop(unpolled);
        assert_eq!(work.runs.load(Ordering::Acquire), 1);
    }

    #[tokio::test]
    async fn a_failure_from_before_the_call_does_not_count() {
        let (flight, work) = (flight(), Work::default());
        flight.start(|| work.clone().fail());
        until_begun(&work, 1).await;
        let call = tokio::spawn({
            let (flight, work) = (flight.clone(), work.clone());
            async move { flight.run(|_| true, || work.clone().fail()).await }
        });
        tokio::task::yield_now().await;
        work.go.notify_one();
        until_begun(&work, 2).await;
        work.go.notify_one();
        assert_eq!(call.await.unwrap().unwrap_err().message(), "2");
    }

    #[tokio::test]
    async fn a_success_from_before_the_call_counts_if_it_is_accepted() {
        let (flight, work) = (flight(), Work::default());
        flight.start(|| work.clone().succeed());
        until_begun(&work, 1).await;
        let call = tokio::spawn({
            let (flight, work) = (flight.clone(), work.clone());
            async move { flight.run(|run| *run > 1, || work.clone().succeed()).await }
        });
        tokio::task::yield_now().await;
        work.go.notify_one();
        until_begun(&work, 2).await;
        work.go.notify_one();
        assert_eq!(call.await.unwrap().unwrap(), 2);
    }

    /// Between its last step and its end others may begin another one.
    #[tokio::test]
    async fn a_run_that_has_ended_does_not_end_the_next_one() {
        let (flight, work) = (flight(), Work::default());
        for run in 1..=3 {
            work.go.notify_one();
            let ended = flight.run(|_| true, || work.clone().succeed()).await;
            assert_eq!(ended.unwrap(), run);
        }
    }

    #[tokio::test]
    async fn a_panic_is_told_as_one_and_the_next_run_begins() {
        let flight = flight();
        let error = flight
            .run(|_| true, || async { panic!("hidden") })
            .await
            .unwrap_err();
        assert_eq!(error.kind, ErrorKind::Internal);
        assert!(error.message().contains("panicked"), "{error}");
        assert!(!format!("{error:?}").contains("hidden"), "{error:?}");
        let next = flight.run(|_| true, || async { Ok(7) }).await;
        assert_eq!(next.unwrap(), 7);
    }

    #[test]
    fn callers_on_another_runtime_learn_that_the_own_one_has_ended() {
        let runtime = || {
            let mut builder = tokio::runtime::Builder::new_current_thread();
            builder.build().unwrap()
        };
        let own = runtime();
        let (flight, work) = (own.block_on(async { flight() }), Work::default());
        flight.start(|| work.clone().succeed());
        drop(own);
        for _ in 0..2 {
            let call = flight.run(|_| true, || work.clone().succeed());
            let error = runtime().block_on(call).unwrap_err();
            assert!(error.message().contains("runtime"), "{error}");
        }
    }
}
