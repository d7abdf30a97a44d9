//! The lock backend: which session answers what.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::stream;
use tenure_core::{
    Acquired, BootClock, Candidate, Capabilities, Changes, Check, Error, ErrorKind, Expiry,
    FencingGuarantee, FencingToken, Grant, Kept, LockBackend, LockName, Loss, Occupancy, Operation,
    Order, Page, Renewal, Rises, SharedClock, Time, Wakeup, Wish,
};
use tenure_kit::Tasks;
use tokio::sync::oneshot;

use crate::asking;
use crate::checks;
use crate::config::EtcdConfig;
use crate::connector::Connector;
use crate::errors::{self, StoreError};
use crate::guard::Guard;
use crate::keys::{self, First};
use crate::listing;
use crate::notifications;
use crate::session::{Attempt, RenewOutcome, Shared};
use crate::sessions::{GrantState, Sessions};

/// The shortest lease that etcd grants with its default election timeout of 1 s.
const USUAL_MIN_LEASE: Duration = Duration::from_secs(2);

/// Elections on etcd, shared with `etcdctl elect` and Go's `concurrency.Election`.
///
/// Holds one lease for each lease duration among its elections (so usually one, and another for
/// every thousand elections), one stream of keepalives for each lease, and one watch. Clones share
/// them. When the last clone and grant are dropped the leases are revoked.
///
/// All I/O is done on the tokio runtime that the backend was made on, which must live as long as
/// its elections; see [`HeartbeatThread`](tenure_core::HeartbeatThread).
///
/// A child that is forked later has to connect for itself: each call on this value fails there with
/// [`Forked`](ErrorKind::Forked), and dropping it there leaves the parent's leases alone.
#[derive(Clone)]
pub struct EtcdBackend {
    inner: Arc<Kept<Inner>>,
}

struct Inner {
    shared: Shared,
    sessions: Sessions,
}

/// How much this backend does, for metrics and benchmarks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Traffic {
    /// Leases that are open.
    pub leases: usize,
    /// Keepalives that these have sent.
    pub keepalives: u64,
}

impl EtcdBackend {
    /// Connects. Reads, and writes nothing: no lease is granted before the first campaign.
    ///
    /// Ends within twice the connect timeout and one request timeout, or fails with
    /// [`Forbidden`](ErrorKind::Forbidden), [`Misconfigured`](ErrorKind::Misconfigured),
    /// [`Unavailable`](ErrorKind::Unavailable) or [`Timeout`](ErrorKind::Timeout) as the message
    /// says. Dropping the future gives up.
    ///
    /// Asks all endpoints which cluster they belong to, and fails with `Misconfigured` when it is
    /// not one. An endpoint that does not answer within the request timeout is asked again every
    /// 10 s. If it belongs to another cluster, all terms end, and every call fails with that error
    /// until the process is restarted.
    ///
    /// An endpoint that is a learner or an `etcd grpc-proxy` is not used. The call fails when no
    /// other answers.
    ///
    /// The first campaign finds out whether the cluster grants a policy's lease: a cluster whose
    /// election timeout is longer than etcd's default has a longer shortest lease.
    pub async fn connect(config: EtcdConfig) -> Result<Self, Error> {
        let this = Self::lazy(config)?;
        let connector = this.inner.shared.connector.clone();
        let failed = |error: StoreError| error.into_error(Operation::Connect);
        Box::pin(connector.compare_clusters())
            .await
            .map_err(failed)?;
        Box::pin(connector.get()).await.map_err(failed)?;
        Ok(this)
    }

    /// Does not connect before the first call: for a service that starts before its store does.
    /// Whether the cluster can grant a policy's lease turns out with the first campaign.
    ///
    /// Fails with [`InvalidInput`](ErrorKind::InvalidInput) or
    /// [`Misconfigured`](ErrorKind::Misconfigured) on a configuration that cannot work, or outside
    /// a tokio runtime.
    pub fn lazy(config: EtcdConfig) -> Result<Self, Error> {
        Self::on(config, None)
    }

