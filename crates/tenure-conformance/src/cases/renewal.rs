//! Renewing: of the term and nothing else, never an upsert (contract 4, hazard 16).

use tenure_core::{Acquired, ErrorKind, FencingToken, Grant, Occupancy, Operation, Renewal};

use crate::case_context::{CaseContext, earliest_end, value};
use crate::verdict::{ensure, fail};
use crate::{Target, Verdict};

/// A holder that renews keeps the lock beyond its first lease.
pub async fn renewing_keeps_the_term(target: &dyn Target) -> Verdict {
    let context = CaseContext::open(target).await?;
    // A machine that stops for longer than the lease loses the term rightly: try a longer one.
    for lease in context.short_leases() {
        let lock = context.lock()?;
        let contestant = context.contestant(&lock).await?.lease(lease);
        let rival = context.contestant(&lock).await?.lease(lease);
        let clock = contestant.on.backend.clock();
        let mut grant = contestant.held("a fresh lock").await?;
        let past_the_first = grant.proven_at + lease * 2;
        let mut slow = false;
        while contestant.now() < past_the_first && !slow {
            clock.sleep_until(grant.proven_at + lease / 4).await;
            let renewal = contestant.renew(&grant).await?;
            let acquired = rival.acquire().await?;
            slow = contestant.now() >= earliest_end(&grant);
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
        contestant.withdraw().await?;
        if !slow {
            return Ok(());
        }
    }
    fail!("this machine was too slow for every lease that was tried")
}

/// A term has one token, from its grant through all renewals (I6).
pub async fn renewing_keeps_the_token(target: &dyn Target) -> Verdict {
    let context = CaseContext::open(target).await?;
    let contestant = context.contestant(&context.lock()?).await?;
    let first = contestant.held("a fresh lock").await?;
    let mut grant = first.clone();
    for _ in 0..3 {
        grant = contestant.renewed(&grant, "a held term").await?;
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
    contestant.release(&grant).await
}

/// A renewal whose answer was lost is repeated with the grant from before it (contract 5).
pub async fn an_older_grant_of_the_term_renews_it(target: &dyn Target) -> Verdict {
    let context = CaseContext::open(target).await?;
    let lock = context.lock()?;
    let contestant = context.contestant(&lock).await?;
    let first = contestant.held("a fresh lock").await?;
    let second = contestant.renewed(&first, "a held term").await?;
    let third = contestant
        .renewed(&first, "the grant from before a renewal")
        .await?;
    contestant.renewed(&second, "an older grant").await?;
    contestant
        .renewed(&third, "a newer grant after an older one")
        .await?;
    contestant.release(&first).await?;
    let rival = context.contestant(&lock).await?;
    let grant = rival.held("a release by an older grant").await?;
    rival.release(&grant).await
}

/// A released term is lost, and renewing it creates no lock.
pub async fn renewing_a_released_term_is_refused(target: &dyn Target) -> Verdict {
    let context = CaseContext::open(target).await?;
    let lock = context.lock()?;
    let (contestant, rival) = (
        context.contestant(&lock).await?,
        context.contestant(&lock).await?,
    );
    let grant = contestant.held("a fresh lock").await?;
    contestant.release(&grant).await?;
    contestant.lost(&grant, "a released term").await?;
    ensure!(
        rival.holder().await? == Occupancy::Free,
        "renewing a released term took the lock"
    );
    let grant = rival.held("a released lock").await?;
    rival.release(&grant).await
}

/// A term that another candidate's follows on is lost, and renewing it takes nothing over.
pub async fn renewing_after_a_successor_is_refused(target: &dyn Target) -> Verdict {
    let context = CaseContext::open(target).await?;
    let lock = context.lock()?;
    let lease = context.short();
    let contestant = context.contestant(&lock).await?.lease(lease);
    let rival = context.contestant(&lock).await?;
    let old = contestant.held("a fresh lock").await?;
    let new = context
        .eventually("a successor", context.until_free(lease), async || {
            rival.try_held().await
        })
        .await?;
    let holder = contestant.lost(&old, "a term with a successor").await?;
    if let Some(holder) = holder {
        ensure!(
            holder.identity == rival.candidate.identity.as_str(),
            "a lost renewal names {:?} as the holder, which is {:?}",
            holder.identity,
            rival.candidate.identity
        );
    }
    let new = rival
        .renewed(&new, "a successor whose predecessor renews")
        .await?;
    rival.release(&new).await
}

/// The same when the successor has the same identity: a term is tied to its campaign
/// (hazards 19 and 20).
pub async fn renewing_after_a_namesake_is_refused(target: &dyn Target) -> Verdict {
    let context = CaseContext::open(target).await?;
    let lock = context.lock()?;
    let contestant = context.contestant(&lock).await?;
    let old = contestant.held("a fresh lock").await?;
    contestant.release(&old).await?;
    let again = contestant.next();
    let new = again.held("a released lock").await?;
    contestant
        .lost(&old, "a term that one of the same identity follows on")
        .await?;
    let new = again.renewed(&new, "the term of the namesake").await?;
    again.release(&new).await
}

/// A renewal acts for its candidate only: identity and campaign both have to be the holder's
/// (contract 9).
pub async fn renewing_as_another_owner_is_refused(target: &dyn Target) -> Verdict {
    let context = CaseContext::open(target).await?;
    let lock = context.lock()?;
    let contestant = context.contestant(&lock).await?.value("the holder's")?;
    let mut grant = contestant.held("a fresh lock").await?;
    for (who, other) in contestant.halves(&contestant.on)? {
        let mut usurped = other.usurped(&grant);
        usurped.candidate.value = Some(value("a stranger's")?);
        context
            .eventually("an answer to a renewal", context.patience(), async || {
                let renewing = other.backend().renew(&usurped, other.now());
                match other.on.once(Operation::Renew, renewing).await? {
                    Ok(Renewal::Renewed(grant)) => fail!("a term was renewed by {who}: {grant:?}"),
                    Ok(Renewal::Lost { .. }) => Ok(Some(())),
                    Err(error) if error.kind() == ErrorKind::InvalidInput => Ok(Some(())),
                    Err(error) if error.is_retryable() => Ok(None),
                    Err(error) => fail!("a renewal by {who} gives {error}"),
                }
            })
            .await?;
        match contestant.holder().await? {
            Occupancy::Led(holder) | Occupancy::Unknown(holder) => ensure!(
                holder.identity == contestant.candidate.identity.as_str()
                    && holder.value.as_deref() == Some("the holder's"),
                "after a renewal by {who} the lock is said to be held by {holder:?}"
            ),
            seen => fail!("after a renewal by {who} the held lock is said to be {seen:?}"),
        }
        let why = format!("a term after a renewal by {who}");
        grant = contestant.renewed(&grant, &why).await?;
    }
    contestant.release(&grant).await
}

/// A grant that the store has never given renews nothing and creates nothing.
pub async fn renewing_what_was_never_granted_is_refused(target: &dyn Target) -> Verdict {
    let context = CaseContext::open(target).await?;
    let lock = context.lock()?;
    let contestant = context.contestant(&lock).await?;
    let token = match FencingToken::from_counter(1) {
        Ok(token) => token,
        Err(error) => fail!("the suite's own token: {error}"),
    };
    let forged = Grant::new(
        lock,
        contestant.candidate.clone(),
        token,
        contestant.lease,
        contestant.now(),
    );
    let renewing = contestant.backend().renew(&forged, contestant.now());
    match contestant.on.once(Operation::Renew, renewing).await? {
        Ok(Renewal::Renewed(grant)) => fail!("what was never granted was renewed: {grant:?}"),
        Ok(Renewal::Lost { .. }) => {}
        Err(error) => ensure!(
            error.kind() == ErrorKind::InvalidInput,
            "a forged grant gives {error}"
        ),
    }
    ensure!(
        contestant.holder().await? == Occupancy::Free,
        "renewing what was never granted took the lock"
    );
    Ok(())
}

/// After its lease a term is either lost for good or, when nobody has followed, still the only
/// one: never lost and held at once.
pub async fn renewing_after_the_lease_never_makes_two(target: &dyn Target) -> Verdict {
    let context = CaseContext::open(target).await?;
    let lock = context.lock()?;
    let lease = context.short();
    let contestant = context.contestant(&lock).await?.lease(lease);
    let rival = context.contestant(&lock).await?;
    let old = contestant.held("a fresh lock").await?;
    let clock = contestant.on.backend.clock();
    clock.sleep_until(old.proven_at + lease * 2).await;
    let renewal = contestant.renew(&old).await?;
    let acquired = rival.acquire().await?;
    let renewed_until = match &renewal {
        Renewal::Renewed(grant) => Some(earliest_end(grant)),
        Renewal::Lost { .. } => None,
    };
    if let Acquired::Held(grant) = &acquired {
        ensure!(
            renewed_until.is_none_or(|end| end <= rival.now()),
            "a term was renewed after its lease, and another granted at the same time"
        );
        contestant
            .lost(&old, "a term that ended and has a successor")
            .await?;
        rival.release(grant).await?;
    }
    rival.withdraw().await?;
    contestant.withdraw().await
}

/// A renewal is proven by a request that was sent when it was asked for, or later.
pub async fn renewing_gives_a_proof_as_fresh_as_asked(target: &dyn Target) -> Verdict {
    let context = CaseContext::open(target).await?;
    let contestant = context.contestant(&context.lock()?).await?;
    let mut grant = contestant.held("a fresh lock").await?;
    for _ in 0..5 {
        let not_before = contestant.now();
        let renewing = contestant.backend().renew(&grant, not_before);
        let renewal = match contestant.on.once(Operation::Renew, renewing).await? {
            Ok(renewal) => renewal,
            Err(error) if error.is_retryable() => continue,
            Err(error) => fail!("renew: {error}"),
        };
        let Renewal::Renewed(renewed) = renewal else {
            fail!("a held term was lost");
        };
        ensure!(
            renewed.proven_at >= not_before,
            "the proof of a renewal is {:?} older than it was asked for",
            not_before.since(renewed.proven_at)
        );
        ensure!(
            renewed.proven_at <= contestant.now(),
            "a renewal is proven in the future"
        );
        grant = renewed;
    }
    contestant.release(&grant).await
}
