//! Whether a connection is dead without having been closed (hazard 6).

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use redis::cmd;
use tenure_kit::{Allowance, Tasks};
use tokio::time::timeout;

use super::hold;

/// A connection is replaced when it has sent nothing for so long after a call that was given up.
const LIMIT: Duration = Duration::from_millis(100);

/// A server that is slow may answer so late, and then the connection is of use again.
const LATEST: Duration = Duration::from_secs(60);

/// What has come from the server, beside the calls whose callers have gone.
#[derive(Debug)]
pub(crate) struct Silence {
    /// It counts how often something has come, also for callers who have gone.
    allowance: Allowance,
    client: MultiplexedConnection,
    /// Where probes run.
    tasks: Tasks,
    /// How often something had come, and the time from which nothing more has: of the first call
    /// that its caller gave up since.
    since: Mutex<Option<(u64, Instant)>>,
    /// A probe for a whole answer is under way.
    is_probed: AtomicBool,
    /// Something may come from the server, but no whole answer in time.
    is_given_up: AtomicBool,
}

impl Silence {
    pub(super) fn new(
        allowance: Allowance,
        client: MultiplexedConnection,
        tasks: &Tasks,
    ) -> Arc<Self> {
        Arc::new(Self {
            allowance,
            client,
            tasks: tasks.clone(),
            since: Mutex::default(),
            is_probed: AtomicBool::new(false),
            is_given_up: AtomicBool::new(false),
        })
    }

    /// A call is sent now: tell this when it is answered, within `limit`.
    pub(crate) fn watch_call(self: &Arc<Self>, limit: Duration) -> WatchedCall<'_> {
        WatchedCall {
            silence: self,
            heard: self.allowance.reads(),
            sent_at: Instant::now(),
            limit,
            is_answered: false,
        }
    }

    /// Whether nothing has come since callers have given up on it, the first a while ago, or no
    /// whole answer in time.
    pub(crate) fn has_lasted(&self) -> bool {
        let heard = self.allowance.reads();
        let is_silent = matches!(*hold(&self.since), Some((then, since))
            if then == heard && since.elapsed() >= LIMIT);
        is_silent || self.is_given_up.load(Ordering::Acquire)
    }

    /// Whether anything has ever come.
    pub(super) fn was_broken(&self) -> bool {
        self.allowance.reads() > 0
    }

    /// Notes that the caller has gone without an answer.
    fn dropped(&self, call: &WatchedCall<'_>) {
        let heard = self.allowance.reads();
        let mut since = hold(&self.since);
        if since.is_some_and(|(then, _)| then == heard) {
            return;
        }
        // What has come since it was sent was for other calls, and before this moment.
        let is_first = heard == call.heard;
        let at = if is_first {
            call.sent_at
        } else {
            Instant::now()
        };
        *since = Some((heard, at));
    }

    /// Finds out whether a whole answer ever comes, behind the calls before.
    async fn probe(self: Arc<Self>, limit: Duration) {
        let mut client = self.client.clone();
        let ping = cmd("PING");
        let mut answer = std::pin::pin!(ping.query_async::<redis::Value>(&mut client));
        let mut answered = timeout(limit, &mut answer).await;
        if answered.is_err() {
            self.is_given_up.store(true, Ordering::Release);
            answered = timeout(LATEST, answer).await;
        }
        let Ok(answered) = answered else { return };
        self.allowance.renew();
        // A lost connection is found by the next call, with its reason.
        let is_given_up = answered.is_err();
        self.is_given_up.store(is_given_up, Ordering::Release);
        self.is_probed.store(false, Ordering::Release);
    }
}

/// Watches a call that its caller may drop. If nothing at all comes from the server for a while
/// then, the connection may be dead without having been closed: otherwise callers with a shorter
/// limit than ours would wait on it without end. If something does come, a probe behind the call
/// tells whether it ever is a whole answer.
///
/// It is not given up at once, because on one connection a `withdraw` cannot overtake the
/// `acquire` that was dropped before it.
pub(crate) struct WatchedCall<'a> {
    silence: &'a Arc<Silence>,
    /// Where the server was when the call was sent.
    heard: u64,
    sent_at: Instant,
    limit: Duration,
    is_answered: bool,
}

impl WatchedCall<'_> {
    /// It has been answered, or its own limit has passed.
    pub(crate) fn ended(mut self) {
        self.is_answered = true;
    }
}

impl Drop for WatchedCall<'_> {
    fn drop(&mut self) {
        let silence = self.silence;
        // Another thread may have held a lock at a fork.
        if self.is_answered || !silence.tasks.process().is_current() {
            return;
        }
        silence.dropped(self);
        if !silence.is_probed.swap(true, Ordering::AcqRel) {
            let probing = silence.clone().probe(self.limit);
            drop(silence.tasks.spawn(probing));
        }
    }
}
