//! The order of waiting candidates, on stores that have one.

use tenure_core::{Occupancy, Order};

use crate::case_context::{CaseContext, Contestant};
use crate::verdict::{ensure, fail};
use crate::{Stop, Target, Verdict};

async fn open(target: &dyn Target) -> Result<CaseContext<'_>, Stop> {
    let context = CaseContext::open(target).await?;
    if context.capabilities.order == Order::Fifo {
        Ok(context)
    } else {
        Err(Stop::left_out("the store has no order (Order::Race)"))
    }
}

/// Asks and stays in the queue.
async fn queue(contestant: &Contestant) -> Result<(), Stop> {
    ensure!(
        contestant.try_held().await?.is_none(),
        "a held lock was granted to a waiter"
    );
    Ok(())
}

/// Who came first wins first, whoever asks first after the release.
pub async fn waiters_win_in_order(target: &dyn Target) -> Verdict {
    let context = open(target).await?;
    let lock = context.lock()?;
    let contestant = context.contestant(&lock).await?;
    let mut waiters = Vec::new();
    let grant = contestant.held("a fresh lock").await?;
    for _ in 0..4 {
        let waiter = context.contestant(&lock).await?;
        queue(&waiter).await?;
        waiters.push(waiter);
    }
    contestant.release(&grant).await?;
    for turn in 0..waiters.len() {
        for later in waiters[turn + 1..].iter().rev() {
            ensure!(
                later.try_held().await?.is_none(),
                "a waiter won before one that had come earlier"
            );
        }
        let first = &waiters[turn];
        let grant = context
            .eventually(
                "the turn of the first in the queue",
                context.patience(),
                async || first.try_held().await,
            )
            .await?;
        first.release(&grant).await?;
    }
    Ok(())
}

/// Who withdraws leaves the queue.
pub async fn withdrawing_leaves_the_queue(target: &dyn Target) -> Verdict {
    let context = open(target).await?;
    let lock = context.lock()?;
    let contestant = context.contestant(&lock).await?;
    let (first, second) = (
        context.contestant(&lock).await?,
        context.contestant(&lock).await?,
    );
    let grant = contestant.held("a fresh lock").await?;
    queue(&first).await?;
    queue(&second).await?;
    first.withdraw().await?;
    contestant.release(&grant).await?;
    let grant = second
        .held("a lock whose first waiter has withdrawn")
        .await?;
    second.release(&grant).await
}

/// A place in the queue belongs to an identity and a campaign (contract 9): whoever bears one half
/// of the waiter's name does not take it away by withdrawing, on any connection.
pub async fn withdrawing_as_another_owner_leaves_the_queue_alone(target: &dyn Target) -> Verdict {
    let context = open(target).await?;
    let lock = context.lock()?;
    let contestant = context.contestant(&lock).await?;
    let (first, second) = (
        context.contestant(&lock).await?,
        context.contestant(&lock).await?,
    );
    let grant = contestant.held("a fresh lock").await?;
    queue(&first).await?;
    queue(&second).await?;
    for on in [&first.on, &context.connect().await?] {
        for (_, other) in first.halves(on)? {
            other.withdraw().await?;
        }
    }
    contestant.release(&grant).await?;
    if let Some(grant) = second.try_held().await? {
        fail!(
            "a withdrawal by one who bears half of a waiter's name took its place in the queue: \
             the next one was granted {grant:?}"
        );
    }
    let grant = context
        .eventually(
            "the turn of the first in the queue",
            context.patience(),
            async || first.try_held().await,
        )
        .await?;
    first.release(&grant).await?;
    second.withdraw().await
}

/// A waiter that has fallen silent with its connection holds up the queue no longer than a lease.
pub async fn a_silent_waiter_does_not_block_the_queue(target: &dyn Target) -> Verdict {
    let context = open(target).await?;
    let lock = context.lock()?;
    let lease = context.short();
    let contestant = context.contestant(&lock).await?;
    let silent = context.contestant(&lock).await?.lease(lease);
    let second = context.contestant(&lock).await?.lease(lease);
    let grant = contestant.held("a fresh lock").await?;
    queue(&silent).await?;
    queue(&second).await?;
    drop(silent);
    contestant.release(&grant).await?;
    // It may win in its absence, and then has to wait for its lease to end.
    let within = context.until_free(lease * 2);
    let grant = context
        .eventually("a turn after a silent waiter", within, async || {
            second.try_held().await
        })
        .await?;
    second.release(&grant).await
}

/// Waiters that have withdrawn or ask no more are never shown as the leader of a lock that they
/// were not granted, and hold up the queue no longer than a lease. Their connections stand.
pub async fn a_waiter_is_not_shown_as_the_leader(target: &dyn Target) -> Verdict {
    let context = open(target).await?;
    let lock = context.lock()?;
    let lease = context.short();
    let contestant = context.contestant(&lock).await?;
    let withdrawn = context.contestant(&lock).await?.lease(lease);
    let silent = context.contestant(&lock).await?.lease(lease);
    let next = context.contestant(&lock).await?.lease(lease);
    let observer = context.connect().await?;
    let grant = contestant.held("a fresh lock").await?;
    for waiter in [&withdrawn, &silent, &next] {
        queue(waiter).await?;
    }
    withdrawn.withdraw().await?;
    contestant.release(&grant).await?;
    let within = context.until_free(lease * 2);
    let grant = context
        .eventually("a turn after waiters that are gone", within, async || {
            if let Occupancy::Led(seen) | Occupancy::Unknown(seen) = observer.holder(&lock).await? {
                for (waiter, who) in [
                    (&withdrawn, "a waiter that has withdrawn"),
                    (&silent, "a waiter that asks no more"),
                    (&next, "a waiter that has not asked since"),
                ] {
                    ensure!(
                        seen.identity != waiter.candidate.identity.as_str(),
                        "{who} is shown as the leader of a released lock, which it was not granted"
                    );
                }
            }
            next.try_held().await
        })
        .await?;
    next.release(&grant).await
}
