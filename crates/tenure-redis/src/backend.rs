//! The lock on Redis.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::stream;
use tenure_core::{
    Acquired, Candidate, Capabilities, Changes, Check, Error, ErrorKind, Expiry, FencingGuarantee,
    FencingToken, Grant, Kept, LockBackend, LockName, Loss, Occupancy, Operation, Page, Renewal,
    Rises, SharedClock, Time, Wakeup, Wish,
};
use tenure_kit::limits::shown;

use crate::checks::replicas::confirmation;
use crate::checks::{self, ElectionSettings, FIX, LockState, Permissions, Settings};
use crate::config::{RedisConfig, Replicas};
use crate::errors::{self, StoreError, acl_line};
use crate::keys::KeyNames;
use crate::late::{FollowedRenew, LateRenewals, Renewed};
use crate::net::network::Network;
use crate::notifications::Notifications;
use crate::requests::acquire::{self, Acquire};
use crate::requests::ask::AskToResign;
use crate::requests::look::Look;
use crate::requests::probe::{MayTell, Probe};
use crate::requests::release::Release;
use crate::requests::renew::{self, Renew};
use crate::topology::Topology;

/// The lock beside whose keys commands are tried. No election has it: it need not exist.
const PROBED: &str = "tenure-probe";

/// A key still answers in the last millisecond of its expiry.
const PAST_EXPIRY: Duration = Duration::from_millis(1);

/// Elections on Redis or Valkey: one server, the master that sentinels name, or a cluster.
///
/// Clones share their connections. All I/O is done on the tokio runtime that the backend was made
/// on, which must live as long as its elections; see
/// [`HeartbeatThread`](tenure_core::HeartbeatThread).
#[derive(Clone)]
pub struct RedisBackend {
    /// Leaked by a forked child, with all that it holds: the parent's tasks use it.
    shared: Arc<Kept<Shared>>,
}

struct Shared {
    topology: Arc<Topology>,
    network: Arc<Network>,
    notifications: Notifications,
    late: LateRenewals,
    /// What was not fine when it was connected.
    checks: Vec<Check>,
    incarnation_changes: AtomicU64,
    silent_release_told: AtomicBool,
}

impl RedisBackend {
    /// Connects, and checks the server's settings: see [`connect_checks`](Self::connect_checks).
    ///
    /// Fails within a few times the connect and request timeouts at most, with
    /// [`Misconfigured`](ErrorKind::Misconfigured) when the server is a replica, and with
    /// [`Forbidden`](ErrorKind::Forbidden), [`Unavailable`](ErrorKind::Unavailable) or
    /// [`Timeout`](ErrorKind::Timeout) as the message says. Cancel safe.
    pub async fn connect(config: RedisConfig) -> Result<Self, Error> {
        let (network, topology) = Self::prepare(config)?;
        let replicas = network.config.replicas;
        let found = topology.ask_any(&Settings { replicas }).await;
        let checks = found.map_err(|error| {
            let error = if errors::is_replica(&error) {
                error.with_kind(ErrorKind::Misconfigured)
            } else {
                error
            };
            error.into_error(Operation::Connect)
        })?;
        let (lock, deadline) = (LockName::new(PROBED)?, topology.deadline());
        let keys = network.config.keys_of(&lock)?;
        let probe = Probe {
            key: keys.lock(),
            replicas,
        };
        let probed = topology.ask_holder(&keys, deadline, &probe).await;
        probed.map_err(|error| error.into_error(Operation::Connect))?;
        for check in &checks {
            let remedy = check.remedy.as_deref().unwrap_or_default();
            tracing::warn!("Redis: {}; {remedy}", check.reason);
        }
        Ok(Self::of(network, topology, checks))
    }

    /// Does not connect before the first call, and checks no settings of the server: for a service
    /// that starts before its store does. No I/O.
    ///
    /// Fails with [`InvalidInput`](ErrorKind::InvalidInput) or
    /// [`Misconfigured`](ErrorKind::Misconfigured) on a configuration that cannot work, or outside
    /// a tokio runtime.
    pub fn lazy(config: RedisConfig) -> Result<Self, Error> {
        let (network, topology) = Self::prepare(config)?;
        Ok(Self::of(network, topology, Vec::new()))
    }

    fn prepare(config: RedisConfig) -> Result<(Arc<Network>, Arc<Topology>), Error> {
        config.check()?;
        let network = Arc::new(Network::new(config)?);
        let topology = Arc::new(Topology::new(network.clone()));
        Ok((network, topology))
    }

