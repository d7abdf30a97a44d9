//! Acquiring: once for each campaign, adopted when its answer was lost (contract 5).

use std::time::Duration;

use tenure_core::{Acquired, Operation};
use tokio::time::timeout;

use super::MOST_POLLS;
use crate::case_context::{CaseContext, Contestant};
use crate::verdict::{ensure, fail};
use crate::{Answers, Stop, Target, Verdict};

/// A campaign that asks again holds the same lock, which others are still refused.
pub async fn acquiring_again_adopts_the_term(target: &dyn Target) -> Verdict {
    let context = CaseContext::open(target).await?;
    let lock = context.lock()?;
    let (contestant, rival) = (
        context.contestant(&lock).await?,
        context.contestant(&lock).await?,
    );
    let first = contestant.held("a fresh lock").await?;
    let second = contestant.held("a campaign that asks again").await?;
    ensure!(
        second.token >= first.token,
        "the token fell from {} to {} when a campaign asked again",
        first.token,
        second.token
    );
    rival.refused("a lock that was acquired twice").await?;
    let second = contestant.renewed(&second, "an adopted term").await?;
    contestant.release(&second).await?;
    let grant = rival.held("an adopted term that was released").await?;
    rival.release(&grant).await
}

/// The same on another connection, as after a reconnect.
pub async fn acquiring_again_elsewhere_adopts_the_term(target: &dyn Target) -> Verdict {
    let context = CaseContext::open(target).await?;
    if context.capabilities.expiry == tenure_core::Expiry::Session {
        return Err(Stop::left_out(
            "the lock belongs to a session (Expiry::Session), not to a campaign alone",
        ));
    }
    let lock = context.lock()?;
    let contestant = context.contestant(&lock).await?;
    let elsewhere = Contestant {
        on: context.connect().await?,
        ..contestant.clone()
    };
    contestant.held("a fresh lock").await?;
    let grant = elsewhere
        .held("a campaign that asks again on another connection")
        .await?;
    elsewhere.release(&grant).await
}

/// The grant of an adopted term is proven by the request that adopted it, not by the lost one,
/// and its lease begins anew at the store.
pub async fn adopting_proves_anew(target: &dyn Target) -> Verdict {
    let context = CaseContext::open(target).await?;
    for lease in context.short_leases() {
        let lock = context.lock()?;
        let contestant = context.contestant(&lock).await?.lease(lease);
        let rival = context.contestant(&lock).await?.lease(lease);
        contestant.held("a fresh lock").await?;
        let half = contestant.now() + lease / 2;
        contestant.on.backend.clock().sleep_until(half).await;
        let adopted = contestant.held("a campaign that asks again").await?;
        ensure!(
            adopted.proven_at + context.capabilities.expiry_lag >= half
                || context.capabilities.expiry == tenure_core::Expiry::Session,
            "an adopted term has an old proof"
        );
        // Past the first lease, within the second.
        contestant
            .on
            .backend
            .clock()
            .sleep_until(half + lease * 5 / 8)
            .await;
        let acquired = rival.acquire().await?;
        if contestant.now() >= crate::case_context::earliest_end(&adopted) {
            continue;
        }
        if let Acquired::Held(_) = acquired {
            fail!("a term that was adopted ended with the lease of the attempt before");
        }
        rival.withdraw().await?;
        return contestant.withdraw().await;
    }
    too_slow()
}

/// An acquire that is dropped after any number of polls, and then repeated, holds.
pub async fn acquiring_after_a_drop_adopts_the_term(target: &dyn Target) -> Verdict {
    let context = CaseContext::open(target).await?;
    for polls in 0..MOST_POLLS {
        let lock = context.lock()?;
        let (contestant, rival) = (
            context.contestant(&lock).await?,
            context.contestant(&lock).await?,
        );
        let done = context.drop_after(polls, contestant.acquiring()).await?;
        let grant = contestant
            .held(&format!(
                "a campaign whose call was dropped after {polls} polls"
            ))
            .await?;
        rival.refused("a lock that was adopted").await?;
        let grant = contestant.renewed(&grant, "an adopted term").await?;
        contestant.release(&grant).await?;
        let grant = rival.held("an adopted term that was released").await?;
        rival.release(&grant).await?;
        if done.is_some() {
            return Ok(());
        }
    }
    fail!("acquire was not done after {MOST_POLLS} polls")
}

