//! The end of a silent holder's lease: never early, and late only as declared.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use tenure_core::{Acquired, Error, Grant, Occupancy, Operation, Renewal, SharedClock, Time};
use tokio::time::timeout;

use crate::case_context::{CaseContext, contest, earliest_end, not_before};
use crate::contestant::Contestant;
use crate::processes::{History, Running};
use crate::target::{Answers, Target};
use crate::verdict::{Stop, Verdict, ensure, fail};

/// Nobody is granted the lock before the lease of its silent holder has ended by that holder's
/// own count, from its proof.
pub async fn a_lease_never_ends_early(target: &dyn Target) -> Verdict {
    let (context, contestants) = contest::<2>(target).await?;
    let [leader, rival] = contestants.map(|one| one.lease(context.short()));
    let grant = leader.held("a fresh lock").await?;
    context.ends_in_time(&grant, &rival).await
}

/// The same for the lease after the last renewal.
pub async fn a_renewed_lease_never_ends_early(target: &dyn Target) -> Verdict {
    let (context, contestants) = contest::<2>(target).await?;
    let lease = context.short();
    let [leader, rival] = contestants.map(|one| one.lease(lease));
    let mut grant = leader.held("a fresh lock").await?;
    leader.on.sleep_until(grant.proven_at + lease / 2).await;
    if let Some(renewed) = renewed_in_time(&leader, &grant).await? {
        grant = renewed;
    }
    context.ends_in_time(&grant, &rival).await
}

/// `None` if the machine stood still until the lease had ended.
async fn renewed_in_time(leader: &Contestant, grant: &Grant) -> Result<Option<Grant>, Stop> {
    if let Renewal::Renewed(renewed) = leader.renew(grant).await? {
        return Ok(Some(renewed));
    }
    ensure!(
        leader.now() >= earliest_end(grant),
        "a renewal within the lease found the term lost"
    );
    Ok(None)
}

/// The lock of a silent holder is free at the latest when the declared lag has passed after its
/// lease; on stores judged by observation, both from the moment others have looked.
///
/// Its connection stands all the time: a backend keeps nothing alive that no caller renews.
pub async fn a_lease_ends_in_time(target: &dyn Target) -> Verdict {
    let (context, [leader, rival]) = contest(target).await?;
    let leader = leader.lease(context.short());
    let grant = leader.held("a fresh lock").await?;
    renewed_in_time(&leader, &grant).await?;
    let grant = context.granted_after(leader.lease, &rival, "the end of a lease");
    rival.release(&grant.await?).await
}

/// The same when the holder's connection is gone.
pub async fn a_lease_ends_in_time_without_its_connection(target: &dyn Target) -> Verdict {
    let (context, [leader, rival]) = contest(target).await?;
    let lease = context.short();
    let leader = leader.lease(lease);
    let grant = leader.held("a fresh lock").await?;
    drop((leader, grant));
    let grant = context.granted_after(lease, &rival, "the end of a lease");
    rival.release(&grant.await?).await
}

/// The same when the holder's process is killed.
///
/// Hook: `contestant`.
pub async fn a_lease_ends_in_time_without_its_process(target: &dyn Target) -> Verdict {
    let context = CaseContext::open(target).await?;
    let (lock, lease, history) = (context.lock()?, context.short(), History::new());
    let mut process = Running::start(&context, &lock, &history, ("contestant", 1, lease))?;
    let what = "a term of another process";
    context
        .eventually(what, context.patience(), async || {
            if process.ended()? {
                fail!("a contestant ended before it was killed");
            }
            Ok(history.read().iter().any(|entry| entry.start).then_some(()))
        })
        .await?;
    drop(process);
    let rival = context.contestant(&lock).await?;
    let grant = context.granted_after(lease, &rival, "the lock of a killed process");
    rival.release(&grant.await?).await
}

