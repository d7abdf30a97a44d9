//! Who leads, as observers see it.

use std::time::Duration;

use tenure_core::{Election, Error, Expiry, Grant, Holder, Leadership, Occupancy, Policy};
use tokio::time::{sleep, timeout};

use crate::case_context::{CaseContext, contest};
use crate::connection::Connection;
use crate::contestant::{Contestant, MOST_LOOKS, has_token};
use crate::names::value;
use crate::target::Target;
use crate::verdict::{Stop, Verdict, ensure, fail};

/// A lock that nobody ever held is free.
pub async fn an_unknown_lock_is_free(target: &dyn Target) -> Verdict {
    let (_, [contestant]) = contest(target).await?;
    contestant.sees_free("a lock that nobody held").await
}

/// An observer on another connection sees the leader's identity, token and value; on stores
/// judged by observation after it has seen the leader renew.
pub async fn the_leader_is_told(target: &dyn Target) -> Verdict {
    let (context, [leader]) = contest(target).await?;
    let leader = leader.value("http://10.0.0.1:8080/")?;
    let grant = leader.held("a fresh lock").await?;
    let observer = context.connect().await?;
    shows(&context, &observer, &leader, &grant).await?;
    // It shows the leader after a renewal too.
    let grant = leader.renewed(&grant, "a held term").await?;
    shows(&context, &observer, &leader, &grant).await?;
    leader.release(&grant).await
}

/// `observer` sees the leader in the end; the leader renews meanwhile.
async fn shows(
    context: &CaseContext<'_>,
    observer: &Connection,
    leader: &Contestant,
    grant: &Grant,
) -> Verdict {
    let by_observation = context.capabilities.expiry == Expiry::Observation;
    let what = "an observer that sees the leader";
    let mut looks = 0;
    let seen = context
        .eventually(what, context.patience(), async || {
            looks += 1;
            match observer.holder(&leader.lock).await? {
                // The store may have it from the leader itself, who has not answered yet.
                Occupancy::Led(holder)
                    if looks < MOST_LOOKS && check(&holder, leader, grant).is_err() =>
                {
                    Ok(None)
                }
                Occupancy::Led(holder) => Ok(Some(holder)),
                Occupancy::Unknown(holder) if by_observation => {
                    check(&holder, leader, grant)?;
                    leader.renewed(grant, "a term under observation").await?;
                    Ok(None)
                }
                other => fail!("a held lock is said to be {other:?}"),
            }
        })
        .await?;
    check(&seen, leader, grant)
}

fn check(seen: &Holder, leader: &Contestant, grant: &Grant) -> Verdict {
    leader.is_published(seen, "an observer")?;
    has_token(seen, grant, "an observer")
}

/// The leader itself is told that it leads, on its own connection, at once.
pub async fn the_leader_knows_itself(target: &dyn Target) -> Verdict {
    let (_, [leader]) = contest(target).await?;
    let grant = leader.held("a fresh lock").await?;
    match leader.holder().await? {
        Occupancy::Led(holder) => check(&holder, &leader, &grant)?,
        other => fail!("the leader is told on its own connection that its lock is {other:?}"),
    }
    leader.release(&grant).await
}

/// What the leader publishes changes with a renewal.
pub async fn a_renewal_publishes_a_new_value(target: &dyn Target) -> Verdict {
    let (context, [mut leader]) = contest(target).await?;
    let observer = context.connect().await?;
    let mut grant = leader.held("a fresh lock").await?;
    for text in [Some("first"), Some("second"), None, Some("third")] {
        leader.candidate.value = text.map(value).transpose()?;
        grant.candidate.value = leader.candidate.value.clone();
        grant = leader.renewed(&grant, "a term with a new value").await?;
        shows(&context, &observer, &leader, &grant).await?;
    }
    leader.release(&grant).await
}

/// A value comes so much later after the beginning of a heartbeat, and more each time.
const LATER: Duration = Duration::from_millis(1);

