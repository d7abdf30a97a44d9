//! Futures dropped at every await point (contract 6, hazards 9 and 10).
//!
//! Each call is polled n times and dropped, for n from 0 until it is done.

use futures_util::future::try_join_all;
use tenure_core::Acquired;

use super::polls::at_each_poll;
use crate::case_context::{CaseContext, contest};
use crate::contestant::Contestant;
use crate::target::Target;
use crate::verdict::{Stop, Verdict};

/// `withdraw` takes back what a dropped acquire has left.
///
/// A request that was on its way when its future was dropped may arrive after the withdrawal. So
/// that is repeated, and the lease is one that no case outlives.
pub async fn a_dropped_acquire_can_be_withdrawn(target: &dyn Target) -> Verdict {
    let context = CaseContext::open(target).await?;
    at_each_poll("acquire", async |polls| {
        let [leader, rival] = context.contestants().await?;
        let done = context.drop_after(polls, leader.acquiring()).await?;
        leader.withdraw().await?;
        let what = format!("withdrawing an acquire that was dropped after {polls} polls");
        let grant = context
            .eventually(&what, context.patience(), async || {
                let grant = rival.try_held().await?;
                if grant.is_none() {
                    leader.withdraw().await?;
                }
                Ok(grant)
            })
            .await?;
        rival.release(&grant).await?;
        Ok(done.is_some())
    })
    .await
}

/// Without `withdraw` it is gone when its lease ends: nothing keeps alive what no caller holds.
pub async fn a_dropped_acquire_ends_with_its_lease(target: &dyn Target) -> Verdict {
    let context = CaseContext::open(target).await?;
    end_with_their_leases(&context, "acquire", async |polls, leader| {
        let done = context.drop_after(polls, leader.acquiring()).await?;
        Ok(done.is_some())
    })
    .await
}

/// A dropped renewal does not keep the term alive beyond its lease either.
pub async fn a_dropped_renew_ends_with_its_lease(target: &dyn Target) -> Verdict {
    let context = CaseContext::open(target).await?;
    end_with_their_leases(&context, "renew", async |polls, leader| {
        let grant = leader.held("a fresh lock").await?;
        let done = context.drop_after(polls, leader.renewing(&grant)).await?;
        Ok(done.is_some())
    })
    .await
}

/// Drops a call after each number of polls, and waits for the ends of all the leases together.
async fn end_with_their_leases(
    context: &CaseContext<'_>,
    call: &str,
    drop_call: impl AsyncFn(usize, &Contestant) -> Result<bool, Stop>,
) -> Verdict {
    let lease = context.short();
    let mut orphans = Vec::new();
    at_each_poll(call, async |polls| {
        let [leader, rival] = context.contestants().await?;
        let leader = leader.lease(lease);
        let done = drop_call(polls, &leader).await?;
        // The leaders are kept: their connections have to stand.
        orphans.push((polls, leader, rival));
        Ok(done)
    })
    .await?;
    let endings = orphans.into_iter().map(async |(polls, leader, rival)| {
        let what = format!("the end of a lease whose {call} was dropped after {polls} polls");
        let grant = context.granted_after(lease, &rival, &what).await?;
        drop(leader);
        rival.release(&grant).await
    });
    try_join_all(endings).await?;
    Ok(())
}

/// A dropped renewal loses nothing: the term goes on, and the grant from before renews it.
pub async fn a_dropped_renew_can_be_repeated(target: &dyn Target) -> Verdict {
    let (context, [leader, rival]) = contest(target).await?;
    let grant = leader.held("a fresh lock").await?;
    at_each_poll("renew", async |polls| {
        let done = context.drop_after(polls, leader.renewing(&grant)).await?;
        let why = format!("a term whose renew was dropped after {polls} polls");
        rival.refused(&why).await?;
        leader.renewed(&grant, &why).await?;
        Ok(done.is_some())
    })
    .await?;
    leader.release(&grant).await?;
    rival.holds_and_releases("a released lock").await
}

/// A dropped release can be repeated and frees the lock then. If it arrives late, it does not
/// touch the successor.
pub async fn a_dropped_release_can_be_repeated(target: &dyn Target) -> Verdict {
    let context = CaseContext::open(target).await?;
    at_each_poll("release", async |polls| {
        let [leader, rival] = context.contestants().await?;
        let grant = leader.held("a fresh lock").await?;
        let releasing = leader.backend().release(&grant);
        let done = context.drop_after(polls, releasing).await?;
        leader.release(&grant).await?;
        let why = format!("a release that was dropped after {polls} polls and repeated");
        let next = rival.held(&why).await?;
        rival
            .renews_and_releases(&next, "the successor of one whose release was dropped")
            .await?;
        Ok(done.is_some())
    })
    .await
}

/// A dropped withdrawal can be repeated.
pub async fn a_dropped_withdraw_can_be_repeated(target: &dyn Target) -> Verdict {
    let context = CaseContext::open(target).await?;
    at_each_poll("withdraw", async |polls| {
        let [leader, rival] = context.contestants().await?;
        leader.held("a fresh lock").await?;
        let done = context.drop_after(polls, leader.withdrawing()).await?;
        leader.withdraw().await?;
        let why = format!("a withdrawal that was dropped after {polls} polls and repeated");
        rival.holds_and_releases(&why).await?;
        Ok(done.is_some())
    })
    .await
}

/// A dropped look changes nothing, and the next one answers.
pub async fn a_dropped_look_changes_nothing(target: &dyn Target) -> Verdict {
    let (context, [leader]) = contest(target).await?;
    let observer = context.connect().await?;
    let grant = leader.held("a fresh lock").await?;
    at_each_poll("holder", async |polls| {
        let looking = observer.backend.holder(&leader.lock);
        let done = context.drop_after(polls, looking).await?;
        observer.holder(&leader.lock).await?;
        Ok(done.is_some())
    })
    .await?;
    let grant = match leader.acquire().await? {
        Acquired::Held(grant) => grant,
        _ => leader.renewed(&grant, "a term that was looked at").await?,
    };
    leader.release(&grant).await
}