    /// On an application's own client; of `config` only the prefix, the request timeout and the
    /// keys per lease count. No I/O, and nothing is asked before the first call.
    ///
    /// The client finds the members by itself, without deadlines. When one of several is frozen, a
    /// call can be lost on it again and again, and with it the term;
    /// [`connect`](Self::connect) would go on to the next member. Nor is each of
    /// them asked for its cluster before the first lease: their answers are compared. And a forked
    /// child that goes on with the runtime goes on with the client's connections too.
    ///
    /// Fails as [`lazy`](Self::lazy) does.
    pub fn with_client(client: etcd_client::Client, config: EtcdConfig) -> Result<Self, Error> {
        Self::on(config, Some(client))
    }

    fn on(config: EtcdConfig, client: Option<etcd_client::Client>) -> Result<Self, Error> {
        config.check()?;
        let tasks = Tasks::here()?;
        let process = tasks.process().clone();
        let connector = Arc::new(Connector::new(config, client, tasks));
        let shared = Shared {
            notifications: notifications::start(&connector),
            connector,
            clock: BootClock::shared(),
        };
        let inner = Inner {
            sessions: Sessions::new(shared.clone()),
            shared,
        };
        Ok(Self {
            inner: Arc::new(process.keep(inner)),
        })
    }

    /// What an application's own transactions compare so that they are committed only while the
    /// term with `token` goes on; see [`Guard`].
    ///
    /// Fails with [`Conflict`](ErrorKind::Conflict) when this backend does not hold that term
    /// (any more). No I/O.
    pub fn guard(&self, lock: &LockName, token: FencingToken) -> Result<Guard, Error> {
        self.own(Operation::Campaign)?;
        let (key, revision) = self
            .inner
            .sessions
            .all()
            .iter()
            .find_map(|session| session.term(lock, token))
            .ok_or_else(|| {
                Error::new(
                    ErrorKind::Conflict,
                    Operation::Campaign,
                    format!("the term {token} of {lock} is not held here (any more)"),
                )
            })?;
        Ok(Guard::new(key, revision))
    }

    /// How many candidates come before this one: 0 for the leader, `None` for one that is not in
    /// the queue. Reads the queue, so do not call it all the time.
    pub async fn queue_position(
        &self,
        lock: &LockName,
        candidate: &Candidate,
    ) -> Result<Option<usize>, Error> {
        self.own(Operation::Holder)?;
        for session in self.inner.sessions.all() {
            if let Some(held) = session.held(lock, candidate) {
                let position = session.position(lock, &held).await;
                return position.map_err(|error| error.into_error(Operation::Holder));
            }
        }
        Ok(None)
    }

    /// How much this backend does; nothing in a forked child.
    pub fn traffic(&self) -> Traffic {
        if self.own(Operation::Holder).is_err() {
            return Traffic::default();
        }
        let sessions = self.inner.sessions.all();
        Traffic {
            leases: sessions.len(),
            keepalives: sessions.iter().map(|session| session.keepalives()).sum(),
        }
    }
}

impl fmt::Debug for EtcdBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdBackend")
            .field("config", &self.inner.shared.connector.config)
            .finish_non_exhaustive()
    }
}

/// Runs `work` to its end on the backend's runtime, whatever becomes of the caller.
async fn detached<T: Send + 'static>(
    shared: &Shared,
    operation: Operation,
    work: impl Future<Output = Result<T, StoreError>> + Send + 'static,
) -> Result<T, Error> {
    let ended = shared.spawn(work).await;
    let outcome = ended.unwrap_or_else(|_| Err(StoreError::runtime_is_gone()));
    outcome.map_err(|error| error.into_error(operation))
}

fn foreign(operation: Operation) -> Error {
    Error::new(
        ErrorKind::InvalidInput,
        operation,
        "the grant is not one of the etcd backend",
    )
}

impl EtcdBackend {
    /// Fails in a child that was forked since the backend was made.
    fn own(&self, operation: Operation) -> Result<(), Error> {
        self.inner.shared.process().check(operation)
    }

    /// etcd counts leases in seconds, and lengthens those below its shortest.
    fn check(lease: Duration) -> Result<(), Error> {
        let shortest = USUAL_MIN_LEASE;
        if lease.subsec_nanos() == 0 && lease >= shortest && lease <= tenure_core::record::MAX_LEASE
        {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::InvalidInput,
            Operation::Acquire,
            format!(
                "etcd cannot grant a lease of {lease:?}: here it grants whole seconds from \
                 {shortest:?} to {:?}",
                tenure_core::record::MAX_LEASE
            ),
        ))
    }
}

