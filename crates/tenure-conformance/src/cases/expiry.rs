//! The end of a silent holder's lease: never early, and late only as declared.

use std::future::Future;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use tenure_core::{Acquired, Error, Grant, Occupancy, Operation, Renewal, SharedClock, Time};
use tokio::time::timeout;

use crate::case_context::{CaseContext, Contestant, earliest_end};
use crate::contestant;
use crate::verdict::{ensure, fail};
use crate::{Answers, Stop, Target, Verdict};

/// Nobody is granted the lock before the lease of its silent holder has ended by that holder's
/// own count, from its proof.
pub async fn a_lease_never_ends_early(target: &dyn Target) -> Verdict {
    let context = CaseContext::open(target).await?;
    let lock = context.lock()?;
    let lease = context.short();
    let contestant = context.contestant(&lock).await?.lease(lease);
    let rival = context.contestant(&lock).await?.lease(lease);
    let grant = contestant.held("a fresh lock").await?;
    context
        .eventually(
            "the end of a lease",
            context.until_free(lease),
            async || not_before(&rival, earliest_end(&grant)).await,
        )
        .await
}

/// Nor before the lease after the last renewal has ended.
pub async fn a_renewed_lease_never_ends_early(target: &dyn Target) -> Verdict {
    let context = CaseContext::open(target).await?;
    let lock = context.lock()?;
    let lease = context.short();
    let contestant = context.contestant(&lock).await?.lease(lease);
    let rival = context.contestant(&lock).await?.lease(lease);
    let mut grant = contestant.held("a fresh lock").await?;
    let clock = contestant.on.backend.clock();
    clock.sleep_until(grant.proven_at + lease / 2).await;
    if let Some(renewed) = renewed_in_time(&contestant, &grant).await? {
        grant = renewed;
    }
    context
        .eventually(
            "the end of a lease",
            context.until_free(lease),
            async || not_before(&rival, earliest_end(&grant)).await,
        )
        .await
}

/// `None` if the machine stood still until the lease had ended.
async fn renewed_in_time(contestant: &Contestant, grant: &Grant) -> Result<Option<Grant>, Stop> {
    match contestant.renew(grant).await? {
        Renewal::Renewed(renewed) => Ok(Some(renewed)),
        Renewal::Lost { .. } => {
            ensure!(
                contestant.now() >= earliest_end(grant),
                "a renewal within the lease found the term lost"
            );
            Ok(None)
        }
    }
}

async fn not_before(rival: &Contestant, end: Time) -> Result<Option<()>, Stop> {
    let Some(_) = rival.try_held().await? else {
        return Ok(None);
    };
    let now = rival.now();
    ensure!(
        now >= end,
        "a lock was granted {:?} before the lease of its silent holder had ended",
        end.since(now)
    );
    rival.withdraw().await?;
    Ok(Some(()))
}

/// The lock of a silent holder is free at the latest when the declared lag has passed after its
/// lease; on stores judged by observation, both from the moment others have looked.
///
/// Its connection stands all the time: a backend keeps nothing alive that no caller renews.
pub async fn a_lease_ends_in_time(target: &dyn Target) -> Verdict {
    let context = CaseContext::open(target).await?;
    let lock = context.lock()?;
    let lease = context.short();
    let contestant = context.contestant(&lock).await?.lease(lease);
    let rival = context.contestant(&lock).await?;
    let grant = contestant.held("a fresh lock").await?;
    renewed_in_time(&contestant, &grant).await?;
    let grant = context
        .eventually(
            "the end of a lease",
            context.until_free(lease),
            async || rival.try_held().await,
        )
        .await?;
    rival.release(&grant).await
}

/// The same when the holder's connection is gone.
pub async fn a_lease_ends_in_time_without_its_connection(target: &dyn Target) -> Verdict {
    let context = CaseContext::open(target).await?;
    let lock = context.lock()?;
    let lease = context.short();
    let rival = context.contestant(&lock).await?;
    let contestant = context.contestant(&lock).await?.lease(lease);
    let grant = contestant.held("a fresh lock").await?;
    drop((contestant, grant));
    let grant = context
        .eventually(
            "the end of a lease",
            context.until_free(lease),
            async || rival.try_held().await,
        )
        .await?;
    rival.release(&grant).await
}

/// The same when the holder's process is killed.
///
/// Hook: `contestant`.
pub async fn a_lease_ends_in_time_without_its_process(target: &dyn Target) -> Verdict {
    let context = CaseContext::open(target).await?;
    let lock = context.lock()?;
    contestant::killed(&context, &lock).await
}

