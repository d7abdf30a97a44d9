//! Whether a connection is dead without having been closed.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::hold;

/// The connector replaces a connection that has sent nothing for so long after a call.
const LIMIT: Duration = Duration::from_millis(100);

/// What has come from the server, beside the calls whose callers have gone.
#[derive(Debug)]
pub(super) struct Silence {
    /// How often something has come from the server, also for callers who have gone.
    heard: Arc<AtomicU64>,
    /// The value of `heard` and the time of sending, of the first call that its caller dropped
    /// without an answer.
    since: Mutex<Option<(u64, Instant)>>,
    /// A probe for a whole answer is under way.
    is_probed: AtomicBool,
    /// Something may come from the server, but no whole answer in time.
    is_given_up: AtomicBool,
}

/// Where the server was when a call was sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sent {
    heard: u64,
    at: Instant,
}

impl Silence {
    /// `heard` counts what comes from the server.
    pub(super) fn new(heard: Arc<AtomicU64>) -> Self {
        Self {
            heard,
            since: Mutex::default(),
            is_probed: AtomicBool::new(false),
            is_given_up: AtomicBool::new(false),
        }
    }

    /// A call is sent now.
    pub(super) fn sent(&self) -> Sent {
        Sent {
            heard: self.heard.load(Ordering::Relaxed),
            at: Instant::now(),
        }
    }

    /// The caller has gone without an answer. Says whether a probe is to be sent, which ends with
    /// [`probed`](Self::probed).
    pub(super) fn dropped(&self, call: Sent) -> bool {
        if self.heard.load(Ordering::Relaxed) == call.heard {
            let mut since = hold(&self.since);
            match &*since {
                Some((heard, _)) if *heard == call.heard => {}
                _ => *since = Some((call.heard, call.at)),
            }
        }
        !self.is_probed.swap(true, Ordering::AcqRel)
    }

    /// How the probe has ended.
    pub(super) fn probed(&self, is_answered: bool) {
        self.is_given_up.fetch_or(!is_answered, Ordering::AcqRel);
        self.is_probed.store(false, Ordering::Release);
    }

    /// Whether nothing has come since callers have given up on it, the first a while ago, or no
    /// whole answer in time.
    pub(super) fn has_lasted(&self) -> bool {
        let heard = self.heard.load(Ordering::Relaxed);
        let is_silent = matches!(*hold(&self.since), Some((then, since))
            if then == heard && since.elapsed() >= LIMIT);
        is_silent || self.is_given_up.load(Ordering::Acquire)
    }

    /// Whether anything has ever come.
    pub(super) fn was_broken(&self) -> bool {
        self.heard.load(Ordering::Relaxed) > 0
    }
}