#[async_trait]
impl LockBackend for EtcdBackend {
    fn capabilities(&self) -> Capabilities {
        Capabilities::new(
            "etcd",
            Expiry::Session,
            FencingGuarantee::none()
                .over_crash(Rises::Always)
                .over_failover(Rises::Always)
                .over_deletion(Rises::Always)
                .over_restore(Rises::If(
                    "it is restored with --bump-revision (etcd 3.6 or newer)",
                )),
        )
        .with_min_lease(USUAL_MIN_LEASE)
        // The sweep of the server is every 500 ms.
        .with_expiry_lag(Duration::from_secs(1))
        .with_wakeup(Wakeup::Push)
        .with_order(Order::Fifo)
    }

    fn clock(&self) -> SharedClock {
        self.inner.shared.clock.clone()
    }

    async fn acquire(
        &self,
        lock: &LockName,
        candidate: &Candidate,
        lease: Duration,
    ) -> Result<Acquired, Error> {
        self.own(Operation::Acquire)?;
        self.inner.shared.connector.config.check_lock(lock)?;
        Self::check(lease)?;
        let (answer, attempt) = oneshot::channel();
        let (inner, task_lock, task_candidate) =
            (self.inner.clone(), lock.clone(), candidate.clone());
        let expected = self.inner.shared.notifications.expect_key(lock);
        self.inner.shared.spawn(async move {
            let _seeking = expected;
            let gone = || answer.is_closed();
            if gone() {
                return;
            }
            let outcome = inner
                .sessions
                .acquire(&task_lock, &task_candidate, lease, gone)
                .await;
            // Unheard, it ends with its lease, or is adopted by the next attempt.
            let _unheard = answer.send(outcome);
        });
        let outcome = attempt
            .await
            .unwrap_or_else(|_| Err(StoreError::runtime_is_gone()));
        match outcome.map_err(|error| error.into_error(Operation::Acquire))? {
            (Attempt::Held { token, proven }, grant_state) => {
                let grant = Grant::new(lock.clone(), candidate.clone(), token, lease, proven);
                Ok(Acquired::Held(grant.with_state(grant_state)))
            }
            (Attempt::Taken(holder), _) => Ok(Acquired::taken(holder, None)),
            (Attempt::Moved, _) => Err(errors::lease_gone().into_error(Operation::Acquire)),
        }
    }

    async fn renew(&self, grant: &Grant, not_before: Time) -> Result<Renewal, Error> {
        self.own(Operation::Renew)?;
        let grant_state = grant
            .state::<GrantState>()
            .ok_or_else(|| foreign(Operation::Renew))?;
        let (renewed, grant_state) = grant_state.renew(grant, not_before).await;
        match renewed.map_err(|error| error.into_error(Operation::Renew))? {
            RenewOutcome::Proven { at, asked } => {
                let mut grant = grant.clone();
                grant.proven_at = at;
                grant.lease = grant_state.session.lease;
                grant.wish = asked.map(|until| Wish::new(grant.token, until));
                Ok(Renewal::Renewed(grant.with_state(grant_state)))
            }
            RenewOutcome::Lost => Ok(Renewal::lost(None)),
        }
    }

    /// A heartbeat makes attempts of its own, each on another connection, and all who wait for one
    /// share it. So a later call is never behind a dead connection.
    fn may_go_on(&self, _began_at: Time) -> bool {
        true
    }

    async fn release(&self, grant: &Grant) -> Result<(), Error> {
        self.own(Operation::Release)?;
        let grant_state = grant
            .state::<GrantState>()
            .cloned()
            .ok_or_else(|| foreign(Operation::Release))?;
        // Another one's term is not this candidate's to give back, and its own is over.
        if !grant_state.held.is_of(&grant.candidate) {
            return Ok(());
        }
        let (lock, token) = (grant.lock.clone(), grant.token);
        let work = async move {
            let GrantState { session, held } = grant_state;
            session.release(&lock, &held, Some(token)).await
        };
        detached(&self.inner.shared, Operation::Release, work).await
    }

