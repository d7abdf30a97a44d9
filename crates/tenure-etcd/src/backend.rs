//! The lock backend: which session answers what.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::stream;
use tenure_core::{
    Acquired, BootClock, Candidate, Capabilities, Changes, Check, Error, ErrorKind, Expiry,
    FencingGuarantee, FencingToken, Grant, Kept, LockBackend, LockName, Loss, Occupancy, Operation,
    Order, Renewal, Rises, SharedClock, Time, Wakeup,
};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::checks;
use crate::config::EtcdConfig;
use crate::errors::{Cause, Trouble};
use crate::guard::Guard;
use crate::hub::Hub;
use crate::keys::{self, First};
use crate::link::Links;
use crate::session::{Attempt, Common, Session, Slot, Standing};

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
    common: Common,
    /// The shortest lease that the cluster grants, where it was asked.
    min_lease: OnceLock<Duration>,
    places: Mutex<HashMap<Duration, Arc<Place>>>,
}

/// The sessions of one lease duration.
#[derive(Default)]
struct Place {
    open: Mutex<Vec<Arc<Session>>>,
    /// Whose turn it is to open another one; and when the last attempt failed, which answers all
    /// who waited for it.
    opening: tokio::sync::Mutex<Option<(Time, Trouble)>>,
}

impl Place {
    fn open(&self) -> MutexGuard<'_, Vec<Arc<Session>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The slot that the candidate has, or a new one where there is room.
    fn slot(&self, lock: &LockName, candidate: &Candidate) -> Option<Seated> {
        let mut open = self.open();
        open.retain(|session| !session.has_ended());
        let own = |session: &Arc<Session>| Some((session.clone(), session.slot(lock, candidate)?));
        let new =
            |session: &Arc<Session>| Some((session.clone(), session.reserve(lock, candidate)?));
        let found = open
            .iter()
            .find_map(own)
            .or_else(|| open.iter().find_map(new));
        found.map(|(session, slot)| Seated { session, slot })
    }
}

/// A campaign's slot; a grant needs it to be renewed or released.
#[derive(Clone)]
struct Seated {
    session: Arc<Session>,
    slot: Arc<Slot>,
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
    /// Connects, and finds out the shortest lease that this cluster grants.
    ///
    /// Ends within the connect and request timeouts for each endpoint, or fails with
    /// [`Forbidden`](ErrorKind::Forbidden), [`Misconfigured`](ErrorKind::Misconfigured),
    /// [`Unavailable`](ErrorKind::Unavailable) or [`Timeout`](ErrorKind::Timeout) as the message
    /// says. Dropping the future gives up.
    ///
    /// Asks all endpoints which cluster they belong to, and fails with `Misconfigured` when it is
    /// not one. An endpoint that does not answer within the request timeout is asked again every
    /// 10 s; should it turn out to belong to another cluster, all terms end, and every call fails
    /// with that error until the process is restarted.
    pub async fn connect(config: EtcdConfig) -> Result<Self, Error> {
        let this = Self::lazy(config)?;
        let links = this.inner.common.links.clone();
        let limit = links.config.request_timeout;
        let failed = |trouble: Trouble| trouble.into_error(Operation::Connect);
        Box::pin(links.survey()).await.map_err(failed)?;
        let granted = links
            .call(limit, |mut client| async move {
                client.lease_grant(1, None).await
            })
            .await
            .map_err(failed)?;
        let id = granted.id();
        let revoked = links
            .call(
                limit,
                |mut client| async move { client.lease_revoke(id).await },
            )
            .await;
        if let Err(trouble) = revoked
            && trouble.cause != Cause::LeaseGone
        {
            return Err(failed(trouble));
        }
        let shortest = u64::try_from(granted.ttl()).unwrap_or(1).max(1);
        this.inner
            .min_lease
            .get_or_init(|| Duration::from_secs(shortest));
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
    /// The client finds the members by itself, without deadlines: when one of several is frozen, a
    /// call can be lost on it again and again, and with it the term, which
    /// [`connect`](Self::connect) would have kept by going on to the next member. Nor is each of
    /// them asked for its cluster before the first lease: their answers are compared. And a forked
    /// child that goes on with the runtime goes on with the client's connections too.
    ///
    /// Fails as [`lazy`](Self::lazy) does.
    pub fn with_client(client: etcd_client::Client, config: EtcdConfig) -> Result<Self, Error> {
        Self::on(config, Some(client))
    }

    fn on(config: EtcdConfig, client: Option<etcd_client::Client>) -> Result<Self, Error> {
        config.check()?;
        let runtime = Handle::try_current().map_err(|error| {
            Error::misconfigured("there is no tokio runtime here; connect within one")
                .with_source(error)
        })?;
        let links = Arc::new(Links::new(config, client));
        let hub = Hub::new(links.clone(), &runtime);
        let process = links.process.clone();
        let inner = Inner {
            common: Common {
                links,
                hub,
                clock: BootClock::shared(),
                runtime,
            },
            min_lease: OnceLock::new(),
            places: Mutex::default(),
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
            .sessions()
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
        for session in self.inner.sessions() {
            if let Some(slot) = session.slot(lock, candidate) {
                let position = session.position(lock, &slot).await;
                return position.map_err(|trouble| trouble.into_error(Operation::Holder));
            }
        }
        Ok(None)
    }

    /// How much this backend does; nothing in a forked child.
    pub fn traffic(&self) -> Traffic {
        if self.own(Operation::Holder).is_err() {
            return Traffic::default();
        }
        let sessions = self.inner.sessions();
        Traffic {
            leases: sessions.len(),
            keepalives: sessions.iter().map(|session| session.beats()).sum(),
        }
    }
}

impl fmt::Debug for EtcdBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdBackend")
            .field("config", &self.inner.common.links.config)
            .finish_non_exhaustive()
    }
}

