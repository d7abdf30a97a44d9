//! What a jump of the server's wall clock does (hazard 5): not prevented, but shown.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod support;

use std::time::Duration;

use support::Connects as _;
use tenure_core::{Acquired, LockBackend as _, Occupancy, Renewal, Time};
use tenure_testkit::redis::start_under;
use tenure_testkit::wall_clock::WallClock;
use tenure_testkit::{candidate, held, is_lost, is_taken, lock, renewed};

#[tokio::test]
async fn a_jump_of_the_servers_wall_clock_moves_the_end_of_a_lease() {
    let Some(clock) = WallClock::new() else {
        return;
    };
    let environment = clock.environment();
    let environment = environment
        .each_ref()
        .map(|(name, value)| (*name, value.as_str()));
    let Some(server) = start_under(&environment, &[]) else {
        return;
    };
    let backend = server.connect().await;
    let lock = lock("jump");
    let lease = Duration::from_secs(900);
    let (a, b) = (candidate("a", 1), candidate("b", 2));
    let first = held(backend.acquire(&lock, &a, lease).await.unwrap());
    assert!(is_taken(&backend.acquire(&lock, &b, lease).await.unwrap()));

    // Ahead by more than the lease: the lock is free at once, though no time has passed and its
    // holder is within its validity. Only the token tells the two apart.
    clock.set_ahead(1000);
    let second = held(backend.acquire(&lock, &b, lease).await.unwrap());
    assert!(backend.clock().now() < first.proven_at + lease);
    assert!(second.token > first.token);
    assert!(is_lost(&backend.renew(&first, Time::ZERO).await.unwrap()));

    // Back: the lease lasts longer by as much, until the next heartbeat. So nobody is told to wait
    // for longer than a lease without another look.
    clock.set_ahead(0);
    let left = || server.number(&["PTTL", "tenure:{jump}"]);
    assert!(left() > 990_000);
    let Acquired::Taken {
        holder, free_in, ..
    } = backend.acquire(&lock, &a, lease).await.unwrap()
    else {
        panic!("it was held");
    };
    assert!(free_in.unwrap() <= lease + Duration::from_millis(1));
    assert!(holder.unwrap().expires_in.unwrap() <= lease);
    let Occupancy::Led(holder) = backend.holder(&lock).await.unwrap() else {
        panic!("it was held");
    };
    assert!(holder.expires_in.unwrap() <= lease);
    let Renewal::Lost { holder, .. } = backend.renew(&first, Time::ZERO).await.unwrap() else {
        panic!("two hold it");
    };
    assert!(holder.unwrap().expires_in.unwrap() <= lease);
    let second = renewed(backend.renew(&second, Time::ZERO).await.unwrap());
    assert!(left() <= 900_000);

    // Tokens go on rising.
    backend.release(&second).await.unwrap();
    let third = held(backend.acquire(&lock, &a, lease).await.unwrap());
    assert!(third.token > second.token);
}
