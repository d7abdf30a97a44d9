//! From the moment at which a leader's process is gone to the next one's valid term, at
//! `Policy::fast()`: killed, and frozen.

use std::time::Duration;

use tenure::Policy;
use tenure_benches::contenders::{End, failover};
use tenure_benches::{is_quick, record};
use tokio::runtime::Runtime;

use crate::places::Place;

/// All stores at once: what is measured takes seconds, on most of them.
pub(crate) fn measure(runtime: &Runtime, places: &[Place]) {
    let rounds = if is_quick() { 3 } else { 20 };
    for (end, title) in [
        (End::Killed, "failover, leader killed"),
        (End::Frozen, "failover, leader frozen"),
    ] {
        let places = places.iter().filter(|place| !place.is_of_one_process());
        let running: Vec<_> = places
            .map(|place| {
                (
                    place.name,
                    runtime.spawn(failovers(place.clone(), end, rounds)),
                )
            })
            .collect();
        for (name, task) in running {
            record::series(title, name, &runtime.block_on(task).unwrap());
        }
    }
}

async fn failovers(place: Place, end: End, rounds: usize) -> Vec<Duration> {
    let lease = Policy::fast().lease();
    let mut taken = Vec::new();
    for _ in 0..rounds {
        // At any moment between two heartbeats, after the other one has had a look.
        let wait = Duration::from_millis(fastrand::u64(1_000..2_000));
        taken.push(failover(&place.url, lease, end, wait).await);
    }
    taken
}