impl Inner {
    fn place(&self, lease: Duration) -> Arc<Place> {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        places.entry(lease).or_default().clone()
    }

    fn sessions(&self) -> Vec<Arc<Session>> {
        let places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        let open = |place: &Arc<Place>| place.open().clone();
        let sessions = places.values().flat_map(open);
        sessions.filter(|session| !session.has_ended()).collect()
    }

    /// A slot for the campaign, in a new session if need be. Never called from a future that may
    /// be dropped, so that one slow grant serves all who wait.
    async fn seat(
        &self,
        lock: &LockName,
        candidate: &Candidate,
        lease: Duration,
    ) -> Result<Seated, Trouble> {
        let clock = &self.common.clock;
        let asked = clock.now();
        let place = self.place(lease);
        if let Some(seated) = place.slot(lock, candidate) {
            return Ok(seated);
        }
        let mut failed = place.opening.lock().await;
        if let Some(seated) = place.slot(lock, candidate) {
            return Ok(seated);
        }
        if let Some((at, trouble)) = &*failed
            && *at >= asked
        {
            return Err(trouble.clone());
        }
        match Session::open(self.common.clone(), lease).await {
            Ok(session) => {
                *failed = None;
                place.open().push(session);
            }
            Err(trouble) => {
                *failed = Some((clock.now(), trouble.clone()));
                return Err(trouble);
            }
        }
        place.slot(lock, candidate).ok_or_else(Trouble::lease_gone)
    }

    async fn acquire(
        &self,
        lock: &LockName,
        candidate: &Candidate,
        lease: Duration,
        gone: impl Fn() -> bool,
    ) -> Result<(Attempt, Seated), Trouble> {
        // Once more when the lease has ended, at the end of the queue of another one.
        let mut last = Trouble::lease_gone();
        for _ in 0..3 {
            let seated = self.seat(lock, candidate, lease).await?;
            let Seated { session, slot } = &seated;
            match session.acquire(lock, slot, candidate, &gone).await {
                Ok(Attempt::Moved) => {}
                Err(trouble) if trouble.cause == Cause::LeaseGone => last = trouble,
                Err(trouble) => return Err(trouble),
                Ok(attempt) => return Ok((attempt, seated)),
            }
        }
        Err(last)
    }
}

/// Runs `work` to its end on the backend's runtime, whatever becomes of the caller.
async fn detached<T: Send + 'static>(
    common: &Common,
    operation: Operation,
    work: impl Future<Output = Result<T, Trouble>> + Send + 'static,
) -> Result<T, Error> {
    match common.spawn(work).await {
        Ok(outcome) => outcome.map_err(|trouble| trouble.into_error(operation)),
        Err(_) => Err(runtime_is_gone(operation)),
    }
}

