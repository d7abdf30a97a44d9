//! What a backend of ours and its elections do, the same on every store.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures_util::StreamExt as _;
use tenure_core::{
    Acquired, CampaignId, Candidate, Election, ElectionState, Grant, Identity, LockBackend,
    LockName, Policy, Renewal,
};

use crate::LONG;
use crate::beside::{Connects, HAND_OVER, Lock, Pair, Rest, Row, connects, handed_over};

/// Another connection to the store, as an application has it.
pub async fn connect(url: &str) -> Arc<dyn LockBackend> {
    tenure::connect(url).await.unwrap()
}

/// A lock of its own for what is measured.
pub fn lock(name: &str) -> LockName {
    LockName::new(format!("bench-{name}-{:016x}", fastrand::u64(..))).unwrap()
}

pub fn identity(number: usize) -> Identity {
    Identity::new(format!("candidate-{number}-{:08x}", fastrand::u32(..))).unwrap()
}

/// A campaign that nobody has made before.
pub fn candidate(identity: &Identity) -> Candidate {
    Candidate::new(identity.clone(), CampaignId::new(fastrand::u64(..)))
}

pub fn held(acquired: Acquired) -> Grant {
    match acquired {
        Acquired::Held(grant) => grant,
        other => panic!("not granted: {other:?}"),
    }
}

pub fn renewed(renewal: Renewal) -> Grant {
    match renewal {
        Renewal::Renewed(grant) => grant,
        other => panic!("not renewed: {other:?}"),
    }
}

/// A policy by whose times nothing happens while something is measured.
pub fn patient() -> Policy {
    Policy::builder().lease(LONG).build().unwrap()
}

pub fn election(backend: Arc<dyn LockBackend>, lock: LockName, policy: &Policy) -> Election {
    let election = Election::builder(backend, lock).policy(policy.clone());
    election.identity(identity(0)).build().unwrap()
}

/// The calls of a backend.
pub struct Calls {
    backend: Arc<dyn LockBackend>,
    lock: LockName,
    identity: Identity,
    grant: Option<Grant>,
}

impl Calls {
    pub async fn boxed(url: &str) -> Box<dyn Lock> {
        Box::new(Self {
            backend: connect(url).await,
            lock: lock("calls"),
            identity: identity(0),
            grant: None,
        })
    }
}

#[async_trait]
impl Lock for Calls {
    async fn acquire(&mut self) {
        let me = candidate(&self.identity);
        let acquired = self.backend.acquire(&self.lock, &me, LONG).await;
        self.grant = Some(held(acquired.unwrap()));
    }

    async fn renew(&mut self) -> bool {
        // A proof of its own, not one that is there already.
        let now = self.backend.clock().now();
        let grant = self.grant.take().unwrap();
        self.grant = Some(renewed(self.backend.renew(&grant, now).await.unwrap()));
        true
    }

    async fn release(&mut self) {
        let grant = self.grant.take().unwrap();
        self.backend.release(&grant).await.unwrap();
    }
}

/// A hand-over without the engine: what the backend alone takes.
struct Backends([Arc<dyn LockBackend>; 2]);

#[async_trait]
impl Pair for Backends {
    async fn hand_over(&mut self, wait: Duration, rest: &dyn Rest) -> Duration {
        let [holder, waiter] = self.0.clone();
        let name = lock("backends");
        let (ann, bob) = (candidate(&identity(0)), candidate(&identity(1)));
        let grant = held(holder.acquire(&name, &ann, LONG).await.unwrap());
        let mut changes = waiter.changes(&name);
        let refused = waiter.acquire(&name, &bob, LONG).await.unwrap();
        assert!(matches!(refused, Acquired::Taken { .. }), "{refused:?}");
        let waiting = tokio::spawn(async move {
            loop {
                changes.next().await.unwrap();
                let acquired = waiter.acquire(&name, &bob, LONG).await.unwrap();
                // Or it was a hint from before.
                if let Acquired::Held(next) = acquired {
                    return (Instant::now(), (waiter, next));
                }
            }
        });
        let release = holder.release(&grant);
        let (taken, released, (waiter, next)) = handed_over((wait, rest), release, waiting).await;
        released.unwrap();
        waiter.release(&next).await.unwrap();
        taken
    }
}

/// A hand-over as an application sees it.
struct Elections([Election; 2]);

#[async_trait]
impl Pair for Elections {
    async fn hand_over(&mut self, wait: Duration, rest: &dyn Rest) -> Duration {
        let [first, second] = self.0.clone();
        let leader = first.campaign().await.unwrap();
        let waits = second.clone();
        let waiting = tokio::spawn(async move {
            let leader = second.campaign().await.unwrap();
            (Instant::now(), leader)
        });
        while !matches!(&*waits.state().borrow(), ElectionState::Candidate { .. }) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let resign = leader.resign();
        let (taken, resigned, leader) = handed_over((wait, rest), resign, waiting).await;
        resigned.unwrap();
        assert!(leader.is_valid());
        leader.resign().await.unwrap();
        for election in &self.0 {
            election.settled().await;
        }
        taken
    }
}

/// Both kinds of hand-over, as rows of a table; `floors` are beside which they must be, and why they
/// may not.
pub fn pairs(
    url: &str,
    floors: &[(&'static str, [&'static [&'static str]; 2])],
) -> [Row<Connects>; 2] {
    let (one, other) = (url.to_owned(), url.to_owned());
    let backends = connects(move || {
        let url = one.clone();
        async move { Backends([connect(&url).await, connect(&url).await]) }
    });
    let elections = connects(move || {
        let (url, name) = (other.clone(), lock("elections"));
        async move {
            let backends = [connect(&url).await, connect(&url).await];
            Elections(backends.map(|one| election(one, name.clone(), &patient())))
        }
    });
    let mut rows = [
        Row::new("tenure: release to the next grant", backends),
        Row::new("tenure: resign to the next leader", elections),
    ];
    for (floor, whys) in floors {
        rows = {
            let [one, other] = rows;
            [
                one.at_most(HAND_OVER, floor, whys[0]),
                other.at_most(HAND_OVER, floor, whys[1]),
            ]
        };
    }
    rows
}