    fn of(network: Arc<Network>, topology: Arc<Topology>, checks: Vec<Check>) -> Self {
        let process = network.process().clone();
        let shared = Shared {
            notifications: Notifications::new(topology.clone(), network.clone()),
            late: LateRenewals::new(&network.tasks),
            topology,
            network,
            checks,
            incarnation_changes: AtomicU64::new(0),
            silent_release_told: AtomicBool::new(false),
        };
        Self {
            shared: Arc::new(process.keep(shared)),
        }
    }

    /// Fails in a child that was forked since the backend was made: its connections, and the
    /// terms that it holds, are the parent's.
    fn check_process(&self, operation: Operation) -> Result<(), Error> {
        self.shared.network.process().check(operation)
    }

    /// The checks at [`connect`](Self::connect) that were not fine: something weakens the promises
    /// of this backend, or could not be seen. Each was logged as a warning.
    pub fn connect_checks(&self) -> &[Check] {
        &self.shared.checks
    }

    /// How often this backend has found that a server had been restarted or replaced since the
    /// last term, so that terms may have been forgotten. Each was logged as a warning, and the
    /// lock was in quarantine for a lease (with Sentinel and in a cluster for longer, as the
    /// documentation of this crate says).
    pub fn incarnation_changes(&self) -> u64 {
        self.shared.incarnation_changes.load(Ordering::Relaxed)
    }

    /// Uses another password from the next connection on; those that are open stay open, and no
    /// term is lost.
    pub fn set_password(&self, password: impl Into<String>) {
        self.shared.network.set_password(password.into());
    }

    /// Fails when another lock has one of its keys.
    fn keys(&self, lock: &LockName) -> Result<KeyNames, Error> {
        self.shared.network.config.keys_of(lock)
    }

    fn replicas(&self) -> Option<Replicas> {
        self.shared.network.config.replicas
    }

    async fn give_back(
        &self,
        keys: &KeyNames,
        candidate: &Candidate,
        token: Option<FencingToken>,
        lease: Option<Duration>,
    ) -> Result<(), StoreError> {
        let release = Release {
            keys,
            candidate,
            token,
        };
        let topology = &self.shared.topology;
        let unheard = if let Some(lease) = lease {
            topology.ask_for_lease(keys, lease, &release).await?
        } else {
            let deadline = topology.deadline();
            topology.ask_holder(keys, deadline, &release).await?
        };
        if let Some(problem) = unheard
            && !self
                .shared
                .silent_release_told
                .swap(true, Ordering::Relaxed)
        {
            tracing::warn!(
                problem = shown(&problem),
                grant = acl_line(&self.shared.network.config.patterns()),
                "a lock was released, but its waiters could not be told; they wait for the lease \
                 to end, or poll"
            );
        }
        Ok(())
    }
}

impl fmt::Debug for RedisBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisBackend")
            .field("config", &self.shared.network.config)
            .finish_non_exhaustive()
    }
}

/// Leases are kept in whole milliseconds; what is cut off is not granted.
fn in_millis(lease: Duration, operation: Operation) -> Result<u64, Error> {
    match u64::try_from(lease.as_millis()) {
        Ok(millis) if millis > 0 && lease <= tenure_core::record::MAX_LEASE => Ok(millis),
        _ => Err(Error::new(
            ErrorKind::InvalidInput,
            operation,
            format!("a lease of {lease:?} is outside 1ms to an hour"),
        )),
    }
}

#[async_trait]
impl LockBackend for RedisBackend {
    fn capabilities(&self) -> Capabilities {
        Capabilities::new(
            "redis",
            Expiry::Store,
            FencingGuarantee::none()
                .over_crash(Rises::If(
                    "the server has an append-only file that is synced with each write, or its \
                     wall clock is not set back",
                ))
                .over_failover(Rises::If(
                    "the servers' wall clocks differ by less than the time between the two terms",
                ))
                .over_deletion(Rises::Always)
                .over_restore(Rises::If("the server's wall clock is not set back")),
        )
        .with_min_lease(Duration::from_millis(10))
        .with_lease_granularity(Duration::from_millis(1))
        .with_expiry_lag(Duration::from_millis(5))
        .with_wakeup(Wakeup::Push)
    }

    fn clock(&self) -> SharedClock {
        self.shared.network.clock.clone()
    }

