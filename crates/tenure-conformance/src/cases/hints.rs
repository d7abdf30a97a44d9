//! Notifications: on stores that push, a release wakes those who wait.

use std::time::Duration;

use futures_util::{FutureExt as _, StreamExt as _};
use tenure_core::{Acquired, Changes, Grant, Hint, Wakeup};
use tokio::time::timeout;

use crate::case_context::{CaseContext, contest};
use crate::contestant::Contestant;
use crate::target::Target;
use crate::verdict::{Stop, Verdict, ensure, fail};

/// A notification may be missing, so one of several has to come.
const ROUNDS: u32 = 3;

/// More notifications than this at once, about a lock at rest, keep every waiter busy.
const FLOOD: usize = 1_000;

async fn open(target: &dyn Target) -> Result<CaseContext<'_>, Stop> {
    let context = CaseContext::open(target).await?;
    if context.capabilities.wakeup == Wakeup::Push {
        Ok(context)
    } else {
        Err(Stop::left_out("the store does not push (Wakeup::Poll)"))
    }
}

/// A candidate that looks again only when a notification comes gets a released lock.
pub async fn a_release_wakes_a_waiter(target: &dyn Target) -> Verdict {
    let context = open(target).await?;
    wakes(&context, async |leader, grant| leader.release(&grant).await).await
}

/// It also gets the lock of a lost attempt that is withdrawn.
pub async fn a_withdrawal_wakes_a_waiter(target: &dyn Target) -> Verdict {
    let context = open(target).await?;
    wakes(&context, async |leader, _| leader.withdraw().await).await
}

async fn wakes(
    context: &CaseContext<'_>,
    end: impl AsyncFn(&Contestant, Grant) -> Verdict,
) -> Verdict {
    for _ in 0..ROUNDS {
        let [leader, waiter] = context.contestants().await?;
        let grant = leader.held("a fresh lock").await?;
        let mut changes = waiter.backend().changes(&waiter.lock);
        let free = async || end(&leader, grant.clone()).await;
        let woken = await_turn(context, &waiter, &mut changes, free).await?;
        waiter.withdraw().await?;
        if woken {
            return Ok(());
        }
    }
    fail!("no waiter was told, in {ROUNDS} attempts, that the lock had become free")
}

/// Waits for the lock by notifications alone; `free` frees it meanwhile.
async fn await_turn(
    context: &CaseContext<'_>,
    waiter: &Contestant,
    changes: &mut Changes,
    free: impl AsyncFnOnce() -> Verdict,
) -> Result<bool, Stop> {
    // What is there before the release is no answer to it. The first poll also starts streams
    // that do nothing before.
    let mut hints = 0;
    while let Some(hint) = changes.next().now_or_never() {
        check(context, hint)?;
        hints += 1;
        ensure!(hints < FLOOD, "a flood of hints about a lock at rest");
    }
    if let Acquired::Held(_) = waiter.acquire().await? {
        fail!("a held lock was granted to a waiter");
    }
    free().await?;
    let woken = async {
        loop {
            let hint = changes.next().await;
            check(context, hint)?;
            if hint == Some(Hint::MayBeFree) && waiter.try_held().await?.is_some() {
                return Ok(());
            }
        }
    };
    match timeout(context.patience() / ROUNDS, woken).await {
        Ok(result) => result.map(|()| true),
        Err(_) => Ok(false),
    }
}

fn check(context: &CaseContext<'_>, hint: Option<Hint>) -> Verdict {
    match hint {
        None => fail!("the stream of hints ended, although the store pushes"),
        Some(Hint::HeldFor(left)) => ensure!(
            left <= context.long() + context.capabilities.expiry_lag + Duration::from_secs(1),
            "a hint says that the lock is held for {left:?}, longer than any lease"
        ),
        Some(_) => {}
    }
    Ok(())
}

/// A stream that is dropped takes nothing with it: the next one of the same connection, and one
/// beside it, give notifications as well.
pub async fn a_dropped_stream_leaves_the_others(target: &dyn Target) -> Verdict {
    let context = open(target).await?;
    for _ in 0..ROUNDS {
        let [leader, waiter] = context.contestants().await?;
        let grant = leader.held("a fresh lock").await?;
        let mut dropped = waiter.backend().changes(&waiter.lock);
        let mut beside = waiter.backend().changes(&waiter.lock);
        // Both are polled, so that both are open.
        let _none_or_any = dropped.next().now_or_never();
        let _none_or_any = beside.next().now_or_never();
        drop(dropped);
        let mut recreated = waiter.backend().changes(&waiter.lock);
        let free = async || leader.release(&grant).await;
        let told_again = await_turn(&context, &waiter, &mut recreated, free).await?;
        let told_beside = timeout(context.patience() / ROUNDS, async {
            loop {
                let hint = beside.next().await;
                check(&context, hint)?;
                // The lock may have been taken again before this stream's look.
                if hint == Some(Hint::MayBeFree) || told_again {
                    return Ok::<_, Stop>(());
                }
            }
        })
        .await;
        waiter.withdraw().await?;
        if told_again && told_beside.is_ok() {
            return Ok(());
        }
    }
    fail!("after one stream of hints was dropped, others gave none in {ROUNDS} attempts")
}

/// A lock at rest gives no flood of notifications, on any store.
pub async fn a_lock_at_rest_gives_no_flood_of_hints(target: &dyn Target) -> Verdict {
    let (_, [leader]) = contest(target).await?;
    let grant = leader.held("a fresh lock").await?;
    let mut changes = leader.backend().changes(&leader.lock);
    for _ in 0..FLOOD {
        match changes.next().now_or_never() {
            None | Some(None) => return leader.release(&grant).await,
            Some(Some(Hint::HeldFor(left))) => ensure!(
                !left.is_zero(),
                "a hint says that a lock is held for nothing"
            ),
            Some(Some(_)) => {}
        }
    }
    fail!("a lock at rest gave {FLOOD} hints at once")
}
