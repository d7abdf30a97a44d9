//! One token per term, rising (contract 3, I6).

use tenure_core::{FencingToken, Rises, Time};

use crate::stage::{Player, Stage, earliest_end};
use crate::verdict::ensure;
use crate::{Stop, Subject, Verdict};

fn rises(what: &str, from: FencingToken, to: FencingToken) -> Verdict {
    ensure!(to > from, "over {what} the token went from {from} to {to}");
    Ok(())
}

/// Over a release, to another candidate and to the same one.
pub async fn tokens_rise_over_a_release(subject: &dyn Subject) -> Verdict {
    let stage = Stage::open(subject).await?;
    let lock = stage.lock()?;
    let mut players = [stage.player(&lock).await?, stage.player(&lock).await?];
    let mut last = None;
    for turn in [0, 1, 0, 0, 1, 1] {
        players[turn] = players[turn].next();
        let grant = players[turn].held("a released lock").await?;
        if let Some(last) = last {
            rises("a release", last, grant.token)?;
        }
        last = Some(grant.token);
        players[turn].release(&grant).await?;
    }
    Ok(())
}

/// Over a withdrawal of what a lost attempt had acquired: its token may have been used.
pub async fn tokens_rise_over_a_withdrawal(subject: &dyn Subject) -> Verdict {
    let stage = Stage::open(subject).await?;
    let lock = stage.lock()?;
    let (player, rival) = (stage.player(&lock).await?, stage.player(&lock).await?);
    let first = player.held("a fresh lock").await?;
    player.withdraw().await?;
    let second = rival.held("a withdrawn lock").await?;
    rises("a withdrawal", first.token, second.token)?;
    rival.release(&second).await
}

/// Over the end of a lease, to another candidate and to one of the same identity.
pub async fn tokens_rise_over_expiry(subject: &dyn Subject) -> Verdict {
    let stage = Stage::open(subject).await?;
    let lock = stage.lock()?;
    let lease = stage.short();
    let player = stage.player(&lock).await?.lease(lease);
    let rival = stage.player(&lock).await?.lease(lease);
    let first = player.held("a fresh lock").await?;
    let second = after_the_lease(&stage, &rival).await?;
    rises("the end of a lease", first.token, second)?;
    let third = after_the_lease(&stage, &player.next()).await?;
    rises("the end of a lease", second, third)?;
    let fourth = after_the_lease(&stage, &player.next()).await?;
    rises("the end of a lease, to the same identity", third, fourth)
}

async fn after_the_lease(stage: &Stage<'_>, player: &Player) -> Result<FencingToken, Stop> {
    let within = stage.until_free(player.lease);
    let grant = stage
        .eventually("the end of a lease", within, async || {
            player.try_held().await
        })
        .await?;
    Ok(grant.token)
}

/// Over a deletion of the lock at the store, when
/// [`over_deletion`](tenure_core::FencingGuarantee::over_deletion) claims it.
///
/// Hook: `delete_lock`.
pub async fn tokens_rise_over_a_deletion(subject: &dyn Subject) -> Verdict {
    let stage = Stage::open(subject).await?;
    claimed(
        &stage,
        "over_deletion",
        stage.capabilities.fencing.over_deletion,
    )?;
    let lock = stage.lock()?;
    let (player, rival) = (stage.player(&lock).await?, stage.player(&lock).await?);
    let mut last = player.held("a fresh lock").await?;
    // Twice, and after some renewals, so that a counter in the record has got somewhere.
    for _ in 0..2 {
        last = player.renewed(&last, "a held term").await?;
    }
    player.release(&last).await?;
    let second = rival.held("a released lock").await?;
    rises("a release", last.token, second.token)?;
    subject.delete_lock(&lock).await.need("delete_lock")?;
    let third = stage
        .eventually(
            "a deleted lock",
            stage.until_free(second.lease),
            async || player.next().try_held().await,
        )
        .await?;
    rises("a deletion", second.token, third.token)
}

/// Over a restart of the store, when
/// [`over_crash`](tenure_core::FencingGuarantee::over_crash) claims it.
///
/// Hook: `restart_store`.
pub async fn tokens_rise_over_a_restart(subject: &dyn Subject) -> Verdict {
    let stage = Stage::open(subject).await?;
    claimed(&stage, "over_crash", stage.capabilities.fencing.over_crash)?;
    let lock = stage.lock()?;
    let lease = stage.short();
    let player = stage.player(&lock).await?.lease(lease);
    let first = player.held("a fresh lock").await?;
    let first = player.renewed(&first, "a held term").await?;
    player.release(&first).await?;
    let second = player.next().held("a released lock").await?;
    rises("a release", first.token, second.token)?;
    subject.restart_store().await.need("restart_store")?;
    let third = after_the_lease(&stage, &player.next()).await?;
    rises("a restart of the store", second.token, third)?;
    // And from a connection that was made after it.
    let fresh = stage.player(&lock).await?.lease(lease);
    let fourth = after_the_lease(&stage, &fresh).await?;
    rises("a restart of the store", third, fourth)
}

fn claimed(stage: &Stage<'_>, over: &str, rises: Rises) -> Verdict {
    match rises {
        Rises::Always => Ok(()),
        Rises::If(_) if stage.subject.conditions_met() => Ok(()),
        Rises::If(condition) => Err(Stop::left_out(format!(
            "{over} is claimed only if {condition}"
        ))),
        Rises::Never => Err(Stop::left_out(format!("{over} is not claimed"))),
        _ => Err(Stop::left_out(format!("{over} does not apply"))),
    }
}

/// A restart of the store ends no lease early: its holder, who knows nothing of it, still
/// believes in it. When `over_crash` claims it.
///
/// Hook: `restart_store`.
pub async fn a_restart_ends_no_lease_early(subject: &dyn Subject) -> Verdict {
    let stage = Stage::open(subject).await?;
    claimed(&stage, "over_crash", stage.capabilities.fencing.over_crash)?;
    let lock = stage.lock()?;
    // Long enough to outlast the restart; longer if the first ones do not.
    for lease in stage.short_leases() {
        let lock_of_round = if lease == stage.short() {
            lock.clone()
        } else {
            stage.lock()?
        };
        let player = stage.player(&lock_of_round).await?.lease(lease);
        let rival = stage.player(&lock_of_round).await?.lease(lease);
        // Which may be withheld for a lease, if the store was restarted just now.
        let grant = stage
            .eventually("a fresh lock", stage.until_free(lease), async || {
                player.try_held().await
            })
            .await?;
        subject.restart_store().await.need("restart_store")?;
        let outlasted = player.now() < earliest_end(&grant);
        let granted_at: Time = stage
            .eventually(
                "the lock after a restart",
                stage.until_free(lease),
                async || Ok(rival.try_held().await?.map(|_| rival.now())),
            )
            .await?;
        ensure!(
            granted_at >= earliest_end(&grant),
            "after a restart a lock was granted {:?} before the lease of its holder had ended",
            earliest_end(&grant).since(granted_at)
        );
        rival.withdraw().await?;
        if outlasted {
            return Ok(());
        }
    }
    Err(Stop::left_out(
        "the store takes longer to restart than any lease that was tried",
    ))
}
