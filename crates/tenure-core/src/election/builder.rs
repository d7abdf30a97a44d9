//! How an election is described.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::contract::backend::LockBackend;
use crate::contract::error::Error;
use crate::contract::name::{Identity, LockName, PublishedValue};
use crate::election::context::{Context, Numbers, Setup};
use crate::election::probe::HealthProbe;
use crate::election::spawn::{CurrentRuntime, Spawn};
use crate::election::{Election, telemetry};
use crate::policy::Policy;

/// The default of [`ElectionBuilder::drain_limit`]; below the 30 s that Kubernetes gives a pod.
const DRAIN_LIMIT: Duration = Duration::from_secs(25);

impl Election {
    /// Starts to describe an election for `lock` on `backend`.
    pub fn builder(backend: Arc<dyn LockBackend>, lock: LockName) -> ElectionBuilder {
        ElectionBuilder {
            backend,
            lock,
            identity: None,
            policy: Policy::default(),
            value: None,
            health: None,
            drain_limit: DRAIN_LIMIT,
            abort_on_overrun: false,
            spawner: Arc::new(CurrentRuntime),
            seed: None,
        }
    }
}

/// Describes an [`Election`].
#[must_use]
pub struct ElectionBuilder {
    backend: Arc<dyn LockBackend>,
    lock: LockName,
    identity: Option<Identity>,
    policy: Policy,
    value: Option<PublishedValue>,
    health: Option<HealthProbe>,
    drain_limit: Duration,
    abort_on_overrun: bool,
    spawner: Arc<dyn Spawn>,
    seed: Option<u64>,
}

impl ElectionBuilder {
    /// Who campaigns; by default [`Identity::of_this_process`].
    pub fn identity(mut self, identity: Identity) -> Self {
        self.identity = Some(identity);
        self
    }

    /// The policy; by default [`Policy::default`].
    pub fn policy(mut self, policy: Policy) -> Self {
        self.policy = policy;
        self
    }

    /// What is published beside the identity while leading.
    pub fn value(mut self, value: PublishedValue) -> Self {
        self.value = Some(value);
        self
    }

    /// A probe that must say `true` for this candidate to campaign and to go on renewing, so that
    /// an application that is stuck loses the lead. It must return at once. On a
    /// [`HeartbeatThread`](crate::HeartbeatThread) one that blocks delays no heartbeat: its last
    /// answer counts for two leases, and after that it is a no.
    ///
    /// A leader's probe is asked before each heartbeat. A candidate's probe is asked at least
    /// every retry interval while it waits, and once more between the store's grant and the start
    /// of the term. When it says no the candidate withdraws at once, so that no one waits
    /// behind it. When it says yes again the candidate comes back, at the end of the queue where the
    /// store has one, and one heartbeat after it left at the earliest.
    pub fn health(mut self, probe: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        self.health = Some(HealthProbe::new(probe));
        self
    }

    /// How long the term is kept up for work that was told to stop and has not returned; 25 s by
    /// default. After that the validity runs out.
    pub fn drain_limit(mut self, limit: Duration) -> Self {
        self.drain_limit = limit;
        self
    }

    /// Aborts the process when the work still runs although its term is over. Off by default:
    /// then it is reported as an event and in the log.
    pub fn abort_on_overrun(mut self, abort: bool) -> Self {
        self.abort_on_overrun = abort;
        self
    }

    /// Where the engine runs; by default on the runtime that `campaign` is called on. See
    /// [`HeartbeatThread`](crate::HeartbeatThread).
    pub fn spawn_on(mut self, spawner: impl Spawn) -> Self {
        self.spawner = Arc::new(spawner);
        self
    }

    /// Seeds jitter and campaign numbers, so that a simulation can be replayed. Two candidates
    /// with the same seed and identity could take each other's campaigns for their own: never set
    /// it outside tests.
    #[cfg(feature = "test-util")]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// The election, or a [`Misconfigured`](crate::ErrorKind::Misconfigured) error if the store cannot
    /// grant the policy's lease. Without an identity of its own it fails like
    /// [`Identity::of_this_process`].
    pub fn build(self) -> Result<Election, Error> {
        self.policy.check_for(&self.backend.capabilities())?;
        let identity = match self.identity {
            Some(identity) => identity,
            None => Identity::of_this_process()?,
        };
        let setup = Setup {
            backend: self.backend,
            lock: self.lock,
            identity,
            policy: self.policy,
            value: self.value,
            health: self.health,
            drain_limit: self.drain_limit,
            abort_on_overrun: self.abort_on_overrun,
            spawner: self.spawner,
            numbers: Numbers::new(self.seed),
        };
        telemetry::registered(&setup.lock, setup.backend.capabilities().store);
        Ok(Election {
            context: Arc::new(Context::new(setup)),
        })
    }
}

impl fmt::Debug for ElectionBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ElectionBuilder")
            .field("lock", &self.lock)
            .field("identity", &self.identity)
            .field("policy", &self.policy)
            .finish_non_exhaustive()
    }
}