/// The holder's lease counts, not that of the candidate who asks (hazard 26).
pub async fn the_holders_lease_counts(target: &dyn Target) -> Verdict {
    let context = CaseContext::open(target).await?;
    let lock = context.lock()?;
    let lease = context.short();
    let contestant = context.contestant(&lock).await?;
    let rival = context.contestant(&lock).await?.lease(lease);
    let grant = contestant.held("a fresh lock").await?;
    let clock = contestant.on.backend.clock();
    let start = contestant.now();
    for quarter in 0..8 {
        clock.sleep_until(start + lease * quarter / 4).await;
        rival
            .refused("a lock whose holder has a longer lease")
            .await?;
    }
    contestant.release(&grant).await
}

/// A renewal may grant another lease than the one before. Whatever the grant says is what the
/// store keeps: nobody is granted the lock before that has passed.
pub async fn a_shortened_lease_is_kept_as_told(target: &dyn Target) -> Verdict {
    let context = CaseContext::open(target).await?;
    for lease in context.short_leases() {
        let lock = context.lock()?;
        let contestant = context.contestant(&lock).await?.lease(lease * 2);
        let rival = context.contestant(&lock).await?.lease(lease);
        let grant = contestant.held("a fresh lock").await?;
        let mut shorter = grant.clone();
        shorter.lease = lease;
        let Some(renewed) = renewed_in_time(&contestant, &shorter).await? else {
            continue;
        };
        let most = grant.lease + context.capabilities.lease_granularity;
        ensure!(
            renewed.lease <= most,
            "a lease of {lease:?} was asked for instead of {:?}, and {:?} granted",
            grant.lease,
            renewed.lease
        );
        return context
            .eventually(
                "the end of a shortened lease",
                context.until_free(renewed.lease),
                async || not_before(&rival, earliest_end(&renewed)).await,
            )
            .await;
    }
    fail!("this machine was too slow for every lease that was tried")
}

/// A lock that was deleted and written again is another's, whatever its version is: whoever has
/// watched the record before counts the new holder's lease from the beginning.
///
/// Hook: `delete_lock`.
pub async fn a_lock_written_again_is_judged_anew(target: &dyn Target) -> Verdict {
    let context = CaseContext::open(target).await?;
    for lease in context.short_leases() {
        let lock = context.lock()?;
        let first = context.contestant(&lock).await?.lease(lease);
        let second = context.contestant(&lock).await?.lease(lease);
        let rival = context.contestant(&lock).await?.lease(lease);
        let held = first.held("a fresh lock").await?;
        if rival.try_held().await?.is_some() {
            let now = rival.now();
            ensure!(
                now >= earliest_end(&held),
                "a lock was granted {:?} before the lease of its holder had ended",
                earliest_end(&held).since(now)
            );
            // The machine was too slow for this lease.
            continue;
        }
        rival.withdraw().await?;
        let clock = rival.on.backend.clock();
        clock.sleep_until(rival.now() + lease * 3 / 4).await;
        target.delete_lock(&lock).await.need("delete_lock")?;
        // A store may wait until the lease of a deleted lock has ended.
        let grant = context
            .eventually("a deleted lock", context.until_free(lease), async || {
                second.try_held().await
            })
            .await?;
        return context
            .eventually(
                "the end of a lease",
                context.until_free(lease),
                async || not_before(&rival, earliest_end(&grant)).await,
            )
            .await;
    }
    fail!("this machine was too slow for every lease that was tried")
}

/// Looking at a lock extends nothing.
pub async fn looking_does_not_extend_a_lease(target: &dyn Target) -> Verdict {
    let context = CaseContext::open(target).await?;
    let lock = context.lock()?;
    let lease = context.short();
    let contestant = context.contestant(&lock).await?.lease(lease);
    let observer = context.connect().await?;
    contestant.held("a fresh lock").await?;
    context
        .eventually(
            "the end of a lease that is looked at",
            context.until_free(lease),
            async || Ok((observer.holder(&lock).await? == Occupancy::Free).then_some(())),
        )
        .await
}

