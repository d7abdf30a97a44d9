//! Futures dropped at every await point (contract 6, hazards 9 and 10).
//!
//! Each call is polled n times and dropped, for n from 0 until it is done.

use futures_util::future::try_join_all;
use tenure_core::{Acquired, Grant};

use super::MOST_POLLS;
use crate::case_context::{CaseContext, Contestant};
use crate::verdict::fail;
use crate::{Stop, Target, Verdict};

/// What a dropped acquire has left is gone with `withdraw`.
///
/// A request that was on its way when its future was dropped may arrive after the withdrawal, so
/// that is repeated; the lease is one that no case outlives.
pub async fn a_dropped_acquire_can_be_withdrawn(target: &dyn Target) -> Verdict {
    let context = CaseContext::open(target).await?;
    for polls in 0..MOST_POLLS {
        let lock = context.lock()?;
        let (contestant, rival) = (
            context.contestant(&lock).await?,
            context.contestant(&lock).await?,
        );
        let done = context.drop_after(polls, contestant.acquiring()).await?;
        contestant.withdraw().await?;
        let grant = free_of(&context, &contestant, &rival, polls).await?;
        rival.release(&grant).await?;
        if done.is_some() {
            return Ok(());
        }
    }
    fail!("acquire was not done after {MOST_POLLS} polls")
}

async fn free_of(
    context: &CaseContext<'_>,
    contestant: &Contestant,
    rival: &Contestant,
    polls: usize,
) -> Result<Grant, Stop> {
    let what = format!("withdrawing an acquire that was dropped after {polls} polls");
    context
        .eventually(&what, context.patience(), async || {
            let grant = rival.try_held().await?;
            if grant.is_none() {
                contestant.withdraw().await?;
            }
            Ok(grant)
        })
        .await
}

/// Without `withdraw` it is gone when its lease ends: nothing keeps alive what no caller holds.
pub async fn a_dropped_acquire_ends_with_its_lease(target: &dyn Target) -> Verdict {
    let context = CaseContext::open(target).await?;
    let lease = context.short();
    let mut orphans = Vec::new();
    for polls in 0..MOST_POLLS {
        let lock = context.lock()?;
        let contestant = context.contestant(&lock).await?.lease(lease);
        let rival = context.contestant(&lock).await?;
        let done = context.drop_after(polls, contestant.acquiring()).await?;
        // The contestants are kept, since their connections have to stand.
        orphans.push((polls, contestant, rival));
        if done.is_some() {
            break;
        }
    }
    end_with_their_leases(&context, "acquire", orphans).await
}

/// Nor does a dropped renewal keep the term alive beyond its lease.
pub async fn a_dropped_renew_ends_with_its_lease(target: &dyn Target) -> Verdict {
    let context = CaseContext::open(target).await?;
    let lease = context.short();
    let mut orphans = Vec::new();
    for polls in 0..MOST_POLLS {
        let lock = context.lock()?;
        let contestant = context.contestant(&lock).await?.lease(lease);
        let rival = context.contestant(&lock).await?;
        let grant = contestant.held("a fresh lock").await?;
        let renewing = contestant.backend().renew(&grant, contestant.now());
        let done = context.drop_after(polls, renewing).await?;
        orphans.push((polls, contestant, rival));
        if done.is_some() {
            break;
        }
    }
    end_with_their_leases(&context, "renew", orphans).await
}

async fn end_with_their_leases(
    context: &CaseContext<'_>,
    call: &str,
    orphans: Vec<(usize, Contestant, Contestant)>,
) -> Verdict {
    let within = context.until_free(context.short());
    let endings = orphans.into_iter().map(async |(polls, contestant, rival)| {
        let what = format!("the end of a lease whose {call} was dropped after {polls} polls");
        let grant = context
            .eventually(&what, within, async || rival.try_held().await)
            .await?;
        drop(contestant);
        rival.release(&grant).await
    });
    try_join_all(endings).await?;
    Ok(())
}

