//! Who leads, as observers see it.

use std::time::Duration;

use tenure_core::{
    Election, Error, Expiry, Grant, Holder, Leadership, LockName, Occupancy, Policy,
};
use tokio::time::{sleep, timeout};

use crate::case_context::{CaseContext, Connection, Contestant, value};
use crate::verdict::{ensure, fail};
use crate::{Stop, Target, Verdict};

/// A lock that nobody ever held is free.
pub async fn an_unknown_lock_is_free(target: &dyn Target) -> Verdict {
    let context = CaseContext::open(target).await?;
    let lock = context.lock()?;
    let seen = context.connect().await?.holder(&lock).await?;
    ensure!(
        seen == Occupancy::Free,
        "a lock that nobody held is said to be {seen:?}"
    );
    Ok(())
}

/// An observer on another connection is told the leader's identity, token and value; on stores
/// judged by observation after it has seen the leader renew.
pub async fn the_leader_is_told(target: &dyn Target) -> Verdict {
    let context = CaseContext::open(target).await?;
    let lock = context.lock()?;
    let contestant = context
        .contestant(&lock)
        .await?
        .value("http://10.0.0.1:8080/")?;
    let grant = contestant.held("a fresh lock").await?;
    let observer = context.connect().await?;
    let seen = observed(&context, &observer, &contestant, &grant).await?;
    check(&seen, &contestant, &grant)?;
    // It stays told after a renewal.
    let grant = contestant.renewed(&grant, "a held term").await?;
    let seen = observed(&context, &observer, &contestant, &grant).await?;
    check(&seen, &contestant, &grant)?;
    contestant.release(&grant).await
}

/// The leader as `observer` sees it in the end; the leader renews meanwhile.
async fn observed(
    context: &CaseContext<'_>,
    observer: &Connection,
    contestant: &Contestant,
    grant: &Grant,
) -> Result<Holder, Stop> {
    let by_observation = context.capabilities.expiry == Expiry::Observation;
    context
        .eventually(
            "an observer that is told of the leader",
            context.patience(),
            async || match observer.holder(&contestant.lock).await? {
                Occupancy::Led(holder) => Ok(Some(holder)),
                Occupancy::Unknown(holder) if by_observation => {
                    check(&holder, contestant, grant)?;
                    contestant
                        .renewed(grant, "a term under observation")
                        .await?;
                    Ok(None)
                }
                other => fail!("a held lock is said to be {other:?}"),
            },
        )
        .await
}

fn check(seen: &Holder, contestant: &Contestant, grant: &Grant) -> Verdict {
    ensure!(
        seen.identity == contestant.candidate.identity.as_str(),
        "the holder is {:?}, and said to be {:?}",
        contestant.candidate.identity,
        seen.identity
    );
    ensure!(
        seen.token.is_none_or(|token| token == grant.token),
        "the holder's token is {}, and said to be {:?}",
        grant.token,
        seen.token
    );
    let published = contestant.candidate.value.as_ref().map(AsRef::as_ref);
    ensure!(
        seen.value.as_deref() == published,
        "the holder publishes {published:?}, and is said to publish {:?}",
        seen.value
    );
    Ok(())
}

/// The leader itself is told that it leads, on its own connection, at once.
pub async fn the_leader_knows_itself(target: &dyn Target) -> Verdict {
    let context = CaseContext::open(target).await?;
    let contestant = context.contestant(&context.lock()?).await?;
    let grant = contestant.held("a fresh lock").await?;
    match contestant.holder().await? {
        Occupancy::Led(holder) => check(&holder, &contestant, &grant)?,
        other => fail!("the leader is told on its own connection that its lock is {other:?}"),
    }
    contestant.release(&grant).await
}

/// What the leader publishes changes with a renewal.
pub async fn a_renewal_publishes_a_new_value(target: &dyn Target) -> Verdict {
    let context = CaseContext::open(target).await?;
    let lock = context.lock()?;
    let mut contestant = context.contestant(&lock).await?;
    let observer = context.connect().await?;
    let mut grant = contestant.held("a fresh lock").await?;
    for text in [Some("first"), Some("second"), None, Some("third")] {
        contestant.candidate.value = text.map(value).transpose()?;
        grant.candidate.value = contestant.candidate.value.clone();
        grant = contestant
            .renewed(&grant, "a term with a new value")
            .await?;
        let seen = observed(&context, &observer, &contestant, &grant).await?;
        check(&seen, &contestant, &grant)?;
    }
    contestant.release(&grant).await
}

/// A value comes so much later after the beginning of a heartbeat, and more each time.
const LATER: Duration = Duration::from_millis(1);

