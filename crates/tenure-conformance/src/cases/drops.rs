//! Futures dropped at every await point (contract 6, hazards 9 and 10).
//!
//! Each call is polled n times and dropped, for n from 0 until it is done.

use futures_util::future::try_join_all;
use tenure_core::{Acquired, Grant};

use super::MOST_POLLS;
use crate::stage::{Player, Stage};
use crate::verdict::fail;
use crate::{Stop, Subject, Verdict};

/// What a dropped acquire has left is gone with `withdraw`.
///
/// A request that was on its way when its future was dropped may arrive after the withdrawal, so
/// that is repeated; the lease is one that no case outlives.
pub async fn a_dropped_acquire_can_be_withdrawn(subject: &dyn Subject) -> Verdict {
    let stage = Stage::open(subject).await?;
    for polls in 0..MOST_POLLS {
        let lock = stage.lock()?;
        let (player, rival) = (stage.player(&lock).await?, stage.player(&lock).await?);
        let done = stage.drop_after(polls, player.acquiring()).await?;
        player.withdraw().await?;
        let grant = free_of(&stage, &player, &rival, polls).await?;
        rival.release(&grant).await?;
        if done.is_some() {
            return Ok(());
        }
    }
    fail!("acquire was not done after {MOST_POLLS} polls")
}

async fn free_of(
    stage: &Stage<'_>,
    player: &Player,
    rival: &Player,
    polls: usize,
) -> Result<Grant, Stop> {
    let what = format!("withdrawing an acquire that was dropped after {polls} polls");
    stage
        .eventually(&what, stage.patience(), async || {
            let grant = rival.try_held().await?;
            if grant.is_none() {
                player.withdraw().await?;
            }
            Ok(grant)
        })
        .await
}

/// Without `withdraw` it is gone when its lease ends: nothing keeps alive what no caller holds.
pub async fn a_dropped_acquire_ends_with_its_lease(subject: &dyn Subject) -> Verdict {
    let stage = Stage::open(subject).await?;
    let lease = stage.short();
    let mut orphans = Vec::new();
    for polls in 0..MOST_POLLS {
        let lock = stage.lock()?;
        let player = stage.player(&lock).await?.lease(lease);
        let rival = stage.player(&lock).await?;
        let done = stage.drop_after(polls, player.acquiring()).await?;
        // The players are kept, since their connections have to stand.
        orphans.push((polls, player, rival));
        if done.is_some() {
            break;
        }
    }
    end_with_their_leases(&stage, "acquire", orphans).await
}

/// Nor does a dropped renewal keep the term alive beyond its lease.
pub async fn a_dropped_renew_ends_with_its_lease(subject: &dyn Subject) -> Verdict {
    let stage = Stage::open(subject).await?;
    let lease = stage.short();
    let mut orphans = Vec::new();
    for polls in 0..MOST_POLLS {
        let lock = stage.lock()?;
        let player = stage.player(&lock).await?.lease(lease);
        let rival = stage.player(&lock).await?;
        let grant = player.held("a fresh lock").await?;
        let renewing = player.backend().renew(&grant, player.now());
        let done = stage.drop_after(polls, renewing).await?;
        orphans.push((polls, player, rival));
        if done.is_some() {
            break;
        }
    }
    end_with_their_leases(&stage, "renew", orphans).await
}

async fn end_with_their_leases(
    stage: &Stage<'_>,
    call: &str,
    orphans: Vec<(usize, Player, Player)>,
) -> Verdict {
    let within = stage.until_free(stage.short());
    let endings = orphans.into_iter().map(async |(polls, player, rival)| {
        let what = format!("the end of a lease whose {call} was dropped after {polls} polls");
        let grant = stage
            .eventually(&what, within, async || rival.try_held().await)
            .await?;
        drop(player);
        rival.release(&grant).await
    });
    try_join_all(endings).await?;
    Ok(())
}

/// A dropped renewal loses nothing: the term goes on, and the grant from before renews it.
pub async fn a_dropped_renew_can_be_repeated(subject: &dyn Subject) -> Verdict {
    let stage = Stage::open(subject).await?;
    let lock = stage.lock()?;
    let (player, rival) = (stage.player(&lock).await?, stage.player(&lock).await?);
    let grant = player.held("a fresh lock").await?;
    for polls in 0..MOST_POLLS {
        let renewing = player.backend().renew(&grant, player.now());
        let done = stage.drop_after(polls, renewing).await?;
        rival
            .refused(&format!(
                "a term whose renew was dropped after {polls} polls"
            ))
            .await?;
        player
            .renewed(
                &grant,
                &format!("a term whose renew was dropped after {polls} polls"),
            )
            .await?;
        if done.is_some() {
            player.release(&grant).await?;
            let grant = rival.held("a released lock").await?;
            return rival.release(&grant).await;
        }
    }
    fail!("renew was not done after {MOST_POLLS} polls")
}

/// A dropped release can be repeated, frees the lock then, and does not touch the successor
/// should it arrive late.
pub async fn a_dropped_release_can_be_repeated(subject: &dyn Subject) -> Verdict {
    let stage = Stage::open(subject).await?;
    for polls in 0..MOST_POLLS {
        let lock = stage.lock()?;
        let (player, rival) = (stage.player(&lock).await?, stage.player(&lock).await?);
        let grant = player.held("a fresh lock").await?;
        let done = stage
            .drop_after(polls, player.backend().release(&grant))
            .await?;
        player.release(&grant).await?;
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
pub async fn a_dropped_withdraw_can_be_repeated(subject: &dyn Subject) -> Verdict {
    let stage = Stage::open(subject).await?;
    for polls in 0..MOST_POLLS {
        let lock = stage.lock()?;
        let (player, rival) = (stage.player(&lock).await?, stage.player(&lock).await?);
        player.held("a fresh lock").await?;
        let withdrawing = player.backend().withdraw(&lock, &player.candidate);
        let done = stage.drop_after(polls, withdrawing).await?;
        player.withdraw().await?;
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
pub async fn a_dropped_look_changes_nothing(subject: &dyn Subject) -> Verdict {
    let stage = Stage::open(subject).await?;
    let lock = stage.lock()?;
    let (player, observer) = (stage.player(&lock).await?, stage.connect().await?);
    let grant = player.held("a fresh lock").await?;
    for polls in 0..MOST_POLLS {
        let done = stage
            .drop_after(polls, observer.backend.holder(&lock))
            .await?;
        observer.holder(&lock).await?;
        if done.is_some() {
            break;
        }
    }
    let grant = match player.acquire().await? {
        Acquired::Held(grant) => grant,
        Acquired::Taken { .. } => player.renewed(&grant, "a term that was looked at").await?,
    };
    player.release(&grant).await
}
