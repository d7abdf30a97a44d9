//! One call after the other: to get a lock, to be refused it, to renew it, to give it back.

use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::Criterion;
use tenure::{Acquired, Candidate, Grant, Identity, LockBackend, LockName};
use tenure_benches::ours::{candidate, held, identity, lock, renewed};
use tenure_benches::{LONG, on_worker};
use tokio::runtime::Runtime;

use crate::places::Place;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Call {
    AcquireFree,
    AcquireTaken,
    Renew,
    Release,
}

const CALLS: [(Call, &str); 4] = [
    (Call::AcquireFree, "acquire when free"),
    (Call::AcquireTaken, "acquire when taken"),
    (Call::Renew, "renew"),
    (Call::Release, "release"),
];

/// A holder and another one, each on a connection of its own.
#[derive(Clone)]
struct Pair {
    backend: Arc<dyn LockBackend>,
    other: Arc<dyn LockBackend>,
    me: Identity,
    them: Identity,
    lock: LockName,
}

pub(crate) fn measure(criterion: &mut Criterion, runtime: &Runtime, places: &[Place]) {
    for (call, title) in CALLS {
        let mut group = criterion.benchmark_group(title);
        for place in places {
            let pair = on_worker(runtime, pair(place.clone()));
            crate::series(&mut group, title, place.name, |times| {
                on_worker(runtime, calls(pair.clone(), call, times))
            });
        }
        group.finish();
    }
}

async fn pair(place: Place) -> Pair {
    Pair {
        backend: place.connect().await,
        other: place.connect().await,
        me: identity(0),
        them: identity(1),
        lock: lock("calls"),
    }
}

async fn calls(pair: Pair, call: Call, times: u64) -> Vec<Duration> {
    let mut taken = Vec::new();
    for _ in 0..times {
        taken.push(one_term(&pair, call).await);
    }
    taken
}

/// Takes the lock, makes the call, gives the lock back.
async fn one_term(pair: &Pair, call: Call) -> Duration {
    let Pair { backend, lock, .. } = pair;
    let (mut grant, acquired) = acquired(backend, lock, &candidate(&pair.me)).await;
    let mut taken = acquired;
    if call == Call::AcquireTaken {
        // Each is another one's first try: a second look of the same one may cost less.
        taken = refused(&pair.other, lock, &pair.them).await;
    }
    if call == Call::Renew {
        let start = Instant::now();
        let renewal = backend.renew(&grant, backend.clock().now()).await;
        taken = start.elapsed();
        grant = renewed(renewal.unwrap());
    }
    let start = Instant::now();
    backend.release(&grant).await.unwrap();
    if call == Call::Release {
        taken = start.elapsed();
    }
    taken
}

async fn refused(backend: &Arc<dyn LockBackend>, lock: &LockName, who: &Identity) -> Duration {
    let who = candidate(who);
    let start = Instant::now();
    let refused = backend.acquire(lock, &who, LONG).await.unwrap();
    let taken = start.elapsed();
    assert!(matches!(refused, Acquired::Taken { .. }), "{refused:?}");
    backend.withdraw(lock, &who).await.unwrap();
    taken
}

async fn acquired(
    backend: &Arc<dyn LockBackend>,
    lock: &LockName,
    who: &Candidate,
) -> (Grant, Duration) {
    loop {
        let start = Instant::now();
        let acquired = backend.acquire(lock, who, LONG).await.unwrap();
        let taken = start.elapsed();
        if matches!(acquired, Acquired::Held(_)) {
            return (held(acquired), taken);
        }
        // A candidate that has withdrawn may be in the queue for another moment.
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