/// What a service publishes is at the store when [`publish`](tenure_core::Leadership::publish)
/// returns, also when a heartbeat with the value from before was under way.
///
/// By way of an election, since the engine has a part in it.
pub async fn publishing_reaches_the_store(target: &dyn Target) -> Verdict {
    let (context, [observer]) = contest(target).await?;
    let patience = context.patience();
    let leadership = elected(&context, &observer).await?;
    for (later, text) in (0..).zip([Some("first"), Some("second"), None, Some("third")]) {
        let meant = text.map(value).transpose()?;
        // A heartbeat is under way when the value comes: about to be sent, sent, or answered.
        let publishing = async {
            sleep(LATER * later).await;
            leadership.publish(meant.clone()).await
        };
        let both = async { tokio::join!(leadership.confirm(), publishing) };
        match timeout(patience, both).await {
            Ok((Ok(_), Ok(()))) => {}
            Ok((confirmed, published)) => fail!(
                "a leader's heartbeat gives {confirmed:?}, and publishing meanwhile {published:?}"
            ),
            Err(_) => fail!("publishing was not done within {patience:?}"),
        }
        let seen = observer.sees_held("a held lock").await?;
        ensure!(
            seen.value.as_deref() == text,
            "{text:?} was published, and the lock is said to publish {:?}",
            seen.value
        );
    }
    match timeout(patience, leadership.resign()).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => fail!("resign: {error}"),
        Err(_) => fail!("resigning was not done within {patience:?}"),
    }
}

/// A leader whose heartbeats are so rare that none comes by itself.
async fn elected(context: &CaseContext<'_>, observer: &Contestant) -> Result<Leadership, Stop> {
    let failed = |error: Error| Stop::failed(format!("an election: {error}"));
    let patience = context.patience();
    let policy = Policy::builder()
        .lease(context.long())
        .request_timeout(patience.min(context.long() / 10))
        .retry_interval(Duration::from_millis(500))
        .build()
        .map_err(failed)?;
    let backend = context.connect().await?.backend;
    let election = Election::builder(backend, observer.lock.clone()).policy(policy);
    let election = election.build().map_err(failed)?;
    match timeout(patience, election.campaign()).await {
        Ok(Ok(leadership)) => Ok(leadership),
        Ok(Err(error)) => Err(failed(error)),
        Err(_) => fail!("the only candidate of a fresh lock was not elected within {patience:?}"),
    }
}

/// A released lock is free for observers, and the next leader is shown in place of the first.
pub async fn observers_follow_a_change(target: &dyn Target) -> Verdict {
    let (context, [first, second]) = contest(target).await?;
    let first = first.value("first")?;
    let observer = context.connect().await?;
    let grant = first.held("a fresh lock").await?;
    shows(&context, &observer, &first, &grant).await?;
    first.release(&grant).await?;
    observer.sees_free(&first.lock, "a released lock").await?;
    let grant = second.held("a released lock").await?;
    shows(&context, &observer, &second, &grant).await?;
    second.release(&grant).await
}

/// A lock whose holder fell silent is free for observers in the end.
pub async fn observers_see_a_lease_end(target: &dyn Target) -> Verdict {
    let (context, [leader]) = contest(target).await?;
    let leader = leader.lease(context.short());
    let observer = context.connect().await?;
    leader.held("a fresh lock").await?;
    let what = "an observer that sees a lease end";
    context
        .seen_free(what, leader.lease, &observer, &leader.lock)
        .await?;
    // And for one that looks for the first time.
    let late = context.connect().await?;
    let what = "an observer that comes later";
    context
        .seen_free(what, leader.lease, &late, &leader.lock)
        .await
}

/// A first look at a dead leader's record is no proof of life: on stores judged by observation
/// it is unknown, unless the store knows better.
pub async fn a_first_look_proves_no_life(target: &dyn Target) -> Verdict {
    let (context, [leader]) = contest(target).await?;
    if context.capabilities.expiry != Expiry::Observation {
        return Err(Stop::left_out(
            "the store itself judges who lives (Expiry::Store or Expiry::Session)",
        ));
    }
    let leader = leader.lease(context.short());
    let witness = context.connect().await?;
    leader.held("a fresh lock").await?;
    context
        .seen_free("the end of a lease", leader.lease, &witness, &leader.lock)
        .await?;
    let seen = context.connect().await?.holder(&leader.lock).await?;
    ensure!(
        !matches!(seen, Occupancy::Led(_)),
        "a leader that is gone is said to lead by one that has never seen it renew: {seen:?}"
    );
    Ok(())
}