    /// One script, and `WAIT` where replicas are asked for. Dropped or unanswered, it may have
    /// been applied: repeat it, `withdraw`, or wait for the lease to end.
    async fn acquire(
        &self,
        lock: &LockName,
        candidate: &Candidate,
        lease: Duration,
    ) -> Result<Acquired, Error> {
        self.check_process(Operation::Acquire)?;
        let millis = in_millis(lease, Operation::Acquire)?;
        let keys = &self.keys(lock)?;
        let acquire = Acquire {
            keys,
            candidate,
            lease: millis,
            replicas: self.replicas(),
        };
        let topology = &self.shared.topology;
        let (sent_at, outcome) = topology
            .ask_for_lease(keys, lease, &acquire)
            .await
            .map_err(|error| error.into_error(Operation::Acquire))?;
        match &outcome {
            acquire::Outcome::Held(token) => {
                self.shared.notifications.met_term(keys, Some(*token));
            }
            acquire::Outcome::Taken { holder, .. } => {
                let token = holder.as_ref().and_then(|holder| holder.token);
                self.shared.notifications.met_term(keys, token);
            }
            acquire::Outcome::NewIncarnation { .. } => {}
        }
        Ok(match outcome {
            acquire::Outcome::Held(token) => {
                self.shared.network.leads_until(sent_at + lease);
                let lease = Duration::from_millis(millis);
                Acquired::Held(Grant::new(
                    lock.clone(),
                    candidate.clone(),
                    token,
                    lease,
                    sent_at,
                ))
            }
            acquire::Outcome::Taken { holder, left } => {
                Acquired::taken(holder, Some(left + PAST_EXPIRY))
            }
            acquire::Outcome::NewIncarnation { wait, before, now } => {
                self.shared
                    .incarnation_changes
                    .fetch_add(1, Ordering::Relaxed);
                tracing::warn!(
                    lock = lock.as_str(),
                    before = shown(&before),
                    now = shown(&now),
                    ?wait,
                    "the Redis server was restarted or replaced since the last term, and may have \
                     forgotten one that still goes on: no candidate is elected until it is over; if this \
                     server lost terms, tokens go on above its clock"
                );
                Acquired::taken(None, Some(wait + PAST_EXPIRY))
            }
        })
    }

    /// One script, and `WAIT` where replicas are asked for. Unanswered, it may have been applied,
    /// which does no harm.
    ///
    /// Dropped, a request that was sent is waited for in the background, until the lease has
    /// passed. When it is answered after all, that is the answer to the next call too, if it was
    /// sent at or after `not_before`.
    async fn renew(&self, grant: &Grant, not_before: Time) -> Result<Renewal, Error> {
        self.check_process(Operation::Renew)?;
        let millis = in_millis(grant.lease, Operation::Renew)?;
        let keys = &self.keys(&grant.lock)?;
        let (term, late) = (&Renewed::of(keys, grant), &self.shared.late);
        let renew = Arc::new(Renew {
            key: keys.lock().to_owned(),
            candidate: grant.candidate.clone(),
            token: grant.token,
            lease: millis,
            replicas: self.replicas(),
        });
        let renew = FollowedRenew { renew, term, late };
        let topology = &self.shared.topology;
        let enough = |at| at >= not_before && at > grant.proven_at;
        let (sent_at, outcome) = tokio::select! {
            biased;
            answer = topology.ask_for_lease(keys, grant.lease, &renew) => match answer {
                Ok(answer) => answer,
                Err(error) => {
                    let error = error.into_error(Operation::Renew);
                    // What is refused for good is not proven by an answer from before.
                    let proof = late.proof_now(term, enough).filter(|_| error.is_retryable());
                    (proof.ok_or(error)?, renew::Outcome::Renewed { asked: None })
                }
            },
            sent_at = late.proof(term, enough) => {
                (sent_at, renew::Outcome::Renewed { asked: None })
            }
        };
        late.forget(term);
        Ok(match outcome {
            renew::Outcome::Renewed { asked } => {
                self.shared.network.leads_until(sent_at + grant.lease);
                let mut renewed = grant.clone();
                renewed.proven_at = sent_at;
                renewed.lease = Duration::from_millis(millis);
                let until = |left| self.clock().now() + left;
                let wish = asked.map(|left| Wish::new(grant.token, until(left)));
                Renewal::Renewed(renewed.with_wish(wish))
            }
            renew::Outcome::Lost(holder) => Renewal::lost(holder),
        })
    }

    /// One script. Unanswered, it may have been applied; repeat it.
    async fn release(&self, grant: &Grant) -> Result<(), Error> {
        self.check_process(Operation::Release)?;
        let keys = &self.keys(&grant.lock)?;
        self.shared.late.forget(&Renewed::of(keys, grant));
        self.give_back(keys, &grant.candidate, Some(grant.token), Some(grant.lease))
            .await
            .map_err(|error| error.into_error(Operation::Release))
    }

