//! What a backend says of itself.

use std::time::Duration;

use tenure_core::Rises;
use tenure_core::record::MAX_LEASE;
use tokio::time::timeout;

use crate::case_context::CaseContext;
use crate::target::Target;
use crate::verdict::{Verdict, ensure};

/// The capabilities fit together, and are the same on every connection.
pub async fn capabilities_are_sane(target: &dyn Target) -> Verdict {
    let context = CaseContext::open(target).await?;
    let capabilities = &context.capabilities;
    ensure!(!capabilities.store.is_empty(), "the store has no name");
    ensure!(
        !capabilities.min_lease.is_zero() && capabilities.min_lease <= MAX_LEASE,
        "the shortest lease is {:?}",
        capabilities.min_lease
    );
    ensure!(
        !capabilities.lease_granularity.is_zero(),
        "the granularity of leases is nothing"
    );
    ensure!(
        capabilities.expiry_lag <= MAX_LEASE,
        "a lease may end {:?} late",
        capabilities.expiry_lag
    );
    let fencing = capabilities.fencing;
    for rises in [
        fencing.over_crash,
        fencing.over_failover,
        fencing.over_deletion,
        fencing.over_restore,
    ] {
        if let Rises::If(condition) = rises {
            ensure!(
                !condition.trim().is_empty(),
                "a fencing guarantee has a condition that says nothing"
            );
        }
    }
    let other = context.connect().await?.backend.capabilities();
    ensure!(
        other == *capabilities,
        "two connections promise different things: {capabilities:?} and {other:?}"
    );
    Ok(())
}

/// The clock goes on and never back, its waits end and not early, and all connections read the
/// same.
pub async fn the_clock_goes_on(target: &dyn Target) -> Verdict {
    let context = CaseContext::open(target).await?;
    let (one, other) = (context.connect().await?, context.connect().await?);
    let clock = one.backend.clock();
    let mut last = clock.now();
    for _ in 0..5 {
        let until = last + Duration::from_millis(5);
        ensure!(
            timeout(context.patience(), clock.sleep_until(until))
                .await
                .is_ok(),
            "the clock does not get from {last:?} to {until:?} within {:?}",
            context.patience()
        );
        let now = clock.now();
        ensure!(now >= until, "a wait ended {:?} early", until.since(now));
        let elsewhere = other.now();
        ensure!(
            elsewhere >= now,
            "another connection's clock is {:?} behind",
            now.since(elsewhere)
        );
        last = clock.now();
        ensure!(last >= elsewhere, "the clock went back");
    }
    Ok(())
}