    async fn withdraw(&self, lock: &LockName, candidate: &Candidate) -> Result<(), Error> {
        self.own(Operation::Withdraw)?;
        let (inner, lock, candidate) = (self.inner.clone(), lock.clone(), candidate.clone());
        let work = async move {
            for session in inner.sessions.all() {
                if let Some(held) = session.held(&lock, &candidate) {
                    session.release(&lock, &held, None).await?;
                }
            }
            Ok(())
        };
        detached(&self.inner.shared, Operation::Withdraw, work).await
    }

    /// A read and a transaction on the leader's key, with the rights of a candidate. Unanswered, it
    /// may have been applied.
    async fn ask_to_resign(
        &self,
        lock: &LockName,
        token: FencingToken,
        lasts: Duration,
    ) -> Result<(), Error> {
        self.own(Operation::AskToResign)?;
        let connector = self.inner.shared.connector.clone();
        connector.config.check_lock(lock)?;
        let election = connector.config.election(lock);
        let asking = async move { asking::ask(&connector, &election, token, lasts).await };
        detached(&self.inner.shared, Operation::AskToResign, asking).await
    }

    /// Reads keys without values, from one lock's to the next. Needs the right to read all keys that
    /// begin with the prefix of this backend and the page's, not a lock's alone. Locks whose key
    /// `lock_key` gives are elsewhere, and left out.
    async fn elections(&self, page: Page<'_>) -> Result<Vec<LockName>, Error> {
        self.own(Operation::List)?;
        let connector = self.inner.shared.connector.clone();
        let prefix = page.prefix.to_owned();
        let listing = async move { listing::list(&connector, &prefix).await };
        let names = detached(&self.inner.shared, Operation::List, listing).await?;
        Ok(page.of(names))
    }

    /// One linearizable read, for which the right to read is enough. A candidate that has not
    /// confirmed its term does not lead, so the lock is free then, though others have to wait.
    ///
    /// Fails with [`Corrupted`](ErrorKind::Corrupted) while a key without a lease stands first:
    /// nobody is elected past it, and the message says how to delete it.
    async fn holder(&self, lock: &LockName) -> Result<Occupancy, Error> {
        self.own(Operation::Holder)?;
        let connector = self.inner.shared.connector.clone();
        connector.config.check_lock(lock)?;
        let election = connector.config.election(lock);
        let work = async move {
            let limit = connector.config.request_timeout;
            let asking = connector.call(limit, |mut client| {
                let election = election.clone();
                async move { client.get(election, Some(keys::first())).await }
            });
            Ok(asking.await?.take_kvs().into_iter().next())
        };
        let first = detached(&self.inner.shared, Operation::Holder, work).await?;
        let Some(first) = first else {
            return Ok(Occupancy::Free);
        };
        match First::of(&first)? {
            First::Leader(holder) => Ok(Occupancy::Led(holder)),
            // Its turn has come, and it has not taken it.
            First::Waiter(_) => Ok(Occupancy::Free),
            First::Obstacle(key) => Err(keys::obstacle(&key).into_error(Operation::Holder)),
        }
    }

    fn changes(&self, lock: &LockName) -> Changes {
        if self.own(Operation::Holder).is_err() {
            return Box::pin(stream::empty());
        }
        self.inner.shared.notifications.changes(lock)
    }

    /// One heartbeat finds out for all elections on its lease.
    fn loss(&self, grant: &Grant) -> Option<Loss> {
        self.own(Operation::Renew).ok()?;
        let held = grant.state::<GrantState>()?.held.clone();
        Some(Box::pin(held.over(keys::revision(grant.token))))
    }

    async fn checks(&self, lock: &LockName, _lease: Duration) -> Vec<Check> {
        if let Err(error) = self.own(Operation::Holder) {
            let remedy = "connect after the fork";
            return vec![Check::unusable("process", error.message(), remedy)];
        }
        if let Err(error) = self.inner.shared.connector.config.check_lock(lock) {
            let remedy = "give the lock the name that the URL's lock_key has for this key";
            return vec![Check::unusable("lock", error.message(), remedy)];
        }
        Box::pin(checks::all(&self.inner.shared.connector, lock)).await
    }
}
