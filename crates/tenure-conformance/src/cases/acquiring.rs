//! Acquiring: once for each campaign, adopted when its answer was lost (contract 5).

use std::time::Duration;

use tenure_core::{Acquired, Operation};
use tokio::time::timeout;

use super::MOST_POLLS;
use crate::stage::{Player, Stage};
use crate::verdict::{ensure, fail};
use crate::{Answers, Stop, Subject, Verdict};

/// A campaign that asks again holds the same lock, which others are still refused.
pub async fn acquiring_again_adopts_the_term(subject: &dyn Subject) -> Verdict {
    let stage = Stage::open(subject).await?;
    let lock = stage.lock()?;
    let (player, rival) = (stage.player(&lock).await?, stage.player(&lock).await?);
    let first = player.held("a fresh lock").await?;
    let second = player.held("a campaign that asks again").await?;
    ensure!(
        second.token >= first.token,
        "the token fell from {} to {} when a campaign asked again",
        first.token,
        second.token
    );
    rival.refused("a lock that was acquired twice").await?;
    let second = player.renewed(&second, "an adopted term").await?;
    player.release(&second).await?;
    let grant = rival.held("an adopted term that was released").await?;
    rival.release(&grant).await
}

/// The same on another connection, as after a reconnect.
pub async fn acquiring_again_elsewhere_adopts_the_term(subject: &dyn Subject) -> Verdict {
    let stage = Stage::open(subject).await?;
    if stage.capabilities.expiry == tenure_core::Expiry::Session {
        return Err(Stop::left_out(
            "the lock belongs to a session (Expiry::Session), not to a campaign alone",
        ));
    }
    let lock = stage.lock()?;
    let player = stage.player(&lock).await?;
    let elsewhere = Player {
        on: stage.connect().await?,
        ..player.clone()
    };
    player.held("a fresh lock").await?;
    let grant = elsewhere
        .held("a campaign that asks again on another connection")
        .await?;
    elsewhere.release(&grant).await
}

/// The grant of an adopted term is proven by the request that adopted it, not by the lost one,
/// and its lease begins anew at the store.
pub async fn adopting_proves_anew(subject: &dyn Subject) -> Verdict {
    let stage = Stage::open(subject).await?;
    for lease in stage.short_leases() {
        let lock = stage.lock()?;
        let player = stage.player(&lock).await?.lease(lease);
        let rival = stage.player(&lock).await?.lease(lease);
        player.held("a fresh lock").await?;
        let half = player.now() + lease / 2;
        player.on.backend.clock().sleep_until(half).await;
        let adopted = player.held("a campaign that asks again").await?;
        ensure!(
            adopted.proven_at + stage.capabilities.expiry_lag >= half
                || stage.capabilities.expiry == tenure_core::Expiry::Session,
            "an adopted term has an old proof"
        );
        // Past the first lease, within the second.
        player
            .on
            .backend
            .clock()
            .sleep_until(half + lease * 5 / 8)
            .await;
        let acquired = rival.acquire().await?;
        if player.now() >= crate::stage::earliest_end(&adopted) {
            continue;
        }
        if let Acquired::Held(_) = acquired {
            fail!("a term that was adopted ended with the lease of the attempt before");
        }
        rival.withdraw().await?;
        return player.withdraw().await;
    }
    too_slow()
}

