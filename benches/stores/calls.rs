//! One call after the other: to get a lock, to be refused it, to renew it, to give it back.

use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::Criterion;
use tenure::{Acquired, Grant, Identity, LockBackend, LockName, Renewal};
use tokio::runtime::Runtime;

use crate::place::{self, Place};

/// No term ends by time while something is measured.
const LEASE: Duration = Duration::from_secs(600);

/// More durations of a call than these last ones say nothing new.
const KEPT: usize = 2_000;

#[derive(Clone, Copy, Debug)]
enum Call {
    AcquireFree,
    AcquireTaken,
    Renew,
    Release,
}

impl Call {
    const ALL: [Self; 4] = [
        Self::AcquireFree,
        Self::AcquireTaken,
        Self::Renew,
        Self::Release,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::AcquireFree => "acquire when free",
            Self::AcquireTaken => "acquire when taken",
            Self::Renew => "renew",
            Self::Release => "release",
        }
    }
}

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
    for call in Call::ALL {
        let mut group = criterion.benchmark_group(call.name());
        for place in places {
            let pair = crate::on_worker(runtime, pair(place.clone()));
            let mut kept: Vec<Duration> = Vec::new();
            group.bench_function(place.name, |bench| {
                bench.iter_custom(|times| {
                    let taken = crate::on_worker(runtime, calls(pair.clone(), call, times));
                    let sum = taken.iter().sum();
                    kept.extend(taken);
                    // The first ones warm up.
                    kept.drain(..kept.len().saturating_sub(KEPT));
                    sum
                });
            });
            // Nothing when the filter of the command line has left it out.
            if !kept.is_empty() {
                tenure_benches::report(call.name(), place.name, &kept);
            }
        }
        group.finish();
    }
}

async fn pair(place: Place) -> Pair {
    Pair {
        backend: place.connect().await,
        other: place.connect().await,
        me: place::identity(0),
        them: place::identity(1),
        lock: place::lock("calls"),
    }
}

async fn calls(pair: Pair, call: Call, times: u64) -> Vec<Duration> {
    let times = usize::try_from(times).unwrap();
    let mut taken = Vec::with_capacity(times);
    match call {
        Call::AcquireFree => {
            for _ in 0..times {
                let (grant, took) = acquired(&pair).await;
                taken.push(took);
                pair.backend.release(&grant).await.unwrap();
            }
        }
        Call::Release => {
            for _ in 0..times {
                let (grant, _) = acquired(&pair).await;
                let start = Instant::now();
                pair.backend.release(&grant).await.unwrap();
                taken.push(start.elapsed());
            }
        }
        Call::AcquireTaken => {
            let (grant, _) = acquired(&pair).await;
            for _ in 0..times {
                // Each is another one's first try; a second look of the same one may cost less.
                let them = place::candidate(&pair.them);
                let start = Instant::now();
                let refused = pair.other.acquire(&pair.lock, &them, LEASE).await.unwrap();
                taken.push(start.elapsed());
                assert!(matches!(refused, Acquired::Taken { .. }), "{refused:?}");
                pair.other.withdraw(&pair.lock, &them).await.unwrap();
            }
            pair.backend.release(&grant).await.unwrap();
        }
        Call::Renew => {
            let (mut grant, _) = acquired(&pair).await;
            for _ in 0..times {
                let not_before = pair.backend.clock().now();
                let start = Instant::now();
                let renewal = pair.backend.renew(&grant, not_before).await.unwrap();
                taken.push(start.elapsed());
                let Renewal::Renewed(renewed) = renewal else {
                    panic!("nobody else wants it: {renewal:?}");
                };
                grant = renewed;
            }
            pair.backend.release(&grant).await.unwrap();
        }
    }
    taken
}

async fn acquired(pair: &Pair) -> (Grant, Duration) {
    let me = place::candidate(&pair.me);
    loop {
        let start = Instant::now();
        let acquired = pair.backend.acquire(&pair.lock, &me, LEASE).await.unwrap();
        let took = start.elapsed();
        match acquired {
            Acquired::Held(grant) => return (grant, took),
            // Whoever has withdrawn may be in the queue for another moment.
            Acquired::Taken { .. } => tokio::time::sleep(Duration::from_millis(1)).await,
        }
    }
}
