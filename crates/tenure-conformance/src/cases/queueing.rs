//! The order of waiting candidates, on stores that have one.

use tenure_core::{Occupancy, Order};

use crate::case_context::CaseContext;
use crate::contestant::Contestant;
use crate::target::Target;
use crate::verdict::{Stop, Verdict, ensure, fail};

async fn open(target: &dyn Target) -> Result<CaseContext<'_>, Stop> {
    let context = CaseContext::open(target).await?;
    if context.capabilities.order == Order::Fifo {
        Ok(context)
    } else {
        Err(Stop::left_out("the store has no order (Order::Race)"))
    }
}

/// Asks and stays in the queue.
async fn queue(contestant: &Contestant) -> Verdict {
    ensure!(
        contestant.try_held().await?.is_none(),
        "a held lock was granted to a waiter"
    );
    Ok(())
}

/// The first in the queue wins.
async fn its_turn(context: &CaseContext<'_>, first: &Contestant) -> Verdict {
    let what = "the turn of the first in the queue";
    let grant = context.granted(first, what, context.patience()).await?;
    first.release(&grant).await
}

/// The first to come wins first, also when another one asks first after the release.
pub async fn waiters_win_in_order(target: &dyn Target) -> Verdict {
    let context = open(target).await?;
    let [leader, waiters @ ..]: [_; 5] = context.contestants().await?;
    let grant = leader.held("a fresh lock").await?;
    for waiter in &waiters {
        queue(waiter).await?;
    }
    leader.release(&grant).await?;
    for turn in 0..waiters.len() {
        for later in waiters[turn + 1..].iter().rev() {
            ensure!(
                later.try_held().await?.is_none(),
                "a waiter won before one that had come earlier"
            );
        }
        its_turn(&context, &waiters[turn]).await?;
    }
    Ok(())
}

/// A waiter that withdraws leaves the queue.
pub async fn withdrawing_leaves_the_queue(target: &dyn Target) -> Verdict {
    let context = open(target).await?;
    let [leader, first, second] = context.contestants().await?;
    let grant = leader.held("a fresh lock").await?;
    queue(&first).await?;
    queue(&second).await?;
    first.withdraw().await?;
    leader.release(&grant).await?;
    second
        .holds_and_releases("a lock whose first waiter has withdrawn")
        .await
}

/// A place in the queue belongs to an identity and a campaign (contract 9): a withdrawal by one
/// with half of the waiter's name does not take it away, on any connection.
pub async fn withdrawing_as_another_owner_leaves_the_queue_alone(target: &dyn Target) -> Verdict {
    let context = open(target).await?;
    let [leader, first, second] = context.contestants().await?;
    let grant = leader.held("a fresh lock").await?;
    queue(&first).await?;
    queue(&second).await?;
    for on in [&first.on, &context.connect().await?] {
        for (_, other) in first.halves(on)? {
            other.withdraw().await?;
        }
    }
    leader.release(&grant).await?;
    if let Some(grant) = second.try_held().await? {
        fail!(
            "a withdrawal by one with half of a waiter's name took its place in the queue: \
             the next one was granted {grant:?}"
        );
    }
    its_turn(&context, &first).await?;
    second.withdraw().await
}

/// A waiter that has fallen silent with its connection holds up the queue no longer than a lease.
pub async fn a_silent_waiter_does_not_block_the_queue(target: &dyn Target) -> Verdict {
    let context = open(target).await?;
    let lease = context.short();
    let [leader, silent, second] = context.contestants().await?;
    let (silent, second) = (silent.lease(lease), second.lease(lease));
    let grant = leader.held("a fresh lock").await?;
    queue(&silent).await?;
    queue(&second).await?;
    drop(silent);
    leader.release(&grant).await?;
    // The silent one may win in its absence, and then its lease has to end.
    let grant = context.granted_after(lease * 2, &second, "a turn after a silent waiter");
    second.release(&grant.await?).await
}

/// Waiters that have withdrawn or ask no more are never shown as the leader of a lock that they
/// were not granted, and hold up the queue no longer than a lease. Their connections stand.
pub async fn a_waiter_is_not_shown_as_the_leader(target: &dyn Target) -> Verdict {
    let context = open(target).await?;
    let lease = context.short();
    let [leader, waiters @ ..]: [_; 4] = context.contestants().await?;
    let [withdrawn, silent, next] = waiters.map(|one| one.lease(lease));
    let observer = context.connect().await?;
    let grant = leader.held("a fresh lock").await?;
    for waiter in [&withdrawn, &silent, &next] {
        queue(waiter).await?;
    }
    withdrawn.withdraw().await?;
    leader.release(&grant).await?;
    let within = context.until_free(lease * 2);
    let grant = context
        .eventually("a turn after waiters that are gone", within, async || {
            let seen = observer.holder(&leader.lock).await?;
            if let Occupancy::Led(seen) | Occupancy::Unknown(seen) = seen {
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