/// An acquire that is dropped after any number of polls, and then repeated, holds.
pub async fn acquiring_after_a_drop_adopts_the_term(subject: &dyn Subject) -> Verdict {
    let stage = Stage::open(subject).await?;
    for polls in 0..MOST_POLLS {
        let lock = stage.lock()?;
        let (player, rival) = (stage.player(&lock).await?, stage.player(&lock).await?);
        let done = stage.drop_after(polls, player.acquiring()).await?;
        let grant = player
            .held(&format!(
                "a campaign whose call was dropped after {polls} polls"
            ))
            .await?;
        rival.refused("a lock that was adopted").await?;
        let grant = player.renewed(&grant, "an adopted term").await?;
        player.release(&grant).await?;
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
pub async fn acquiring_after_a_lost_answer_adopts_the_term(subject: &dyn Subject) -> Verdict {
    let stage = Stage::open(subject).await?;
    let lock = stage.lock()?;
    let player = stage.player(&lock).await?;
    // So that the connection stands before its answers are lost.
    player.holder().await?;
    subject.answers(Answers::Lost).await.need("answers")?;
    // Long enough for any request to arrive. A store that is slower makes the case easier.
    let lost = timeout(Duration::from_secs(2), player.acquiring()).await;
    subject.answers(Answers::Prompt).await.need("answers")?;
    match lost {
        Ok(Ok(acquired)) => fail!("without any answer, acquire gave {acquired:?}"),
        Ok(Err(error)) => player.on.judge(Operation::Acquire, &error)?,
        Err(_) => {}
    }
    let grant = stage
        .eventually(
            "acquiring after a lost answer",
            stage.patience(),
            async || player.try_held().await,
        )
        .await?;
    player.release(&grant).await?;
    stage
        .player(&lock)
        .await?
        .held("an adopted term that was released")
        .await?;
    Ok(())
}

/// Another campaign with the same identity never shares the term (hazards 19 and 20).
pub async fn equal_identities_never_share_a_term(subject: &dyn Subject) -> Verdict {
    let stage = Stage::open(subject).await?;
    let lock = stage.lock()?;
    let player = stage.player(&lock).await?;
    let twin = stage
        .player(&lock)
        .await?
        .identity(&player.candidate.identity);
    let grant = player.held("a fresh lock").await?;
    twin.refused("a lock that a namesake holds on another connection")
        .await?;
    player
        .next()
        .refused("a lock that a namesake holds on the same connection")
        .await?;
    let grant = player.renewed(&grant, "a term with a namesake").await?;
    player.release(&grant).await
}

/// Nor does another identity whose campaign has the same number (contract 9): numbers can be
/// drawn twice, by two processes that were forked or cloned from one.
pub async fn equal_campaigns_never_share_a_term(subject: &dyn Subject) -> Verdict {
    let stage = Stage::open(subject).await?;
    let lock = stage.lock()?;
    let player = stage.player(&lock).await?;
    let elsewhere = stage.player(&lock).await?.numbered_as(&player);
    let beside = stage.player_on(&player.on, &lock)?.numbered_as(&player);
    let mut grant = player.held("a fresh lock").await?;
    for (other, where_) in [(&elsewhere, "another"), (&beside, "the same")] {
        let why = format!(
            "a lock that another identity with this campaign number holds, on {where_} connection"
        );
        other.refused(&why).await?;
        let why = format!(
            "a term, after another identity with its campaign number was refused and has \
             withdrawn, on {where_} connection"
        );
        grant = player.renewed(&grant, &why).await?;
    }
    player.release(&grant).await?;
    let grant = elsewhere.held("a released lock").await?;
    elsewhere.release(&grant).await
}

/// A refusal says how long the lock is held at least; never longer than the lease, or a waiter
/// would oversleep. If it names the holder, it is the holder.
pub async fn a_refusal_tells_the_truth(subject: &dyn Subject) -> Verdict {
    let stage = Stage::open(subject).await?;
    let lock = stage.lock()?;
    let player = stage.player(&lock).await?;
    let rival = stage.player(&lock).await?;
    let grant = player.held("a fresh lock").await?;
    let refusal = rival.refused("a held lock").await?;
    if let Some(free_in) = refusal.free_in {
        let most = grant.lease + stage.capabilities.expiry_lag + Duration::from_secs(1);
        ensure!(
            free_in <= most,
            "a refusal says the lock is free in {free_in:?}, with a lease of {:?}",
            grant.lease
        );
    }
    if let Some(holder) = refusal.holder {
        ensure!(
            holder.identity == player.candidate.identity.as_str(),
            "a refusal names {:?} as the holder, which is {:?}",
            holder.identity,
            player.candidate.identity
        );
        ensure!(
            holder.token.is_none_or(|token| token == grant.token),
            "a refusal names {:?} as the holder's token, which is {}",
            holder.token,
            grant.token
        );
    }
    player.release(&grant).await
}

/// The granted lease is the one asked for, up to the store's granularity.
pub async fn the_lease_is_granted_as_asked(subject: &dyn Subject) -> Verdict {
    let stage = Stage::open(subject).await?;
    let (least, step) = (
        stage.capabilities.min_lease,
        stage.capabilities.lease_granularity,
    );
    for asked in [least, stage.short(), stage.long()] {
        let lock = stage.lock()?;
        let player = stage.player(&lock).await?.lease(asked);
        let grant = player.held("a fresh lock").await?;
        ensure!(
            grant.lease + step >= asked && grant.lease <= asked + step,
            "a lease of {asked:?} was asked for, and {:?} granted",
            grant.lease
        );
        player.withdraw().await?;
    }
    Ok(())
}

fn too_slow() -> Verdict {
    fail!("this machine was too slow for every lease that was tried")
}
