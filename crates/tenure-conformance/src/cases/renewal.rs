//! Renewing: of the term and nothing else, never an upsert (contract 4, hazard 16).

use tenure_core::{Acquired, ErrorKind, FencingToken, Grant, Operation, Renewal};

use crate::case_context::{CaseContext, contest, earliest_end};
use crate::names::value;
use crate::target::Target;
use crate::verdict::{Verdict, ensure, fail};

/// A holder that renews keeps the lock beyond its first lease.
pub async fn renewing_keeps_the_term(target: &dyn Target) -> Verdict {
    let context = CaseContext::open(target).await?;
    // A machine that stops for longer than the lease loses the term rightly: try a longer one.
    context
        .on_a_lease(async |lease| {
            let [leader, rival] = context.contestants().await?.map(|one| one.lease(lease));
            let mut grant = leader.held("a fresh lock").await?;
            let past_the_first = grant.proven_at + lease * 2;
            let mut slow = false;
            while leader.now() < past_the_first && !slow {
                leader.on.sleep_until(grant.proven_at + lease / 4).await;
                let renewal = leader.renew(&grant).await?;
                let acquired = rival.acquire().await?;
                slow = leader.now() >= earliest_end(&grant);
                if slow {
                    break;
                }
                let Renewal::Renewed(renewed) = renewal else {
                    fail!("a renewal within the lease found the term lost");
                };
                if let Acquired::Held(_) = acquired {
                    fail!("a lock was granted although its holder renews");
                }
                grant = renewed;
            }
            rival.withdraw().await?;
            leader.withdraw().await?;
            Ok((!slow).then_some(()))
        })
        .await
}

/// A term has one token, from its grant through all renewals (I6).
pub async fn renewing_keeps_the_token(target: &dyn Target) -> Verdict {
    let (_, [leader]) = contest(target).await?;
    let first = leader.held("a fresh lock").await?;
    let mut grant = first.clone();
    for _ in 0..3 {
        grant = leader.renewed(&grant, "a held term").await?;
        ensure!(
            grant.token == first.token,
            "a renewal changed the token from {} to {}",
            first.token,
            grant.token
        );
        ensure!(
            grant.lease == first.lease,
            "a renewal changed the lease from {:?} to {:?}",
            first.lease,
            grant.lease
        );
    }
    leader.release(&grant).await
}

/// A renewal whose answer was lost is repeated with the grant from before it (contract 5).
pub async fn an_older_grant_of_the_term_renews_it(target: &dyn Target) -> Verdict {
    let (_, [leader, rival]) = contest(target).await?;
    let first = leader.held("a fresh lock").await?;
    let second = leader.renewed(&first, "a held term").await?;
    let third = leader
        .renewed(&first, "the grant from before a renewal")
        .await?;
    leader.renewed(&second, "an older grant").await?;
    leader
        .renewed(&third, "a newer grant after an older one")
        .await?;
    leader.release(&first).await?;
    rival
        .holds_and_releases("a release by an older grant")
        .await
}

/// A released term is lost, and renewing it creates no lock.
pub async fn renewing_a_released_term_is_refused(target: &dyn Target) -> Verdict {
    let (_, [leader, rival]) = contest(target).await?;
    let grant = leader.held("a fresh lock").await?;
    leader.release(&grant).await?;
    leader.lost(&grant, "a released term").await?;
    rival
        .sees_free("after a renewal of a released term the lock")
        .await?;
    rival.holds_and_releases("a released lock").await
}

/// A term with a successor is lost, and renewing it takes nothing over.
pub async fn renewing_after_a_successor_is_refused(target: &dyn Target) -> Verdict {
    let (context, [leader, rival]) = contest(target).await?;
    let leader = leader.lease(context.short());
    let old = leader.held("a fresh lock").await?;
    let new = context
        .granted_after(leader.lease, &rival, "a successor")
        .await?;
    if let Some(holder) = leader.lost(&old, "a term with a successor").await? {
        rival.is_named(&holder, "a lost renewal")?;
    }
    rival
        .renews_and_releases(&new, "a successor whose predecessor renews")
        .await
}

/// The same when the successor has the same identity: a term is tied to its campaign
/// (hazards 19 and 20).
pub async fn renewing_after_a_namesake_is_refused(target: &dyn Target) -> Verdict {
    let (_, [leader]) = contest(target).await?;
    let old = leader.held("a fresh lock").await?;
    leader.release(&old).await?;
    let again = leader.next();
    let new = again.held("a released lock").await?;
    leader
        .lost(&old, "a term with a successor of the same identity")
        .await?;
    again
        .renews_and_releases(&new, "the term of the namesake")
        .await
}