/// An acquire whose answer is lost on the way, and which is then repeated, holds (hazards 8, 9).
///
/// Hook: `answers`.
pub async fn acquiring_after_a_lost_answer_adopts_the_term(target: &dyn Target) -> Verdict {
    let context = CaseContext::open(target).await?;
    let lock = context.lock()?;
    let contestant = context.contestant(&lock).await?;
    // So that the connection stands before its answers are lost.
    contestant.holder().await?;
    target.answers(Answers::Lost).await.need("answers")?;
    // Long enough for any request to arrive. A store that is slower makes the case easier.
    let lost = timeout(Duration::from_secs(2), contestant.acquiring()).await;
    target.answers(Answers::Prompt).await.need("answers")?;
    match lost {
        Ok(Ok(acquired)) => fail!("without any answer, acquire gave {acquired:?}"),
        Ok(Err(error)) => contestant.on.judge(Operation::Acquire, &error)?,
        Err(_) => {}
    }
    let grant = context
        .eventually(
            "acquiring after a lost answer",
            context.patience(),
            async || contestant.try_held().await,
        )
        .await?;
    contestant.release(&grant).await?;
    context
        .contestant(&lock)
        .await?
        .held("an adopted term that was released")
        .await?;
    Ok(())
}

/// Another campaign with the same identity never shares the term (hazards 19 and 20).
pub async fn equal_identities_never_share_a_term(target: &dyn Target) -> Verdict {
    let context = CaseContext::open(target).await?;
    let lock = context.lock()?;
    let contestant = context.contestant(&lock).await?;
    let twin = context
        .contestant(&lock)
        .await?
        .identity(&contestant.candidate.identity);
    let grant = contestant.held("a fresh lock").await?;
    twin.refused("a lock that a namesake holds on another connection")
        .await?;
    contestant
        .next()
        .refused("a lock that a namesake holds on the same connection")
        .await?;
    let grant = contestant.renewed(&grant, "a term with a namesake").await?;
    contestant.release(&grant).await
}

/// Nor does another identity whose campaign has the same number (contract 9): numbers can be
/// drawn twice, by two processes that were forked or cloned from one.
pub async fn equal_campaigns_never_share_a_term(target: &dyn Target) -> Verdict {
    let context = CaseContext::open(target).await?;
    let lock = context.lock()?;
    let contestant = context.contestant(&lock).await?;
    let elsewhere = context.contestant(&lock).await?.numbered_as(&contestant);
    let beside = context
        .player_on(&contestant.on, &lock)?
        .numbered_as(&contestant);
    let mut grant = contestant.held("a fresh lock").await?;
    for (other, where_) in [(&elsewhere, "another"), (&beside, "the same")] {
        let why = format!(
            "a lock that another identity with this campaign number holds, on {where_} connection"
        );
        other.refused(&why).await?;
        let why = format!(
            "a term, after another identity with its campaign number was refused and has \
             withdrawn, on {where_} connection"
        );
        grant = contestant.renewed(&grant, &why).await?;
    }
    contestant.release(&grant).await?;
    let grant = elsewhere.held("a released lock").await?;
    elsewhere.release(&grant).await
}

/// A refusal says how long the lock is held at least; never longer than the lease, or a waiter
/// would oversleep. If it names the holder, it is the holder.
pub async fn a_refusal_tells_the_truth(target: &dyn Target) -> Verdict {
    let context = CaseContext::open(target).await?;
    let lock = context.lock()?;
    let contestant = context.contestant(&lock).await?;
    let rival = context.contestant(&lock).await?;
    let grant = contestant.held("a fresh lock").await?;
    let refusal = rival.refused("a held lock").await?;
    if let Some(free_in) = refusal.free_in {
        let most = grant.lease + context.capabilities.expiry_lag + Duration::from_secs(1);
        ensure!(
            free_in <= most,
            "a refusal says the lock is free in {free_in:?}, with a lease of {:?}",
            grant.lease
        );
    }
    if let Some(holder) = refusal.holder {
        ensure!(
            holder.identity == contestant.candidate.identity.as_str(),
            "a refusal names {:?} as the holder, which is {:?}",
            holder.identity,
            contestant.candidate.identity
        );
        ensure!(
            holder.token.is_none_or(|token| token == grant.token),
            "a refusal names {:?} as the holder's token, which is {}",
            holder.token,
            grant.token
        );
    }
    contestant.release(&grant).await
}

/// The granted lease is the one asked for, up to the store's granularity.
pub async fn the_lease_is_granted_as_asked(target: &dyn Target) -> Verdict {
    let context = CaseContext::open(target).await?;
    let (least, step) = (
        context.capabilities.min_lease,
        context.capabilities.lease_granularity,
    );
    for asked in [least, context.short(), context.long()] {
        let lock = context.lock()?;
        let contestant = context.contestant(&lock).await?.lease(asked);
        let grant = contestant.held("a fresh lock").await?;
        ensure!(
            grant.lease + step >= asked && grant.lease <= asked + step,
            "a lease of {asked:?} was asked for, and {:?} granted",
            grant.lease
        );
        contestant.withdraw().await?;
    }
    Ok(())
}

fn too_slow() -> Verdict {
    fail!("this machine was too slow for every lease that was tried")
}