/// The holder's lease counts, not that of the candidate who asks (hazard 26).
pub async fn the_holders_lease_counts(target: &dyn Target) -> Verdict {
    let (context, [leader, rival]) = contest(target).await?;
    let lease = context.short();
    let rival = rival.lease(lease);
    let grant = leader.held("a fresh lock").await?;
    let start = leader.now();
    for quarter in 0..8 {
        leader.on.sleep_until(start + lease * quarter / 4).await;
        rival
            .refused("a lock whose holder has a longer lease")
            .await?;
    }
    leader.release(&grant).await
}

/// A renewal may grant another lease than the one before. Whatever the grant says is what the
/// store keeps: nobody is granted the lock before that has passed.
pub async fn a_shortened_lease_is_kept_as_told(target: &dyn Target) -> Verdict {
    let context = CaseContext::open(target).await?;
    context
        .on_a_lease(async |lease| {
            let [leader, rival] = context.contestants().await?.map(|one| one.lease(lease));
            let leader = leader.lease(lease * 2);
            let grant = leader.held("a fresh lock").await?;
            let mut shorter = grant.clone();
            shorter.lease = lease;
            let Some(renewed) = renewed_in_time(&leader, &shorter).await? else {
                return Ok(None);
            };
            ensure!(
                renewed.lease <= grant.lease + context.capabilities.lease_granularity,
                "a lease of {lease:?} was asked for instead of {:?}, and {:?} granted",
                grant.lease,
                renewed.lease
            );
            context.ends_in_time(&renewed, &rival).await.map(Some)
        })
        .await
}

/// A lock that was deleted and written again is another lock, whatever its version is: a waiter
/// that watched the record before counts the new holder's lease from the beginning.
///
/// Hook: `delete_lock`.
pub async fn a_lock_written_again_is_judged_anew(target: &dyn Target) -> Verdict {
    let context = CaseContext::open(target).await?;
    context
        .on_a_lease(async |lease| {
            let contestants = context.contestants().await?;
            let [first, second, rival] = contestants.map(|one: Contestant| one.lease(lease));
            let held = first.held("a fresh lock").await?;
            if rival.try_held().await?.is_some() {
                // The machine was too slow for this lease.
                not_before(earliest_end(&held), rival.now())?;
                return Ok(None);
            }
            rival.withdraw().await?;
            rival.on.sleep_until(rival.now() + lease * 3 / 4).await;
            target.delete_lock(&first.lock).await.need("delete_lock")?;
            // A store may wait until the lease of a deleted lock has ended.
            let grant = context
                .granted_after(lease, &second, "a deleted lock")
                .await?;
            context.ends_in_time(&grant, &rival).await.map(Some)
        })
        .await
}

/// Looking at a lock extends nothing.
pub async fn looking_does_not_extend_a_lease(target: &dyn Target) -> Verdict {
    let (context, [leader]) = contest(target).await?;
    let leader = leader.lease(context.short());
    let observer = context.connect().await?;
    leader.held("a fresh lock").await?;
    let what = "the end of a lease that is looked at";
    context
        .seen_free(what, leader.lease, &observer, &leader.lock)
        .await
}

/// The clock is read before the request is sent (contract 2, hazard 2): answers are left unread
/// for a while, and their proofs are older than that.
///
/// A backend whose calls are done in one step cannot show the difference here.
pub async fn a_proof_is_read_before_its_request(target: &dyn Target) -> Verdict {
    let context = CaseContext::open(target).await?;
    // An answer may rarely be there before it is waited for, and nothing is unread then. So what
    // counts is whether every proof is younger than its unread answer.
    let (mut acquired, mut renewed) = (Proofs::default(), Proofs::default());
    for _ in 0..TRIES {
        let [leader] = context.contestants().await?;
        // So that the connection stands, and the calls wait for their answers only.
        leader.holder().await?;
        let clock = leader.on.backend.clock();
        let (answer, unread_since) = read_late(&context, &clock, leader.acquiring()).await?;
        let grant = match judged(&leader, Operation::Acquire, answer)? {
            Some(Acquired::Held(grant)) => {
                acquired.note(grant.proven_at, unread_since);
                grant
            }
            _ => leader.held("a fresh lock").await?,
        };
        let (answer, unread_since) = read_late(&context, &clock, leader.renewing(&grant)).await?;
        if let Some(Renewal::Renewed(grant)) = judged(&leader, Operation::Renew, answer)? {
            renewed.note(grant.proven_at, unread_since);
        }
        leader.release(&grant).await?;
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
    contestant: &Contestant,
    operation: Operation,
    answer: Result<T, Error>,
) -> Result<Option<T>, Stop> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(error) => {
            contestant.on.judge(operation, &error)?;
            Ok(None)
        }
    }
}

