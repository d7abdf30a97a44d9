//! One token per term, rising (contract 3, I6).

use tenure_core::{FencingToken, Rises, Time};

use crate::case_context::{CaseContext, Contestant, earliest_end};
use crate::verdict::ensure;
use crate::{Stop, Target, Verdict};

fn rises(what: &str, from: FencingToken, to: FencingToken) -> Verdict {
    ensure!(to > from, "over {what} the token went from {from} to {to}");
    Ok(())
}

/// Over a release, to another candidate and to the same one.
pub async fn tokens_rise_over_a_release(target: &dyn Target) -> Verdict {
    let context = CaseContext::open(target).await?;
    let lock = context.lock()?;
    let mut contestants = [
        context.contestant(&lock).await?,
        context.contestant(&lock).await?,
    ];
    let mut last = None;
    for turn in [0, 1, 0, 0, 1, 1] {
        contestants[turn] = contestants[turn].next();
        let grant = contestants[turn].held("a released lock").await?;
        if let Some(last) = last {
            rises("a release", last, grant.token)?;
        }
        last = Some(grant.token);
        contestants[turn].release(&grant).await?;
    }
    Ok(())
}

/// Over a withdrawal of what a lost attempt had acquired: its token may have been used.
pub async fn tokens_rise_over_a_withdrawal(target: &dyn Target) -> Verdict {
    let context = CaseContext::open(target).await?;
    let lock = context.lock()?;
    let (contestant, rival) = (
        context.contestant(&lock).await?,
        context.contestant(&lock).await?,
    );
    let first = contestant.held("a fresh lock").await?;
    contestant.withdraw().await?;
    let second = rival.held("a withdrawn lock").await?;
    rises("a withdrawal", first.token, second.token)?;
    rival.release(&second).await
}

/// Over the end of a lease, to another candidate and to one of the same identity.
pub async fn tokens_rise_over_expiry(target: &dyn Target) -> Verdict {
    let context = CaseContext::open(target).await?;
    let lock = context.lock()?;
    let lease = context.short();
    let contestant = context.contestant(&lock).await?.lease(lease);
    let rival = context.contestant(&lock).await?.lease(lease);
    let first = contestant.held("a fresh lock").await?;
    let second = after_the_lease(&context, &rival).await?;
    rises("the end of a lease", first.token, second)?;
    let third = after_the_lease(&context, &contestant.next()).await?;
    rises("the end of a lease", second, third)?;
    let fourth = after_the_lease(&context, &contestant.next()).await?;
    rises("the end of a lease, to the same identity", third, fourth)
}

async fn after_the_lease(
    context: &CaseContext<'_>,
    contestant: &Contestant,
) -> Result<FencingToken, Stop> {
    let within = context.until_free(contestant.lease);
    let grant = context
        .eventually("the end of a lease", within, async || {
            contestant.try_held().await
        })
        .await?;
    Ok(grant.token)
}

/// Over a deletion of the lock at the store, when
/// [`over_deletion`](tenure_core::FencingGuarantee::over_deletion) claims it.
///
/// Hook: `delete_lock`.
pub async fn tokens_rise_over_a_deletion(target: &dyn Target) -> Verdict {
    let context = CaseContext::open(target).await?;
    claimed(
        &context,
        "over_deletion",
        context.capabilities.fencing.over_deletion,
    )?;
    let lock = context.lock()?;
    let (contestant, rival) = (
        context.contestant(&lock).await?,
        context.contestant(&lock).await?,
    );
    let mut last = contestant.held("a fresh lock").await?;
    // Twice, and after some renewals, so that a counter in the record has got somewhere.
    for _ in 0..2 {
        last = contestant.renewed(&last, "a held term").await?;
    }
    contestant.release(&last).await?;
    let second = rival.held("a released lock").await?;
    rises("a release", last.token, second.token)?;
    target.delete_lock(&lock).await.need("delete_lock")?;
    let third = context
        .eventually(
            "a deleted lock",
            context.until_free(second.lease),
            async || contestant.next().try_held().await,
        )
        .await?;
    rises("a deletion", second.token, third.token)
}

/// Over a restart of the store, when
/// [`over_crash`](tenure_core::FencingGuarantee::over_crash) claims it.
///
/// Hook: `restart_store`.
pub async fn tokens_rise_over_a_restart(target: &dyn Target) -> Verdict {
    let context = CaseContext::open(target).await?;
    claimed(
        &context,
        "over_crash",
        context.capabilities.fencing.over_crash,
    )?;
    let lock = context.lock()?;
    let lease = context.short();
    let contestant = context.contestant(&lock).await?.lease(lease);
    let first = contestant.held("a fresh lock").await?;
    let first = contestant.renewed(&first, "a held term").await?;
    contestant.release(&first).await?;
    let second = contestant.next().held("a released lock").await?;
    rises("a release", first.token, second.token)?;
    target.restart_store().await.need("restart_store")?;
    let third = after_the_lease(&context, &contestant.next()).await?;
    rises("a restart of the store", second.token, third)?;
    // And from a connection that was made after it.
    let fresh = context.contestant(&lock).await?.lease(lease);
    let fourth = after_the_lease(&context, &fresh).await?;
    rises("a restart of the store", third, fourth)
}

fn claimed(context: &CaseContext<'_>, over: &str, rises: Rises) -> Verdict {
    match rises {
        Rises::Always => Ok(()),
        Rises::If(_) if context.target.conditions_met() => Ok(()),
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
pub async fn a_restart_ends_no_lease_early(target: &dyn Target) -> Verdict {
    let context = CaseContext::open(target).await?;
    claimed(
        &context,
        "over_crash",
        context.capabilities.fencing.over_crash,
    )?;
    let lock = context.lock()?;
    // Long enough to outlast the restart; longer if the first ones do not.
    for lease in context.short_leases() {
        let lock_of_round = if lease == context.short() {
            lock.clone()
        } else {
            context.lock()?
        };
        let contestant = context.contestant(&lock_of_round).await?.lease(lease);
        let rival = context.contestant(&lock_of_round).await?.lease(lease);
        // Which may be withheld for a lease, if the store was restarted just now.
        let grant = context
            .eventually("a fresh lock", context.until_free(lease), async || {
                contestant.try_held().await
            })
            .await?;
        target.restart_store().await.need("restart_store")?;
        let outlasted = contestant.now() < earliest_end(&grant);
        let granted_at: Time = context
            .eventually(
                "the lock after a restart",
                context.until_free(lease),
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
