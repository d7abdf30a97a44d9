//! Releasing and withdrawing: only one's own, and safe to repeat (contract 4).

use tenure_core::{ErrorKind, Operation};

use crate::case_context::contest;
use crate::target::Target;
use crate::verdict::{Verdict, fail};

/// A released lock is granted to the next who asks.
pub async fn a_release_frees_at_once(target: &dyn Target) -> Verdict {
    let (_, [leader, rival]) = contest(target).await?;
    let grant = leader.held("a fresh lock").await?;
    rival.refused("a held lock").await?;
    leader.release(&grant).await?;
    rival.holds_and_releases("a released lock").await
}

/// A release may be repeated, as after a timeout: before and after another term.
pub async fn a_release_may_be_repeated(target: &dyn Target) -> Verdict {
    let (_, [leader, rival]) = contest(target).await?;
    let grant = leader.held("a fresh lock").await?;
    leader.release(&grant).await?;
    leader.release(&grant).await?;
    let next = rival.held("a lock that was released twice").await?;
    leader.release(&grant).await?;
    rival.release(&next).await?;
    leader.release(&grant).await
}

/// A late release never touches a successor's term.
pub async fn a_late_release_leaves_a_successor_alone(target: &dyn Target) -> Verdict {
    let (context, [leader, rival, third]) = contest(target).await?;
    let leader = leader.lease(context.short());
    let old = leader.held("a fresh lock").await?;
    let new = context
        .granted_after(leader.lease, &rival, "a successor")
        .await?;
    leader.release(&old).await?;
    third
        .refused("a lock after its old holder's release")
        .await?;
    rival
        .renews_and_releases(&new, "a successor after its predecessor's release")
        .await
}

/// A late release never touches the next term of the same identity either (hazard 20).
pub async fn a_late_release_leaves_the_next_term_alone(target: &dyn Target) -> Verdict {
    let (_, [leader, rival]) = contest(target).await?;
    let old = leader.held("a fresh lock").await?;
    leader.release(&old).await?;
    let again = leader.next();
    let new = again.held("a released lock").await?;
    leader.release(&old).await?;
    rival
        .refused("a lock after a release of an earlier term")
        .await?;
    again
        .renews_and_releases(&new, "a term after a release of an earlier one")
        .await
}

/// A release acts for its candidate only: identity and campaign both have to be the holder's
/// (contract 9).
pub async fn releasing_as_another_owner_frees_nothing(target: &dyn Target) -> Verdict {
    let (context, [leader, rival]) = contest(target).await?;
    let mut grant = leader.held("a fresh lock").await?;
    for (who, other) in leader.halves(&leader.on)? {
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
        grant = leader.renewed(&grant, &why).await?;
    }
    leader.release(&grant).await
}

/// Withdrawing takes back the lock that an attempt got without its caller's knowledge.
pub async fn withdrawing_frees_what_an_attempt_got(target: &dyn Target) -> Verdict {
    let (_, [leader, rival]) = contest(target).await?;
    let lost = leader.held("a fresh lock").await?;
    leader.withdraw().await?;
    let grant = rival.held("a withdrawn lock").await?;
    leader.lost(&lost, "a term that was withdrawn").await?;
    rival.release(&grant).await
}

/// A withdrawal by one who holds nothing leaves the holder alone, also if both have one identity.
pub async fn withdrawing_leaves_the_holder_alone(target: &dyn Target) -> Verdict {
    let (_, [leader, rival]) = contest(target).await?;
    let grant = leader.held("a fresh lock").await?;
    let namesake = rival.next().identity(&leader.candidate.identity);
    // Before it has ever asked, and after it was refused.
    for other in [&rival, &namesake, &leader.next()] {
        other.withdraw().await?;
        other.refused("a held lock, after a withdrawal").await?;
        other.withdraw().await?;
    }
    leader
        .renews_and_releases(&grant, "a term after others have withdrawn")
        .await
}

/// A withdrawal by one with half of the holder's name leaves it alone too (contract 9), on the
/// holder's connection or on another one.
pub async fn withdrawing_as_another_owner_frees_nothing(target: &dyn Target) -> Verdict {
    let (context, [leader, rival]) = contest(target).await?;
    let mut grant = leader.held("a fresh lock").await?;
    for on in [&leader.on, &context.connect().await?] {
        for (who, other) in leader.halves(on)? {
            other.withdraw().await?;
            rival
                .refused(&format!("a held lock after a withdrawal by {who}"))
                .await?;
            let why = format!("a term after a withdrawal by {who}");
            grant = leader.renewed(&grant, &why).await?;
        }
    }
    leader.release(&grant).await
}

/// Withdrawing from a lock that is free, before and after a term of one's own, does nothing.
pub async fn withdrawing_from_a_free_lock_is_fine(target: &dyn Target) -> Verdict {
    let (_, [contestant]) = contest(target).await?;
    contestant.withdraw().await?;
    contestant
        .sees_free("after a withdrawal, a free lock")
        .await?;
    contestant
        .holds_and_releases("a lock that was withdrawn from")
        .await?;
    contestant.withdraw().await?;
    contestant.withdraw().await?;
    let next = contestant.next();
    next.holds_and_releases("a lock that was withdrawn from")
        .await?;
    contestant.withdraw().await
}
