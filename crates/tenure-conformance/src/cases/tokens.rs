//! One token per term, rising (contract 3, I6).

use tenure_core::{FencingToken, Rises};

use crate::case_context::{CaseContext, contest, earliest_end};
use crate::contestant::Contestant;
use crate::target::Target;
use crate::verdict::{Stop, Verdict, ensure};

fn rises(what: &str, from: FencingToken, to: FencingToken) -> Verdict {
    ensure!(to > from, "over {what} the token went from {from} to {to}");
    Ok(())
}

/// Over a release, to another candidate and to the same one.
pub async fn tokens_rise_over_a_release(target: &dyn Target) -> Verdict {
    let (_, mut contestants) = contest::<2>(target).await?;
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
    let (_, [leader, rival]) = contest(target).await?;
    let first = leader.held("a fresh lock").await?;
    leader.withdraw().await?;
    let second = rival.held("a withdrawn lock").await?;
    rises("a withdrawal", first.token, second.token)?;
    rival.release(&second).await
}

/// Over the end of a lease, to another candidate and to one of the same identity.
pub async fn tokens_rise_over_expiry(target: &dyn Target) -> Verdict {
    let (context, contestants) = contest::<2>(target).await?;
    let [leader, rival] = contestants.map(|one| one.lease(context.short()));
    let first = leader.held("a fresh lock").await?;
    let second = after_the_lease(&context, &rival).await?;
    rises("the end of a lease", first.token, second)?;
    let third = after_the_lease(&context, &leader.next()).await?;
    rises("the end of a lease", second, third)?;
    let fourth = after_the_lease(&context, &leader.next()).await?;
    rises("the end of a lease, to the same identity", third, fourth)
}

async fn after_the_lease(
    context: &CaseContext<'_>,
    contestant: &Contestant,
) -> Result<FencingToken, Stop> {
    let lease = contestant.lease;
    let grant = context.granted_after(lease, contestant, "the end of a lease");
    Ok(grant.await?.token)
}

/// Over a deletion of the lock at the store, when
/// [`over_deletion`](tenure_core::FencingGuarantee::over_deletion) claims it.
///
/// Hook: `delete_lock`.
pub async fn tokens_rise_over_a_deletion(target: &dyn Target) -> Verdict {
    let (context, [leader, rival]) = contest(target).await?;
    let over_deletion = context.capabilities.fencing.over_deletion;
    claimed(&context, "over_deletion", over_deletion)?;
    let mut last = leader.held("a fresh lock").await?;
    // Some renewals, so that a counter in the record has risen.
    for _ in 0..2 {
        last = leader.renewed(&last, "a held term").await?;
    }
    leader.release(&last).await?;
    let second = rival.held("a released lock").await?;
    rises("a release", last.token, second.token)?;
    target.delete_lock(&rival.lock).await.need("delete_lock")?;
    let within = context.until_free(second.lease);
    let third = context
        .eventually("a deleted lock", within, async || {
            leader.next().try_held().await
        })
        .await?;
    rises("a deletion", second.token, third.token)
}

/// Over a restart of the store, when
/// [`over_crash`](tenure_core::FencingGuarantee::over_crash) claims it.
///
/// Hook: `restart_store`.
pub async fn tokens_rise_over_a_restart(target: &dyn Target) -> Verdict {
    let (context, [leader]) = contest(target).await?;
    let over_crash = context.capabilities.fencing.over_crash;
    claimed(&context, "over_crash", over_crash)?;
    let lease = context.short();
    let leader = leader.lease(lease);
    let first = leader.held("a fresh lock").await?;
    let first = leader.renewed(&first, "a held term").await?;
    leader.release(&first).await?;
    let second = leader.next().held("a released lock").await?;
    rises("a release", first.token, second.token)?;
    target.restart_store().await.need("restart_store")?;
    let third = after_the_lease(&context, &leader.next()).await?;
    rises("a restart of the store", second.token, third)?;
    // And from a connection that was made after it.
    let fresh = context.contestant(&leader.lock).await?.lease(lease);
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

/// A restart of the store ends no lease early: its holder knows nothing of it and goes on. When
/// `over_crash` claims it.
///
/// Hook: `restart_store`.
pub async fn a_restart_ends_no_lease_early(target: &dyn Target) -> Verdict {
    let context = CaseContext::open(target).await?;
    let over_crash = context.capabilities.fencing.over_crash;
    claimed(&context, "over_crash", over_crash)?;
    // Long enough to outlast the restart; longer if the first ones do not.
    let outlasted = context
        .try_leases(async |lease| {
            let [leader, rival] = context.contestants().await?.map(|one| one.lease(lease));
            // A store that was restarted just now may withhold it for a lease.
            let grant = context
                .granted_after(lease, &leader, "a fresh lock")
                .await?;
            target.restart_store().await.need("restart_store")?;
            let outlasted = leader.now() < earliest_end(&grant);
            context
                .granted_after(lease, &rival, "the lock after a restart")
                .await?;
            let granted_at = rival.now();
            ensure!(
                granted_at >= earliest_end(&grant),
                "after a restart a lock was granted {:?} before the lease of its holder had ended",
                earliest_end(&grant).since(granted_at)
            );
            rival.withdraw().await?;
            Ok(outlasted.then_some(()))
        })
        .await?;
    outlasted.ok_or_else(|| {
        Stop::left_out("the store takes longer to restart than any lease that was tried")
    })
}
