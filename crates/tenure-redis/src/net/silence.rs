//! Whether a connection is dead without having been closed.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tenure_core::Process;

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
    process: Process,
}

impl Silence {
    /// `heard` counts what comes from the server.
    pub(super) fn new(heard: Arc<AtomicU64>, process: Process) -> Self {
        Self {
            heard,
            since: Mutex::default(),
            process,
        }
    }

    /// A call is sent now: hold this until it is answered.
    pub(super) fn watch_call(&self) -> WatchedCall<'_> {
        WatchedCall {
            silence: self,
            heard: self.heard.load(Ordering::Relaxed),
            sent_at: Instant::now(),
        }
    }

    /// Whether nothing has come since callers have given up on it, the first a while ago.
    pub(super) fn has_lasted(&self) -> bool {
        let heard = self.heard.load(Ordering::Relaxed);
        matches!(*hold(&self.since), Some((then, since))
            if then == heard && since.elapsed() >= LIMIT)
    }

    pub(super) fn has_been_broken(&self) -> bool {
        self.heard.load(Ordering::Relaxed) > 0
    }
}

/// A call that its caller may drop. If nothing at all comes from the server for a while then, the
/// connection may be dead without having been closed (hazard 6): otherwise callers with a shorter
/// limit than ours would wait on it without end.
///
/// It is not given up at once, because on one connection a `withdraw` cannot overtake the
/// `acquire` that was dropped before it.
pub(crate) struct WatchedCall<'a> {
    silence: &'a Silence,
    heard: u64,
    sent_at: Instant,
}

impl Drop for WatchedCall<'_> {
    fn drop(&mut self) {
        let Silence {
            heard,
            since,
            process,
        } = self.silence;
        // Another thread may have held the lock below at a fork.
        if process.is_current() && heard.load(Ordering::Relaxed) == self.heard {
            let mut since = hold(since);
            match &*since {
                Some((heard, _)) if *heard == self.heard => {}
                _ => *since = Some((self.heard, self.sent_at)),
            }
        }
    }
}
