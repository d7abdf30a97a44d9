//! Releasing and withdrawing: only one's own, and safe to repeat (contract 4).

use tenure_core::{ErrorKind, Occupancy, Operation};

use crate::case_context::CaseContext;
use crate::verdict::{ensure, fail};
use crate::{Target, Verdict};

/// A released lock is granted to the next who asks.
pub async fn a_release_frees_at_once(target: &dyn Target) -> Verdict {
    let context = CaseContext::open(target).await?;
    let lock = context.lock()?;
    let (contestant, rival) = (
        context.contestant(&lock).await?,
        context.contestant(&lock).await?,
    );
    let grant = contestant.held("a fresh lock").await?;
    rival.refused("a held lock").await?;
    contestant.release(&grant).await?;
    let grant = rival.held("a released lock").await?;
    rival.release(&grant).await
}

/// A release may be repeated, as after a timeout, before and after somebody has followed.
pub async fn a_release_may_be_repeated(target: &dyn Target) -> Verdict {
    let context = CaseContext::open(target).await?;
    let lock = context.lock()?;
    let (contestant, rival) = (
        context.contestant(&lock).await?,
        context.contestant(&lock).await?,
    );
    let grant = contestant.held("a fresh lock").await?;
    contestant.release(&grant).await?;
    contestant.release(&grant).await?;
    let next = rival.held("a lock that was released twice").await?;
    contestant.release(&grant).await?;
    rival.release(&next).await?;
    contestant.release(&grant).await
}

/// A late release never touches a successor's term.
pub async fn a_late_release_leaves_a_successor_alone(target: &dyn Target) -> Verdict {
    let context = CaseContext::open(target).await?;
    let lock = context.lock()?;
    let lease = context.short();
    let contestant = context.contestant(&lock).await?.lease(lease);
    let (rival, third) = (
        context.contestant(&lock).await?,
        context.contestant(&lock).await?,
    );
    let old = contestant.held("a fresh lock").await?;
    let new = context
        .eventually("a successor", context.until_free(lease), async || {
            rival.try_held().await
        })
        .await?;
    contestant.release(&old).await?;
    third
        .refused("a lock after its old holder's release")
        .await?;
    let new = rival
        .renewed(&new, "a successor after its predecessor's release")
        .await?;
    rival.release(&new).await
}

/// Nor the next term of the same identity (hazard 20).
pub async fn a_late_release_leaves_the_next_term_alone(target: &dyn Target) -> Verdict {
    let context = CaseContext::open(target).await?;
    let lock = context.lock()?;
    let (contestant, rival) = (
        context.contestant(&lock).await?,
        context.contestant(&lock).await?,
    );
    let old = contestant.held("a fresh lock").await?;
    contestant.release(&old).await?;
    let again = contestant.next();
    let new = again.held("a released lock").await?;
    contestant.release(&old).await?;
    rival
        .refused("a lock after a release of an earlier term")
        .await?;
    let new = again
        .renewed(&new, "a term after a release of an earlier one")
        .await?;
    again.release(&new).await
}

/// A release acts for its candidate only: identity and campaign both have to be the holder's
/// (contract 9).
pub async fn releasing_as_another_owner_frees_nothing(target: &dyn Target) -> Verdict {
    let context = CaseContext::open(target).await?;
    let lock = context.lock()?;
    let (contestant, rival) = (
        context.contestant(&lock).await?,
        context.contestant(&lock).await?,
    );
    let mut grant = contestant.held("a fresh lock").await?;
    for (who, other) in contestant.halves(&contestant.on)? {
        let usurped = other.usurped(&grant);
        context
            .eventually("an answer to a release", context.patience(), async || {
                let releasing = other.backend().release(&usurped);
                match other.on.once(Operation::Release, releasing).await? {
                    Ok(()) => Ok(Some(())),
                    Err(error) if error.kind() == ErrorKind::InvalidInput => Ok(Some(())),
                    Err(error) if error.is_retryable() => Ok(None),
                    Err(error) => fail!("a release by {who} gives {error}"),
                }
            })
            .await?;
        rival
            .refused(&format!("a held lock after a release by {who}"))
            .await?;
        let why = format!("a term after a release by {who}");
        grant = contestant.renewed(&grant, &why).await?;
    }
    contestant.release(&grant).await
}

/// Withdrawing takes back the lock that an attempt got without its caller's knowledge.
pub async fn withdrawing_frees_what_an_attempt_got(target: &dyn Target) -> Verdict {
    let context = CaseContext::open(target).await?;
    let lock = context.lock()?;
    let (contestant, rival) = (
        context.contestant(&lock).await?,
        context.contestant(&lock).await?,
    );
    let lost = contestant.held("a fresh lock").await?;
    contestant.withdraw().await?;
    let grant = rival.held("a withdrawn lock").await?;
    contestant.lost(&lost, "a term that was withdrawn").await?;
    rival.release(&grant).await
}

/// Withdrawing what holds nothing leaves the holder alone, also if both have one identity.
pub async fn withdrawing_leaves_the_holder_alone(target: &dyn Target) -> Verdict {
    let context = CaseContext::open(target).await?;
    let lock = context.lock()?;
    let (contestant, rival) = (
        context.contestant(&lock).await?,
        context.contestant(&lock).await?,
    );
    let grant = contestant.held("a fresh lock").await?;
    let namesake = rival.next().identity(&contestant.candidate.identity);
    // Before it has ever asked, and after it was refused.
    for other in [&rival, &namesake, &contestant.next()] {
        other.withdraw().await?;
        other.refused("a held lock, after a withdrawal").await?;
        other.withdraw().await?;
    }
    let grant = contestant
        .renewed(&grant, "a term after others have withdrawn")
        .await?;
    contestant.release(&grant).await
}

/// Nor does a withdrawal touch what bears only one half of its candidate's name (contract 9), on
/// the holder's connection or on another one.
pub async fn withdrawing_as_another_owner_frees_nothing(target: &dyn Target) -> Verdict {
    let context = CaseContext::open(target).await?;
    let lock = context.lock()?;
    let (contestant, rival) = (
        context.contestant(&lock).await?,
        context.contestant(&lock).await?,
    );
    let mut grant = contestant.held("a fresh lock").await?;
    for on in [&contestant.on, &context.connect().await?] {
        for (who, other) in contestant.halves(on)? {
            other.withdraw().await?;
            rival
                .refused(&format!("a held lock after a withdrawal by {who}"))
                .await?;
            let why = format!("a term after a withdrawal by {who}");
            grant = contestant.renewed(&grant, &why).await?;
        }
    }
    contestant.release(&grant).await
}

/// Withdrawing from a lock that nobody holds, or from one that one has released, does nothing.
pub async fn withdrawing_from_a_free_lock_is_fine(target: &dyn Target) -> Verdict {
    let context = CaseContext::open(target).await?;
    let lock = context.lock()?;
    let contestant = context.contestant(&lock).await?;
    contestant.withdraw().await?;
    let seen = contestant.holder().await?;
    ensure!(
        seen == Occupancy::Free,
        "after a withdrawal from a free lock it is {seen:?}"
    );
    let grant = contestant.held("a lock that was withdrawn from").await?;
    contestant.release(&grant).await?;
    contestant.withdraw().await?;
    contestant.withdraw().await?;
    let grant = contestant
        .next()
        .held("a lock that was withdrawn from")
        .await?;
    contestant.release(&grant).await?;
    contestant.withdraw().await
}