fn runtime_is_gone(operation: Operation) -> Error {
    Error::new(
        ErrorKind::Internal,
        operation,
        "the backend's runtime is shutting down; connect on the one that lives longest",
    )
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
        self.inner.common.process().check(operation)
    }

    fn min_lease(&self) -> Duration {
        let asked = self.inner.min_lease.get();
        asked.copied().unwrap_or(USUAL_MIN_LEASE)
    }

    /// etcd counts leases in seconds, and lengthens those below its shortest.
    fn check(&self, lease: Duration) -> Result<(), Error> {
        let shortest = self.min_lease();
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
        Capabilities {
            store: "etcd",
            min_lease: self.min_lease(),
            lease_granularity: Duration::from_secs(1),
            expiry: Expiry::Session,
            // The sweep of the server is every 500 ms.
            expiry_lag: Duration::from_secs(1),
            wakeup: Wakeup::Push,
            order: Order::Fifo,
            fencing: FencingGuarantee {
                over_crash: Rises::Always,
                over_failover: Rises::Always,
                over_deletion: Rises::Always,
                over_restore: Rises::If("it is restored with --bump-revision (etcd 3.6 or newer)"),
            },
        }
    }

    fn clock(&self) -> SharedClock {
        self.inner.common.clock.clone()
    }

    async fn acquire(
        &self,
        lock: &LockName,
        candidate: &Candidate,
        lease: Duration,
    ) -> Result<Acquired, Error> {
        self.own(Operation::Acquire)?;
        self.check(lease)?;
        let (answer, attempt) = oneshot::channel();
        let (inner, task_lock, task_candidate) =
            (self.inner.clone(), lock.clone(), candidate.clone());
        let seeking = self.inner.common.hub.seek(lock);
        self.inner.common.spawn(async move {
            let _seeking = seeking;
            let gone = || answer.is_closed();
            if gone() {
                return;
            }
            let outcome = inner
                .acquire(&task_lock, &task_candidate, lease, gone)
                .await;
            // Unheard, it ends with its lease, or is adopted by the next attempt.
            let _unheard = answer.send(outcome);
        });
        let outcome = attempt
            .await
            .map_err(|_| runtime_is_gone(Operation::Acquire))?;
        match outcome.map_err(|trouble| trouble.into_error(Operation::Acquire))? {
            (Attempt::Held { token, proven }, seated) => {
                let grant = Grant::new(lock.clone(), candidate.clone(), token, lease, proven);
                Ok(Acquired::Held(grant.with_state(seated)))
            }
            (Attempt::Taken(holder), _) => Ok(Acquired::Taken {
                holder,
                free_in: None,
            }),
            (Attempt::Moved, _) => Err(Trouble::lease_gone().into_error(Operation::Acquire)),
        }
    }

    async fn renew(&self, grant: &Grant, not_before: Time) -> Result<Renewal, Error> {
        self.own(Operation::Renew)?;
        let Seated { session, slot } = grant
            .state::<Seated>()
            .ok_or_else(|| foreign(Operation::Renew))?;
        let standing = session
            .renew(&grant.lock, slot, grant.token, &grant.candidate, not_before)
            .await;
        match standing.map_err(|trouble| trouble.into_error(Operation::Renew))? {
            Standing::Proven(proven) => {
                let mut grant = grant.clone();
                grant.proven_at = proven;
                grant.lease = session.lease;
                Ok(Renewal::Renewed(grant))
            }
            Standing::Lost => Ok(Renewal::Lost { holder: None }),
        }
    }

    async fn release(&self, grant: &Grant) -> Result<(), Error> {
        self.own(Operation::Release)?;
        let seated = grant
            .state::<Seated>()
            .cloned()
            .ok_or_else(|| foreign(Operation::Release))?;
        // Another one's term is not this candidate's to give back, and its own is over.
        if !seated.slot.is_of(&grant.candidate) {
            return Ok(());
        }
        let (lock, token) = (grant.lock.clone(), grant.token);
        let work = async move {
            let Seated { session, slot } = seated;
            session.release(&lock, &slot, Some(token)).await
        };
        detached(&self.inner.common, Operation::Release, work).await
    }

    async fn withdraw(&self, lock: &LockName, candidate: &Candidate) -> Result<(), Error> {
        self.own(Operation::Withdraw)?;
        let (inner, lock, candidate) = (self.inner.clone(), lock.clone(), candidate.clone());
        let work = async move {
            for session in inner.sessions() {
                if let Some(slot) = session.slot(&lock, &candidate) {
                    session.release(&lock, &slot, None).await?;
                }
            }
            Ok(())
        };
        detached(&self.inner.common, Operation::Withdraw, work).await
    }

    /// One linearizable read, for which the right to read is enough. A candidate that has not
    /// confirmed its term does not lead, so the lock is free then, though others have to wait.
    ///
    /// Fails with [`Corrupted`](ErrorKind::Corrupted) while a key without a lease stands first:
    /// nobody is elected past it, and the message says how to delete it.
    async fn holder(&self, lock: &LockName) -> Result<Occupancy, Error> {
        self.own(Operation::Holder)?;
        let links = self.inner.common.links.clone();
        let election = keys::election(&links.config.prefix, lock);
        let work = async move {
            let limit = links.config.request_timeout;
            let asking = links.call(limit, |mut client| {
                let election = election.clone();
                async move { client.get(election, Some(keys::first())).await }
            });
            Ok(asking.await?.take_kvs().into_iter().next())
        };
        let first = detached(&self.inner.common, Operation::Holder, work).await?;
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
        self.inner.common.hub.changes(lock)
    }

    /// One heartbeat finds out for all elections on its lease.
    fn loss(&self, grant: &Grant) -> Option<Loss> {
        self.own(Operation::Renew).ok()?;
        let slot = grant.state::<Seated>()?.slot.clone();
        Some(Box::pin(slot.over(keys::revision(grant.token))))
    }

    async fn checks(&self, lock: &LockName, _lease: Duration) -> Vec<Check> {
        if let Err(error) = self.own(Operation::Holder) {
            let remedy = "connect after the fork";
            return vec![Check::unusable("process", error.message(), remedy)];
        }
        checks::all(&self.inner.common.links, lock).await
    }
}