    /// One script. Unanswered, it may have been applied; repeat it.
    async fn withdraw(&self, lock: &LockName, candidate: &Candidate) -> Result<(), Error> {
        self.check_process(Operation::Withdraw)?;
        self.give_back(&self.keys(lock)?, candidate, None, None)
            .await
            .map_err(|error| error.into_error(Operation::Withdraw))
    }

    /// One script, with the rights of a candidate. Unanswered, it may have been applied.
    async fn ask_to_resign(
        &self,
        lock: &LockName,
        token: FencingToken,
        lasts: Duration,
    ) -> Result<(), Error> {
        self.check_process(Operation::AskToResign)?;
        let keys = &self.keys(lock)?;
        let key = keys.lock();
        let ask = AskToResign { key, token, lasts };
        let topology = &self.shared.topology;
        topology
            .ask_holder(keys, topology.deadline(), &ask)
            .await
            .map_err(|error| error.into_error(Operation::AskToResign))
    }

    /// Always fails: the server would have to read every key of its database.
    async fn elections(&self, _page: Page<'_>) -> Result<Vec<LockName>, Error> {
        Err(Error::new(
            ErrorKind::Unsupported,
            Operation::List,
            "Redis cannot list elections: the server would have to read every key of its database; ask for \
             one lock by its name: tenure status",
        ))
    }

    /// `GET` and `PTTL`, which a user without the right to write may be allowed; for a lock that is
    /// free also `INFO`, if that is allowed, as a replica may lack what its master has.
    async fn holder(&self, lock: &LockName) -> Result<Occupancy, Error> {
        self.check_process(Operation::Holder)?;
        let topology = &self.shared.topology;
        let keys = &self.keys(lock)?;
        let holder = topology
            .ask_holder(keys, topology.deadline(), &Look { keys })
            .await
            .map_err(|error| error.into_error(Operation::Holder))?;
        Ok(holder.map_or(Occupancy::Free, Occupancy::Led))
    }

    /// Releases as they are told on the lock's channel, and one notification after each
    /// subscription. Ends when subscribing is forbidden, and at once in a forked child.
    fn changes(&self, lock: &LockName) -> Changes {
        match self.keys(lock) {
            Ok(keys) => self.shared.notifications.subscribe(keys),
            // The calls say what is wrong.
            Err(_) => Box::pin(stream::empty()),
        }
    }

    /// When the servers of the URL turn out to belong to two deployments: another leader may be on
    /// the other one, so no term goes on until the next heartbeat.
    fn loss(&self, _grant: &Grant) -> Option<Loss> {
        self.check_process(Operation::Renew).ok()?;
        Some(Box::pin(self.shared.topology.until_mixed()))
    }

    async fn checks(&self, lock: &LockName, _lease: Duration) -> Vec<Check> {
        if let Err(error) = self.check_process(Operation::Holder) {
            let remedy = "connect after the fork";
            return vec![Check::unusable("process", error.message(), remedy)];
        }
        let keys = match self.keys(lock) {
            Ok(keys) => keys,
            Err(error) => {
                let remedy = "give the lock the name that the URL's lock_key has for this key";
                return vec![Check::unusable("lock", error.message(), remedy)];
            }
        };
        let (keys, config) = (&keys, &self.shared.network.config);
        let failed = |name, error: StoreError| {
            let error = error.into_error(Operation::Connect);
            Check::unusable(name, error.message(), FIX)
        };
        let (topology, replicas) = (&self.shared.topology, self.replicas());
        // The lock's own node: another one of a cluster can have other settings.
        let settings = ElectionSettings { replicas };
        let looked = topology
            .ask_holder(keys, topology.deadline(), &settings)
            .await;
        let mut checks = looked.unwrap_or_else(|error| vec![failed("settings", error)]);
        if let Some(wanted) = replicas {
            let confirmed = confirmation(topology, keys, wanted).await;
            checks.extend(confirmed.unwrap_or_else(|error| Some(failed("replication", error))));
        }
        let permissions = Permissions {
            key: keys.lock(),
            config,
        };
        let may = topology
            .ask_holder(keys, topology.deadline(), &permissions)
            .await;
        checks.extend(may.unwrap_or_else(|error| vec![failed("permissions", error)]));
        let state = topology
            .ask_holder(keys, topology.deadline(), &LockState { keys })
            .await;
        checks.extend(checks::lock_state(state));
        let heard = self.shared.notifications.try_out(keys.clone()).await;
        let tells = topology
            .ask_holder(keys, topology.deadline(), &MayTell { keys })
            .await;
        checks.push(checks::hearing(heard, tells, &config.patterns()));
        checks.push(checks::encryption(config));
        checks.extend(checks::sentinels(config));
        checks.extend(topology.check_deployment().await);
        checks
    }
}