/// A renewal acts for its candidate only: identity and campaign both have to be the holder's
/// (contract 9).
pub async fn renewing_as_another_owner_is_refused(target: &dyn Target) -> Verdict {
    let (context, [leader]) = contest(target).await?;
    let leader = leader.value("the holder's")?;
    let mut grant = leader.held("a fresh lock").await?;
    for (who, other) in leader.halves(&leader.on)? {
        let mut usurped = other.usurped(&grant);
        usurped.candidate.value = Some(value("a stranger's")?);
        context
            .eventually(
                "an answer to a renewal",
                context.patience(),
                async || match other
                    .on
                    .once(Operation::Renew, other.renewing(&usurped))
                    .await?
                {
                    Ok(Renewal::Renewed(grant)) => fail!("a term was renewed by {who}: {grant:?}"),
                    Ok(_) => Ok(Some(())),
                    Err(error) if error.kind() == ErrorKind::InvalidInput => Ok(Some(())),
                    Err(error) if error.is_retryable() => Ok(None),
                    Err(error) => fail!("a renewal by {who} gives {error}"),
                },
            )
            .await?;
        let after = format!("a held lock after a renewal by {who}");
        leader.is_published(&leader.sees_held(&after).await?, &after)?;
        let why = format!("a term after a renewal by {who}");
        grant = leader.renewed(&grant, &why).await?;
    }
    leader.release(&grant).await
}

/// A grant that the store has never given renews nothing and creates nothing.
pub async fn renewing_what_was_never_granted_is_refused(target: &dyn Target) -> Verdict {
    let (_, [contestant]) = contest(target).await?;
    let token = match FencingToken::from_counter(1) {
        Ok(token) => token,
        Err(error) => fail!("the suite's own token: {error}"),
    };
    let forged = Grant::new(
        contestant.lock.clone(),
        contestant.candidate.clone(),
        token,
        contestant.lease,
        contestant.now(),
    );
    let renewing = contestant.renewing(&forged);
    match contestant.on.once(Operation::Renew, renewing).await? {
        Ok(Renewal::Renewed(grant)) => fail!("what was never granted was renewed: {grant:?}"),
        Ok(_) => {}
        Err(error) => ensure!(
            error.kind() == ErrorKind::InvalidInput,
            "a forged grant gives {error}"
        ),
    }
    contestant
        .sees_free("after a renewal of what was never granted the lock")
        .await
}

/// After its lease a term is either lost for good or still the only one: never lost and held at
/// the same time.
pub async fn renewing_after_the_lease_never_makes_two(target: &dyn Target) -> Verdict {
    let (context, [leader, rival]) = contest(target).await?;
    let lease = context.short();
    let leader = leader.lease(lease);
    let old = leader.held("a fresh lock").await?;
    leader.on.sleep_until(old.proven_at + lease * 2).await;
    let renewal = leader.renew(&old).await?;
    let acquired = rival.acquire().await?;
    let renewed_until = match &renewal {
        Renewal::Renewed(grant) => Some(earliest_end(grant)),
        _ => None,
    };
    if let Acquired::Held(grant) = &acquired {
        ensure!(
            renewed_until.is_none_or(|end| end <= rival.now()),
            "a term was renewed after its lease, and another granted at the same time"
        );
        leader
            .lost(&old, "a term that ended and has a successor")
            .await?;
        rival.release(grant).await?;
    }
    rival.withdraw().await?;
    leader.withdraw().await
}

/// A renewal is proven by a request that was sent when it was asked for, or later.
pub async fn renewing_gives_a_proof_as_fresh_as_asked(target: &dyn Target) -> Verdict {
    let (_, [leader]) = contest(target).await?;
    let mut grant = leader.held("a fresh lock").await?;
    for _ in 0..5 {
        let not_before = leader.now();
        let renewing = leader.backend().renew(&grant, not_before);
        let renewed = match leader.on.once(Operation::Renew, renewing).await? {
            Ok(Renewal::Renewed(renewed)) => renewed,
            Ok(_) => fail!("a held term was lost"),
            Err(error) if error.is_retryable() => continue,
            Err(error) => fail!("renew: {error}"),
        };
        ensure!(
            renewed.proven_at >= not_before,
            "the proof of a renewal is {:?} older than it was asked for",
            not_before.since(renewed.proven_at)
        );
        ensure!(
            renewed.proven_at <= leader.now(),
            "a renewal is proven in the future"
        );
        grant = renewed;
    }
    leader.release(&grant).await
}

/// Another program's write to the lock's object leaves the term as it is: it is renewed, with its
/// token, and given back.
///
/// Hook: `write_beside`.
pub async fn a_write_beside_the_record_costs_no_term(target: &dyn Target) -> Verdict {
    let (_, [leader, rival]) = contest(target).await?;
    let lock = &leader.lock;
    let grant = leader.held("a fresh lock").await?;
    target.write_beside(lock).await.need("write_beside")?;
    let what = "a term after another program's write";
    let renewed = leader.renewed(&grant, what).await?;
    ensure!(
        renewed.token == grant.token,
        "the token of {what} is {}, and was {}",
        renewed.token,
        grant.token
    );
    target.write_beside(lock).await.need("write_beside")?;
    leader.release(&renewed).await?;
    rival.holds_and_releases("a released lock").await
}
