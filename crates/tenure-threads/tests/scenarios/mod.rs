//! What threads do to one term, one election or one backend at the same time. Each function is one
//! run under one schedule, which shuttle chooses; it panics when something is wrong, and shuttle
//! does when no thread can go on.

pub(super) mod election;
pub(super) mod stores;
pub(super) mod term;

use std::sync::{Arc, Mutex as Untried, PoisonError};
use std::task::{Poll, Waker};

use async_trait::async_trait;
use shuttle::sync::atomic::{AtomicU64, Ordering};
use shuttle::thread;
use tenure_threads::{CampaignId, Candidate, Clock, Identity, LockName, Time};

/// A clock that stands still until it is set.
#[derive(Debug)]
pub(super) struct Hand {
    now: AtomicU64,
    /// Not shuttle's: no schedule can go wrong here.
    sleeping: Untried<Vec<Waker>>,
}

impl Hand {
    pub(super) fn at(seconds: u64) -> Arc<Self> {
        Arc::new(Self {
            now: AtomicU64::new(seconds),
            sleeping: Untried::default(),
        })
    }

    fn set(&self, seconds: u64) {
        self.now.store(seconds, Ordering::SeqCst);
        let sleeping: Vec<Waker> = self
            .sleeping
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .drain(..)
            .collect();
        sleeping.into_iter().for_each(Waker::wake);
    }
}

#[async_trait]
impl Clock for Hand {
    fn now(&self) -> Time {
        at(self.now.load(Ordering::SeqCst))
    }

    async fn sleep_until(&self, deadline: Time) {
        std::future::poll_fn(|cx| {
            // Before the look, so that no change between the two is missed.
            self.sleeping
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(cx.waker().clone());
            if self.now() >= deadline {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
    }
}

pub(super) fn at(seconds: u64) -> Time {
    Time::from_nanos(seconds * 1_000_000_000)
}

pub(super) fn lock() -> LockName {
    LockName::new("threads").unwrap_or_else(|error| panic!("{error}"))
}

pub(super) fn identity(name: &str) -> Identity {
    Identity::new(name).unwrap_or_else(|error| panic!("{error}"))
}

pub(super) fn candidate(name: &str, campaign: u64) -> Candidate {
    Candidate::new(identity(name), CampaignId::new(campaign))
}

pub(super) fn join<T>(thread: thread::JoinHandle<T>) -> T {
    match thread.join() {
        Ok(value) => value,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}
