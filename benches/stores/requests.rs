//! How many requests an hour of leading and of waiting costs the store, by the store's own count,
//! at the default policy.
//!
//! Each candidate has a connection of its own, as when each is a process: elections that share one
//! cost less on stores with sessions.

use std::time::{Duration, Instant};

use tenure::{Leadership, Policy};
use tenure_benches::{is_quick, ours, record};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use crate::counters::Counter;
use crate::places::Place;

/// So many locks, each with a leader and a candidate that waits: what the server does by itself
/// counts the less.
const LOCKS: usize = 10;

const TABLE: &str = "requests per hour";

pub(crate) fn measure(runtime: &Runtime, places: &[Place]) {
    let window = Duration::from_secs(if is_quick() { 20 } else { 120 });
    let running: Vec<_> = places
        .iter()
        .filter_map(|place| Some((place.clone(), place.counter.clone()?)))
        .map(|(place, counter)| {
            let (name, source) = (place.name, counter.source());
            (
                name,
                source,
                runtime.spawn(requests(place, counter, window)),
            )
        })
        .collect();
    for (name, source, task) in running {
        let [leader, waiting] = runtime.block_on(task).unwrap();
        record::figure(TABLE, &format!("{name}, leader"), leader, source);
        record::figure(TABLE, &format!("{name}, waiting"), waiting, source);
    }
}

/// For each leader, and for each who waits.
async fn requests(place: Place, counter: Counter, window: Duration) -> [f64; 2] {
    let locks: Vec<_> = (0..LOCKS).map(|_| ours::lock("requests")).collect();
    let election = async |number: usize| {
        let lock = locks[number % LOCKS].clone();
        ours::election(place.connect().await, lock, &Policy::default())
    };
    // What the server does when nobody asks.
    let idle = counted(&counter, window).await;
    let mut leaders: Vec<Leadership> = Vec::new();
    for number in 0..LOCKS {
        leaders.push(election(number).await.campaign().await.unwrap());
    }
    let led = settled_and_counted(&counter, window).await;
    let mut waiting = JoinSet::new();
    let mut elections = Vec::new();
    for number in LOCKS..2 * LOCKS {
        let election = election(number).await;
        elections.push(election.clone());
        waiting.spawn(async move { election.campaign().await.map(drop) });
    }
    let both = settled_and_counted(&counter, window).await;
    assert!(leaders.iter().all(|leader| leader.is_valid()));
    waiting.shutdown().await;
    for election in elections {
        election.settled().await;
    }
    for leader in leaders {
        leader.resign().await.unwrap();
    }
    let each = |more: f64| more.max(0.0) / f64::from(u32::try_from(LOCKS).unwrap());
    [each(led - idle), each(both - led)]
}

async fn settled_and_counted(counter: &Counter, window: Duration) -> f64 {
    tokio::time::sleep(Duration::from_secs(3)).await;
    counted(counter, window).await
}

/// What the store counts in this window, for an hour.
async fn counted(counter: &Counter, window: Duration) -> f64 {
    let (start, before) = (Instant::now(), counter.read().await);
    tokio::time::sleep(window).await;
    let (taken, after) = (start.elapsed(), counter.read().await);
    (after - before) / taken.as_secs_f64() * 3600.0
}
