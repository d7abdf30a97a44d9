//! One call after the other: to get a lock, to be refused it, to renew it, to give it back.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tenure::{Acquired, Candidate, Grant, Identity, LockBackend, LockName};
use tenure_benches::ours::{candidate, held, identity, lock, renewed};
use tenure_benches::{LONG, is_quick, on_worker, record};
use tokio::runtime::Runtime;

use crate::places::Place;

const NAMES: [&str; 4] = [
    "acquire when free",
    "acquire when taken",
    "renew",
    "release",
];

pub(crate) fn measure(runtime: &Runtime, places: &[Place]) {
    for place in places {
        let taken = on_worker(runtime, calls(place.clone()));
        for (name, taken) in NAMES.iter().zip(taken) {
            record::series(name, place.name, &taken);
        }
    }
}

async fn calls(place: Place) -> [Vec<Duration>; 4] {
    let rounds = if is_quick() { 200 } else { 2_000 };
    let (backend, other) = (place.connect().await, place.connect().await);
    let (me, them, lock) = (identity(0), identity(1), lock("calls"));
    let mut taken = [const { Vec::new() }; 4];
    for round in 0..rounds {
        let ours = candidate(&me);
        let (grant, acquired) = acquired(&backend, &lock, &ours).await;
        // Each is another one's first try: a second look of the same one may cost less.
        let refused = refused(&other, &lock, &them).await;
        let start = Instant::now();
        let renewal = backend.renew(&grant, backend.clock().now()).await;
        let renewing = start.elapsed();
        let grant = renewed(renewal.unwrap());
        let start = Instant::now();
        backend.release(&grant).await.unwrap();
        let all = [acquired, refused, renewing, start.elapsed()];
        // The first ones warm up.
        if round < rounds / 10 {
            continue;
        }
        for (taken, one) in taken.iter_mut().zip(all) {
            taken.push(one);
        }
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