/// The clock is read before the request is sent (contract 2, hazard 2): answers are left unread
/// for a while, and their proofs are older than that.
///
/// A backend whose calls are done in one step cannot show the difference here.
pub async fn a_proof_is_read_before_its_request(target: &dyn Target) -> Verdict {
    let context = CaseContext::open(target).await?;
    // An answer may rarely be there before it is waited for, and nothing is unread then; so
    // what counts is whether every proof is as young as that.
    let (mut acquired, mut renewed) = (Proofs::default(), Proofs::default());
    for _ in 0..TRIES {
        let contestant = context.contestant(&context.lock()?).await?;
        // So that the connection stands, and what the calls wait for is their answers.
        contestant.holder().await?;
        let clock = contestant.on.backend.clock();
        let (answer, unread_since) = read_late(&context, &clock, contestant.acquiring()).await?;
        let grant = match judged(&contestant, Operation::Acquire, answer)? {
            Some(Acquired::Held(grant)) => {
                acquired.note(grant.proven_at, unread_since);
                grant
            }
            _ => contestant.held("a fresh lock").await?,
        };
        let renewing = contestant.backend().renew(&grant, contestant.now());
        let (answer, unread_since) = read_late(&context, &clock, renewing).await?;
        if let Some(Renewal::Renewed(grant)) = judged(&contestant, Operation::Renew, answer)? {
            renewed.note(grant.proven_at, unread_since);
        }
        contestant.release(&grant).await?;
    }
    acquired.check("acquire")?;
    renewed.check("renew")
}

const TRIES: usize = 8;

#[derive(Default)]
struct Proofs {
    seen: usize,
    late: usize,
}

impl Proofs {
    fn note(&mut self, proven_at: Time, unread_since: Option<Time>) {
        if let Some(since) = unread_since {
            self.seen += 1;
            self.late += usize::from(proven_at > since);
        }
    }

    fn check(&self, call: &str) -> Verdict {
        ensure!(
            self.seen < TRIES / 2 || self.late < self.seen,
            "the proof of {call} is read after its answer has come"
        );
        Ok(())
    }
}

fn judged<T>(
    contestant: &crate::case_context::Contestant,
    operation: Operation,
    answer: Result<T, Error>,
) -> Result<Option<T>, crate::Stop> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(error) => {
            contestant.on.judge(operation, &error)?;
            Ok(None)
        }
    }
}

/// Runs `call`, but lets each thing it was woken for lie for a while. Gives also since when the
/// last one had lain there; `None` when there was none.
async fn read_late<T>(
    context: &CaseContext<'_>,
    clock: &SharedClock,
    call: impl Future<Output = T>,
) -> Result<(T, Option<Time>), crate::Stop> {
    let mut call = pin!(call);
    let mut woken_at = None;
    let run = async {
        loop {
            let mut first = true;
            // One poll, and then until it is woken again.
            let done = std::future::poll_fn(|context| {
                if !std::mem::take(&mut first) {
                    return Poll::Ready(None);
                }
                call.as_mut().poll(context).map(Some)
            })
            .await;
            if let Some(output) = done {
                return output;
            }
            let now = clock.now();
            woken_at = Some(now);
            clock.sleep_until(now + Duration::from_millis(3)).await;
        }
    };
    match timeout(context.patience(), run).await {
        Ok(output) => Ok((output, woken_at)),
        Err(_) => fail!("a call was not done within {:?}", context.patience()),
    }
}

/// An answer that comes late does not stretch the lease (I1, hazard 2).
///
/// Hook: `answers`.
pub async fn a_late_answer_does_not_stretch_the_lease(target: &dyn Target) -> Verdict {
    const LATE: Duration = Duration::from_millis(300);
    let context = CaseContext::open(target).await?;
    let contestant = context.contestant(&context.lock()?).await?;
    contestant.holder().await?;
    target.answers(Answers::Late(LATE)).await.need("answers")?;
    let grant = contestant.held("a fresh lock").await;
    let acquired_at = contestant.now();
    let renewal = match &grant {
        Ok(grant) => Some(contestant.renew(grant).await),
        Err(_) => None,
    };
    let renewed_at = contestant.now();
    target.answers(Answers::Prompt).await.need("answers")?;
    let grant = grant?;
    check_late("acquire", grant.proven_at, acquired_at, LATE)?;
    if let Some(renewal) = renewal
        && let Renewal::Renewed(renewed) = renewal?
    {
        check_late("renew", renewed.proven_at, renewed_at, LATE)?;
    }
    contestant.release(&grant).await
}

fn check_late(call: &str, proven_at: Time, answered_at: Time, late: Duration) -> Verdict {
    let age = answered_at.since(proven_at);
    ensure!(
        age >= late,
        "the proof of {call} is {age:?} old, but its answer came {late:?} after its request"
    );
    Ok(())
}