/// Runs `call`, but waits a while each time before it takes what it was woken for. Gives also since
/// when the last one was unread; `None` when there was none.
async fn read_late<T>(
    context: &CaseContext<'_>,
    clock: &SharedClock,
    call: impl Future<Output = T>,
) -> Result<(T, Option<Time>), Stop> {
    let mut call = pin!(call);
    let mut woken_at = None;
    let run = async {
        loop {
            let mut first = true;
            // One poll, and then until it is woken again.
            let done = poll_fn(|cx| {
                if !std::mem::take(&mut first) {
                    return Poll::Ready(None);
                }
                call.as_mut().poll(cx).map(Some)
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

/// Other programs' writes to the lock's object do not keep a silent holder's lock, and show no
/// observer that it lives.
///
/// Hook: `write_beside`.
pub async fn a_write_beside_the_record_shows_no_life(target: &dyn Target) -> Verdict {
    let (context, [leader, rival]) = contest(target).await?;
    let lease = context.short();
    let leader = leader.lease(lease);
    let lock = &leader.lock;
    leader.held("a fresh lock").await?;
    let observer = context.connect().await?;
    let first = observer.holder(lock).await?;
    target.write_beside(lock).await.need("write_beside")?;
    let second = observer.holder(lock).await?;
    ensure!(
        !matches!(
            (&first, &second),
            (Occupancy::Unknown(_), Occupancy::Led(_))
        ),
        "after another program's write a holder is said to lead that was never seen to renew"
    );
    let writing = async {
        loop {
            // Until the lock is granted; one that is gone by then is no matter.
            drop(target.write_beside(lock).await);
            rival.on.sleep_until(rival.now() + lease / 4).await;
        }
    };
    let what = "the end of a lease under other programs' writes";
    let granted = context.granted_after(lease, &rival, what);
    tokio::select! {
        granted = granted => rival.release(&granted?).await,
        () = writing => Ok(()),
    }
}

/// An answer that comes late does not stretch the lease (I1, hazard 2).
///
/// Hook: `answers`.
pub async fn a_late_answer_does_not_stretch_the_lease(target: &dyn Target) -> Verdict {
    const LATE: Duration = Duration::from_millis(300);
    let (_, [leader]) = contest(target).await?;
    leader.holder().await?;
    target.answers(Answers::Late(LATE)).await.need("answers")?;
    let grant = leader.held("a fresh lock").await;
    let acquired_at = leader.now();
    let renewal = match &grant {
        Ok(grant) => Some(leader.renew(grant).await),
        Err(_) => None,
    };
    let renewed_at = leader.now();
    target.answers(Answers::Prompt).await.need("answers")?;
    let grant = grant?;
    check_late("acquire", grant.proven_at, acquired_at, LATE)?;
    if let Some(renewal) = renewal
        && let Renewal::Renewed(renewed) = renewal?
    {
        check_late("renew", renewed.proven_at, renewed_at, LATE)?;
    }
    leader.release(&grant).await
}

fn check_late(call: &str, proven_at: Time, answered_at: Time, late: Duration) -> Verdict {
    let age = answered_at.since(proven_at);
    ensure!(
        age >= late,
        "the proof of {call} is {age:?} old, but its answer came {late:?} after its request"
    );
    Ok(())
}