/// A dropped renewal loses nothing: the term goes on, and the grant from before renews it.
pub async fn a_dropped_renew_can_be_repeated(target: &dyn Target) -> Verdict {
    let context = CaseContext::open(target).await?;
    let lock = context.lock()?;
    let (contestant, rival) = (
        context.contestant(&lock).await?,
        context.contestant(&lock).await?,
    );
    let grant = contestant.held("a fresh lock").await?;
    for polls in 0..MOST_POLLS {
        let renewing = contestant.backend().renew(&grant, contestant.now());
        let done = context.drop_after(polls, renewing).await?;
        rival
            .refused(&format!(
                "a term whose renew was dropped after {polls} polls"
            ))
            .await?;
        contestant
            .renewed(
                &grant,
                &format!("a term whose renew was dropped after {polls} polls"),
            )
            .await?;
        if done.is_some() {
            contestant.release(&grant).await?;
            let grant = rival.held("a released lock").await?;
            return rival.release(&grant).await;
        }
    }
    fail!("renew was not done after {MOST_POLLS} polls")
}

/// A dropped release can be repeated, frees the lock then, and does not touch the successor
/// should it arrive late.
pub async fn a_dropped_release_can_be_repeated(target: &dyn Target) -> Verdict {
    let context = CaseContext::open(target).await?;
    for polls in 0..MOST_POLLS {
        let lock = context.lock()?;
        let (contestant, rival) = (
            context.contestant(&lock).await?,
            context.contestant(&lock).await?,
        );
        let grant = contestant.held("a fresh lock").await?;
        let done = context
            .drop_after(polls, contestant.backend().release(&grant))
            .await?;
        contestant.release(&grant).await?;
        let next = rival
            .held(&format!(
                "a release that was dropped after {polls} polls and repeated"
            ))
            .await?;
        let next = rival
            .renewed(&next, "the successor of one whose release was dropped")
            .await?;
        rival.release(&next).await?;
        if done.is_some() {
            return Ok(());
        }
    }
    fail!("release was not done after {MOST_POLLS} polls")
}

/// A dropped withdrawal can be repeated.
pub async fn a_dropped_withdraw_can_be_repeated(target: &dyn Target) -> Verdict {
    let context = CaseContext::open(target).await?;
    for polls in 0..MOST_POLLS {
        let lock = context.lock()?;
        let (contestant, rival) = (
            context.contestant(&lock).await?,
            context.contestant(&lock).await?,
        );
        contestant.held("a fresh lock").await?;
        let withdrawing = contestant.backend().withdraw(&lock, &contestant.candidate);
        let done = context.drop_after(polls, withdrawing).await?;
        contestant.withdraw().await?;
        let next = rival
            .held(&format!(
                "a withdrawal that was dropped after {polls} polls and repeated"
            ))
            .await?;
        rival.release(&next).await?;
        if done.is_some() {
            return Ok(());
        }
    }
    fail!("withdraw was not done after {MOST_POLLS} polls")
}

/// A dropped look changes nothing, and the next one answers.
pub async fn a_dropped_look_changes_nothing(target: &dyn Target) -> Verdict {
    let context = CaseContext::open(target).await?;
    let lock = context.lock()?;
    let (contestant, observer) = (context.contestant(&lock).await?, context.connect().await?);
    let grant = contestant.held("a fresh lock").await?;
    for polls in 0..MOST_POLLS {
        let done = context
            .drop_after(polls, observer.backend.holder(&lock))
            .await?;
        observer.holder(&lock).await?;
        if done.is_some() {
            break;
        }
    }
    let grant = match contestant.acquire().await? {
        Acquired::Held(grant) => grant,
        Acquired::Taken { .. } => {
            contestant
                .renewed(&grant, "a term that was looked at")
                .await?
        }
    };
    contestant.release(&grant).await
}
