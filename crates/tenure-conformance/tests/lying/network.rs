//! The network of one of the model's connections, as the suite commands it.

use std::collections::HashSet;
use std::fmt;
use std::future::{Future, pending};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tenure_conformance::Network;
use tenure_conformance::proxy::Way;
use tenure_core::Loss;
use tokio::sync::watch;
use tokio::time::sleep;

use crate::lies::Lie;
use crate::model::{LEG, Model};

/// How late a backend is that looks for lost sessions instead of being told.
const LATE: Duration = Duration::from_secs(5);

/// More sessions than one connection can have: each break begins another.
pub(crate) const MOST_BREAKS: u64 = 1_000_000;

/// What a connection and its network share.
#[derive(Debug, Default)]
pub(crate) struct Wire {
    pub(crate) id: u64,
    /// How often the client knows it to have broken; it is made again at once.
    breaks: watch::Sender<u64>,
    held: watch::Sender<bool>,
    lost: watch::Sender<bool>,
    requests: AtomicU64,
    renewing: AtomicU64,
    /// Sessions whose end the client does not notice.
    deaf: Mutex<HashSet<u64>>,
}

impl Wire {
    pub(crate) fn new(id: u64) -> Self {
        Self {
            id,
            ..Self::default()
        }
    }

    pub(crate) fn breaks(&self) -> u64 {
        *self.breaks.borrow()
    }

    /// The session that a connection has after so many breaks.
    pub(crate) fn session(&self, breaks: u64) -> u64 {
        self.id * MOST_BREAKS + breaks
    }

    pub(crate) fn deaf(&self) -> MutexGuard<'_, HashSet<u64>> {
        self.deaf.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The client learns that the connection is broken.
    fn tear(&self) {
        self.breaks.send_modify(|breaks| *breaks += 1);
    }

    /// One way of a request; `false` when the connection breaks meanwhile.
    pub(crate) async fn request(&self, breaks: u64) -> bool {
        let arrives = async {
            sleep(LEG).await;
            self.requests.fetch_add(1, Ordering::Relaxed);
            passes(&self.lost).await;
        };
        self.unbroken(breaks, arrives).await
    }

    /// One way of an answer that takes so long.
    pub(crate) async fn answer(&self, breaks: u64, leg: impl Future<Output = ()>) -> bool {
        let arrives = async {
            leg.await;
            passes(&self.held).await;
            passes(&self.lost).await;
        };
        self.unbroken(breaks, arrives).await
    }

    async fn unbroken(&self, breaks: u64, arrives: impl Future<Output = ()>) -> bool {
        let mut broken = self.breaks.subscribe();
        tokio::select! {
            biased;
            _ = broken.wait_for(|now| *now != breaks) => false,
            () = arrives => true,
        }
    }

    /// Counts as a renewal under way until it is dropped.
    pub(crate) fn renewing(&self) -> impl Drop {
        self.renewing.fetch_add(1, Ordering::Relaxed);
        Renewing(&self.renewing)
    }

    /// Completes when the client learns that this session is over.
    pub(crate) fn loss(self: &Arc<Self>, session: u64, lie: Option<Lie>) -> Loss {
        let this = self.clone();
        Box::pin(async move {
            let mut breaks = this.breaks.subscribe();
            let over = |breaks: &u64| this.session(*breaks) != session;
            if lie != Some(Lie::LossInvented) && breaks.wait_for(over).await.is_err() {
                pending::<()>().await;
            }
            if this.deaf().contains(&session) {
                pending::<()>().await;
            }
            if lie == Some(Lie::LossLate) {
                sleep(LATE).await;
            }
        })
    }
}

/// Until nothing stops the bytes.
async fn passes(stopped: &watch::Sender<bool>) {
    let mut stopped = stopped.subscribe();
    // It fails only without its sender, which is here.
    let _passes = stopped.wait_for(|stopped| !stopped).await.is_ok();
}

struct Renewing<'a>(&'a AtomicU64);

impl Drop for Renewing<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Does to the connection what a proxy would.
pub(crate) struct ModelNetwork {
    pub(crate) model: Arc<Model>,
    pub(crate) wire: Arc<Wire>,
}

impl fmt::Debug for ModelNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ModelNetwork").field(&self.wire.id).finish()
    }
}

impl Network for ModelNetwork {
    fn requests(&self) -> u64 {
        self.wire.requests.load(Ordering::Relaxed)
    }

    fn reset(&self) {
        let under_renewal = self.wire.renewing.load(Ordering::Relaxed) > 0;
        let session = self.now();
        if under_renewal && self.lies(Lie::LossMissedUnderRenewal) {
            self.wire.deaf().insert(session);
        }
        self.wire.tear();
        self.store_learns(session, LEG);
    }

    fn half_close(&self, way: Way) {
        let session = self.now();
        let by_the_store = way == Way::Requests;
        if self.lies(Lie::LossOnlyOfResets)
            || (by_the_store && self.lies(Lie::LossUntoldByTheStore))
        {
            self.wire.deaf().insert(session);
        }
        if by_the_store {
            self.store_learns(session, LEG);
            tear_after(&self.wire, LEG * 2);
        } else {
            self.wire.tear();
            self.store_learns(session, LEG * 2);
        }
    }

    fn hold_answers(&self) {
        self.wire.held.send_replace(true);
    }

    fn lose(&self) {
        self.wire.lost.send_replace(true);
        if self.lies(Lie::SilenceEndsSessions) {
            self.store_learns(self.now(), LEG * 5);
        }
    }

    fn restore(&self) {
        self.wire.held.send_replace(false);
        if self.wire.lost.send_replace(false) {
            self.reset();
        }
    }
}

impl ModelNetwork {
    fn lies(&self, lie: Lie) -> bool {
        self.model.lie == Some(lie)
    }

    /// The session, as the store knows it.
    fn now(&self) -> u64 {
        self.model.session_of(&self.wire, self.wire.breaks())
    }

    fn store_learns(&self, session: u64, later: Duration) {
        let model = self.model.clone();
        tokio::spawn(async move {
            sleep(later).await;
            model.store().session_over(session);
        });
    }
}

pub(crate) fn tear_after(wire: &Arc<Wire>, later: Duration) {
    let wire = wire.clone();
    tokio::spawn(async move {
        sleep(later).await;
        wire.tear();
    });
}
