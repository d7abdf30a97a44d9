//! Acquiring: once for each campaign, adopted when its answer was lost (contract 5).

use std::time::Duration;

use tenure_core::{Acquired, Expiry, Operation};
use tokio::time::timeout;

use super::polls::at_each_poll;
use crate::case_context::{CaseContext, contest, earliest_end};
use crate::contestant::{Contestant, has_token};
use crate::target::{Answers, Target};
use crate::verdict::{Stop, Verdict, ensure, fail};

/// A campaign that asks again holds the same lock, which others are still refused.
pub async fn acquiring_again_adopts_the_term(target: &dyn Target) -> Verdict {
    let (_, [leader, rival]) = contest(target).await?;
    let first = leader.held("a fresh lock").await?;
    let second = leader.held("a campaign that asks again").await?;
    ensure!(
        second.token >= first.token,
        "the token fell from {} to {} when a campaign asked again",
        first.token,
        second.token
    );
    rival.refused("a lock that was acquired twice").await?;
    leader
        .renews_and_releases(&second, "an adopted term")
        .await?;
    rival
        .holds_and_releases("an adopted term that was released")
        .await
}

/// The same on another connection, as after a reconnect.
pub async fn acquiring_again_elsewhere_adopts_the_term(target: &dyn Target) -> Verdict {
    let context = CaseContext::open(target).await?;
    if context.capabilities.expiry == Expiry::Session {
        return Err(Stop::left_out(
            "the lock belongs to a session (Expiry::Session), not to a campaign alone",
        ));
    }
    let [leader] = context.contestants().await?;
    let elsewhere = Contestant {
        on: context.connect().await?,
        ..leader.clone()
    };
    leader.held("a fresh lock").await?;
    elsewhere
        .holds_and_releases("a campaign that asks again on another connection")
        .await
}

/// The grant of an adopted term is proven by the request that adopted it, not by the lost one,
/// and its lease begins at the store with that request.
pub async fn adopting_proves_anew(target: &dyn Target) -> Verdict {
    let context = CaseContext::open(target).await?;
    let by_session = context.capabilities.expiry == Expiry::Session;
    context
        .on_a_lease(async |lease| {
            let [leader, rival] = context.contestants().await?.map(|one| one.lease(lease));
            leader.held("a fresh lock").await?;
            let half = leader.now() + lease / 2;
            leader.on.sleep_until(half).await;
            let adopted = leader.held("a campaign that asks again").await?;
            ensure!(
                by_session || adopted.proven_at + context.capabilities.expiry_lag >= half,
                "an adopted term has an old proof"
            );
            // Past the first lease, within the second.
            leader.on.sleep_until(half + lease * 5 / 8).await;
            let acquired = rival.acquire().await?;
            if leader.now() >= earliest_end(&adopted) {
                return Ok(None);
            }
            if let Acquired::Held(_) = acquired {
                fail!("a term that was adopted ended with the lease of the attempt before");
            }
            rival.withdraw().await?;
            leader.withdraw().await.map(Some)
        })
        .await
}

/// An acquire that is dropped after any number of polls, and then repeated, holds.
pub async fn acquiring_after_a_drop_adopts_the_term(target: &dyn Target) -> Verdict {
    let context = CaseContext::open(target).await?;
    at_each_poll("acquire", async |polls| {
        let [leader, rival] = context.contestants().await?;
        let done = context.drop_after(polls, leader.acquiring()).await?;
        let why = format!("a campaign whose call was dropped after {polls} polls");
        let grant = leader.held(&why).await?;
        rival.refused("a lock that was adopted").await?;
        leader
            .renews_and_releases(&grant, "an adopted term")
            .await?;
        rival
            .holds_and_releases("an adopted term that was released")
            .await?;
        Ok(done.is_some())
    })
    .await
}

/// An acquire whose answer is lost on the way, and which is then repeated, holds (hazards 8, 9).
///
/// Hook: `answers`.
pub async fn acquiring_after_a_lost_answer_adopts_the_term(target: &dyn Target) -> Verdict {
    let (context, [leader, rival]) = contest(target).await?;
    // So that the connection stands before its answers are lost.
    leader.holder().await?;
    target.answers(Answers::Lost).await.need("answers")?;
    // Long enough for any request to arrive. A store that is slower makes the case easier.
    let lost = timeout(Duration::from_secs(2), leader.acquiring()).await;
    target.answers(Answers::Prompt).await.need("answers")?;
    match lost {
        Ok(Ok(acquired)) => fail!("without any answer, acquire gave {acquired:?}"),
        Ok(Err(error)) => leader.on.judge(Operation::Acquire, &error)?,
        Err(_) => {}
    }
    let what = "acquiring after a lost answer";
    let grant = context.granted(&leader, what, context.patience()).await?;
    leader.release(&grant).await?;
    rival.held("an adopted term that was released").await?;
    Ok(())
}

/// Another campaign with the same identity never shares the term (hazards 19 and 20).
pub async fn equal_identities_never_share_a_term(target: &dyn Target) -> Verdict {
    let (_, [leader, other]) = contest(target).await?;
    let namesake = other.identity(&leader.candidate.identity);
    let grant = leader.held("a fresh lock").await?;
    namesake
        .refused("a lock that a namesake holds on another connection")
        .await?;
    leader
        .next()
        .refused("a lock that a namesake holds on the same connection")
        .await?;
    leader
        .renews_and_releases(&grant, "a term with a namesake")
        .await
}

/// Another identity whose campaign has the same number never shares it either (contract 9): two
/// processes that were forked or cloned from one can draw the same number.
pub async fn equal_campaigns_never_share_a_term(target: &dyn Target) -> Verdict {
    let (context, [leader, other]) = contest(target).await?;
    let elsewhere = other.numbered_as(&leader);
    let beside = context.contestant_on(&leader.on, &leader.lock)?;
    let beside = beside.numbered_as(&leader);
    let mut grant = leader.held("a fresh lock").await?;
    for (other, where_) in [(&elsewhere, "another"), (&beside, "the same")] {
        let why = format!(
            "a lock that another identity with this campaign number holds, on {where_} connection"
        );
        other.refused(&why).await?;
        let why = format!(
            "a term, after another identity with its campaign number was refused and has \
             withdrawn, on {where_} connection"
        );
        grant = leader.renewed(&grant, &why).await?;
    }
    leader.release(&grant).await?;
    elsewhere.holds_and_releases("a released lock").await
}

/// A refusal says how long the lock is held at least, and never longer than the lease: a waiter
/// would sleep too long. If it names a holder, that one holds the lock.
pub async fn a_refusal_tells_the_truth(target: &dyn Target) -> Verdict {
    let (context, [leader, rival]) = contest(target).await?;
    let grant = leader.held("a fresh lock").await?;
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
        leader.is_named(&holder, "a refusal")?;
        has_token(&holder, &grant, "a refusal")?;
    }
    leader.release(&grant).await
}

/// The granted lease is the one asked for, up to the store's granularity.
pub async fn the_lease_is_granted_as_asked(target: &dyn Target) -> Verdict {
    let context = CaseContext::open(target).await?;
    let step = context.capabilities.lease_granularity;
    let least = context.capabilities.min_lease;
    for asked in [least, context.short(), context.long()] {
        let [leader] = context.contestants().await?.map(|one| one.lease(asked));
        let grant = leader.held("a fresh lock").await?;
        ensure!(
            grant.lease + step >= asked && grant.lease <= asked + step,
            "a lease of {asked:?} was asked for, and {:?} granted",
            grant.lease
        );
        leader.withdraw().await?;
    }
    Ok(())
}