/// What a service publishes is at the store when [`publish`](tenure_core::Leadership::publish)
/// returns, also when a heartbeat with the value from before was under way.
///
/// By way of an election, since the engine has a part in it.
pub async fn publishing_reaches_the_store(target: &dyn Target) -> Verdict {
    let context = CaseContext::open(target).await?;
    let lock = context.lock()?;
    let observer = context.connect().await?;
    let leadership = elected(&context, &lock).await?;
    for (later, text) in [Some("first"), Some("second"), None, Some("third")]
        .into_iter()
        .enumerate()
    {
        let meant = text.map(value).transpose()?;
        // A heartbeat is under way when the value comes: about to be sent, sent, or answered.
        let publishing = async {
            sleep(LATER * u32::try_from(later).unwrap_or(0)).await;
            leadership.publish(meant.clone()).await
        };
        let both = async { tokio::join!(leadership.confirm(), publishing) };
        match timeout(context.patience(), both).await {
            Ok((Ok(_), Ok(()))) => {}
            Ok((confirmed, published)) => fail!(
                "a leader's heartbeat gives {confirmed:?}, and publishing meanwhile {published:?}"
            ),
            Err(_) => fail!("publishing was not done within {:?}", context.patience()),
        }
        match observer.holder(&lock).await? {
            Occupancy::Led(seen) | Occupancy::Unknown(seen) => ensure!(
                seen.value.as_deref() == text,
                "{text:?} was published, and the lock is said to publish {:?}",
                seen.value
            ),
            seen => fail!("a held lock is said to be {seen:?}"),
        }
    }
    match timeout(context.patience(), leadership.resign()).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => fail!("resign: {error}"),
        Err(_) => fail!("resigning was not done within {:?}", context.patience()),
    }
}

/// A leader whose heartbeats are so rare that none comes by itself.
async fn elected(context: &CaseContext<'_>, lock: &LockName) -> Result<Leadership, Stop> {
    let failed = |error: Error| Stop::failed(format!("an election: {error}"));
    let policy = Policy::builder()
        .lease(context.long())
        .request_timeout(context.patience().min(context.long() / 10))
        .retry_interval(Duration::from_millis(500))
        .build()
        .map_err(failed)?;
    let backend = context.connect().await?.backend;
    let election = Election::builder(backend, lock.clone())
        .policy(policy)
        .build()
        .map_err(failed)?;
    match timeout(context.patience(), election.campaign()).await {
        Ok(Ok(leadership)) => Ok(leadership),
        Ok(Err(error)) => Err(failed(error)),
        Err(_) => fail!(
            "the only candidate of a fresh lock was not elected within {:?}",
            context.patience()
        ),
    }
}

/// A released lock is free for observers, and the next leader is told in place of the first.
pub async fn observers_follow_a_change(target: &dyn Target) -> Verdict {
    let context = CaseContext::open(target).await?;
    let lock = context.lock()?;
    let first = context.contestant(&lock).await?.value("first")?;
    let second = context.contestant(&lock).await?;
    let observer = context.connect().await?;
    let grant = first.held("a fresh lock").await?;
    observed(&context, &observer, &first, &grant).await?;
    first.release(&grant).await?;
    let seen = observer.holder(&lock).await?;
    ensure!(
        seen == Occupancy::Free,
        "a released lock is said to be {seen:?}"
    );
    let grant = second.held("a released lock").await?;
    let seen = observed(&context, &observer, &second, &grant).await?;
    check(&seen, &second, &grant)?;
    second.release(&grant).await
}

/// A lock whose holder fell silent is free for observers in the end.
pub async fn observers_see_a_lease_end(target: &dyn Target) -> Verdict {
    let context = CaseContext::open(target).await?;
    let lock = context.lock()?;
    let lease = context.short();
    let contestant = context.contestant(&lock).await?.lease(lease);
    let observer = context.connect().await?;
    contestant.held("a fresh lock").await?;
    let within = context.until_free(lease);
    context
        .eventually(
            "an observer that sees a lease end",
            within,
            async || match observer.holder(&lock).await? {
                Occupancy::Free => Ok(Some(())),
                _ => Ok(None),
            },
        )
        .await?;
    // And for one that looks for the first time.
    let late = context.connect().await?;
    context
        .eventually("an observer that comes later", within, async || match late
            .holder(&lock)
            .await?
        {
            Occupancy::Free => Ok(Some(())),
            _ => Ok(None),
        })
        .await
}

/// A first look at a dead leader's record is no proof of life: on stores judged by observation
/// it is unknown, unless the store knows better.
pub async fn a_first_look_proves_no_life(target: &dyn Target) -> Verdict {
    let context = CaseContext::open(target).await?;
    if context.capabilities.expiry != Expiry::Observation {
        return Err(Stop::left_out(
            "the store itself judges who lives (Expiry::Store or Expiry::Session)",
        ));
    }
    let lock = context.lock()?;
    let lease = context.short();
    let contestant = context.contestant(&lock).await?.lease(lease);
    let witness = context.connect().await?;
    contestant.held("a fresh lock").await?;
    context
        .eventually(
            "the end of a lease",
            context.until_free(lease),
            async || Ok((witness.holder(&lock).await? == Occupancy::Free).then_some(())),
        )
        .await?;
    let seen = context.connect().await?.holder(&lock).await?;
    ensure!(
        !matches!(seen, Occupancy::Led(_)),
        "a leader that is gone is said to lead by one that has never seen it renew: {seen:?}"
    );
    Ok(())
}
