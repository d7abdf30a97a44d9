//! The end of a silent holder's lease: never early, and late only as declared.

use std::future::Future;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use tenure_core::{Acquired, Error, Grant, Occupancy, Operation, Renewal, SharedClock, Time};
use tokio::time::timeout;

use crate::contender;
use crate::stage::{Player, Stage, earliest_end};
use crate::verdict::{ensure, fail};
use crate::{Answers, Stop, Subject, Verdict};

/// Nobody is granted the lock before the lease of its silent holder has ended by that holder's
/// own count, from its proof.
pub async fn a_lease_never_ends_early(subject: &dyn Subject) -> Verdict {
    let stage = Stage::open(subject).await?;
    let lock = stage.lock()?;
    let lease = stage.short();
    let player = stage.player(&lock).await?.lease(lease);
    let rival = stage.player(&lock).await?.lease(lease);
    let grant = player.held("a fresh lock").await?;
    stage
        .eventually("the end of a lease", stage.until_free(lease), async || {
            not_before(&rival, earliest_end(&grant)).await
        })
        .await
}

/// Nor before the lease after the last renewal has ended.
pub async fn a_renewed_lease_never_ends_early(subject: &dyn Subject) -> Verdict {
    let stage = Stage::open(subject).await?;
    let lock = stage.lock()?;
    let lease = stage.short();
    let player = stage.player(&lock).await?.lease(lease);
    let rival = stage.player(&lock).await?.lease(lease);
    let mut grant = player.held("a fresh lock").await?;
    let clock = player.on.backend.clock();
    clock.sleep_until(grant.proven_at + lease / 2).await;
    if let Some(renewed) = renewed_in_time(&player, &grant).await? {
        grant = renewed;
    }
    stage
        .eventually("the end of a lease", stage.until_free(lease), async || {
            not_before(&rival, earliest_end(&grant)).await
        })
        .await
}

/// `None` if the machine stood still until the lease had ended.
async fn renewed_in_time(player: &Player, grant: &Grant) -> Result<Option<Grant>, Stop> {
    match player.renew(grant).await? {
        Renewal::Renewed(renewed) => Ok(Some(renewed)),
        Renewal::Lost { .. } => {
            ensure!(
                player.now() >= earliest_end(grant),
                "a renewal within the lease found the term lost"
            );
            Ok(None)
        }
    }
}

async fn not_before(rival: &Player, end: Time) -> Result<Option<()>, Stop> {
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
pub async fn a_lease_ends_in_time(subject: &dyn Subject) -> Verdict {
    let stage = Stage::open(subject).await?;
    let lock = stage.lock()?;
    let lease = stage.short();
    let player = stage.player(&lock).await?.lease(lease);
    let rival = stage.player(&lock).await?;
    let grant = player.held("a fresh lock").await?;
    renewed_in_time(&player, &grant).await?;
    let grant = stage
        .eventually("the end of a lease", stage.until_free(lease), async || {
            rival.try_held().await
        })
        .await?;
    rival.release(&grant).await
}

/// The same when the holder's connection is gone.
pub async fn a_lease_ends_in_time_without_its_connection(subject: &dyn Subject) -> Verdict {
    let stage = Stage::open(subject).await?;
    let lock = stage.lock()?;
    let lease = stage.short();
    let rival = stage.player(&lock).await?;
    let player = stage.player(&lock).await?.lease(lease);
    let grant = player.held("a fresh lock").await?;
    drop((player, grant));
    let grant = stage
        .eventually("the end of a lease", stage.until_free(lease), async || {
            rival.try_held().await
        })
        .await?;
    rival.release(&grant).await
}

/// The same when the holder's process is killed.
///
/// Hook: `contender`.
pub async fn a_lease_ends_in_time_without_its_process(subject: &dyn Subject) -> Verdict {
    let stage = Stage::open(subject).await?;
    let lock = stage.lock()?;
    contender::killed(&stage, &lock).await
}

/// The holder's lease counts, not that of the candidate who asks (hazard 26).
pub async fn the_holders_lease_counts(subject: &dyn Subject) -> Verdict {
    let stage = Stage::open(subject).await?;
    let lock = stage.lock()?;
    let lease = stage.short();
    let player = stage.player(&lock).await?;
    let rival = stage.player(&lock).await?.lease(lease);
    let grant = player.held("a fresh lock").await?;
    let clock = player.on.backend.clock();
    let start = player.now();
    for quarter in 0..8 {
        clock.sleep_until(start + lease * quarter / 4).await;
        rival
            .refused("a lock whose holder has a longer lease")
            .await?;
    }
    player.release(&grant).await
}

/// A renewal may grant another lease than the one before. Whatever the grant says is what the
/// store keeps: nobody is granted the lock before that has passed.
pub async fn a_shortened_lease_is_kept_as_told(subject: &dyn Subject) -> Verdict {
    let stage = Stage::open(subject).await?;
    for lease in stage.short_leases() {
        let lock = stage.lock()?;
        let player = stage.player(&lock).await?.lease(lease * 2);
        let rival = stage.player(&lock).await?.lease(lease);
        let grant = player.held("a fresh lock").await?;
        let mut shorter = grant.clone();
        shorter.lease = lease;
        let Some(renewed) = renewed_in_time(&player, &shorter).await? else {
            continue;
        };
        let most = grant.lease + stage.capabilities.lease_granularity;
        ensure!(
            renewed.lease <= most,
            "a lease of {lease:?} was asked for instead of {:?}, and {:?} granted",
            grant.lease,
            renewed.lease
        );
        return stage
            .eventually(
                "the end of a shortened lease",
                stage.until_free(renewed.lease),
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
pub async fn a_lock_written_again_is_judged_anew(subject: &dyn Subject) -> Verdict {
    let stage = Stage::open(subject).await?;
    for lease in stage.short_leases() {
        let lock = stage.lock()?;
        let first = stage.player(&lock).await?.lease(lease);
        let second = stage.player(&lock).await?.lease(lease);
        let rival = stage.player(&lock).await?.lease(lease);
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
        subject.delete_lock(&lock).await.need("delete_lock")?;
        // A store may wait until the lease of a deleted lock has ended.
        let grant = stage
            .eventually("a deleted lock", stage.until_free(lease), async || {
                second.try_held().await
            })
            .await?;
        return stage
            .eventually("the end of a lease", stage.until_free(lease), async || {
                not_before(&rival, earliest_end(&grant)).await
            })
            .await;
    }
    fail!("this machine was too slow for every lease that was tried")
}

/// Looking at a lock extends nothing.
pub async fn looking_does_not_extend_a_lease(subject: &dyn Subject) -> Verdict {
    let stage = Stage::open(subject).await?;
    let lock = stage.lock()?;
    let lease = stage.short();
    let player = stage.player(&lock).await?.lease(lease);
    let observer = stage.connect().await?;
    player.held("a fresh lock").await?;
    stage
        .eventually(
            "the end of a lease that is looked at",
            stage.until_free(lease),
            async || Ok((observer.holder(&lock).await? == Occupancy::Free).then_some(())),
        )
        .await
}

/// The clock is read before the request is sent (contract 2, hazard 2): answers are left unread
/// for a while, and their proofs are older than that.
///
/// A backend whose calls are done in one step cannot show the difference here.
pub async fn a_proof_is_read_before_its_request(subject: &dyn Subject) -> Verdict {
    let stage = Stage::open(subject).await?;
    // An answer may rarely be there before it is waited for, and nothing is unread then; so
    // what counts is whether every proof is as young as that.
    let (mut acquired, mut renewed) = (Proofs::default(), Proofs::default());
    for _ in 0..TRIES {
        let player = stage.player(&stage.lock()?).await?;
        // So that the connection stands, and what the calls wait for is their answers.
        player.holder().await?;
        let clock = player.on.backend.clock();
        let (answer, unread_since) = read_late(&stage, &clock, player.acquiring()).await?;
        let grant = match judged(&player, Operation::Acquire, answer)? {
            Some(Acquired::Held(grant)) => {
                acquired.note(grant.proven_at, unread_since);
                grant
            }
            _ => player.held("a fresh lock").await?,
        };
        let renewing = player.backend().renew(&grant, player.now());
        let (answer, unread_since) = read_late(&stage, &clock, renewing).await?;
        if let Some(Renewal::Renewed(grant)) = judged(&player, Operation::Renew, answer)? {
            renewed.note(grant.proven_at, unread_since);
        }
        player.release(&grant).await?;
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
    player: &crate::stage::Player,
    operation: Operation,
    answer: Result<T, Error>,
) -> Result<Option<T>, crate::Stop> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(error) => {
            player.on.judge(operation, &error)?;
            Ok(None)
        }
    }
}

/// Runs `call`, but lets each thing it was woken for lie for a while. Gives also since when the
/// last one had lain there; `None` when there was none.
async fn read_late<T>(
    stage: &Stage<'_>,
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
    match timeout(stage.patience(), run).await {
        Ok(output) => Ok((output, woken_at)),
        Err(_) => fail!("a call was not done within {:?}", stage.patience()),
    }
}

/// An answer that comes late does not stretch the lease (I1, hazard 2).
///
/// Hook: `answers`.
pub async fn a_late_answer_does_not_stretch_the_lease(subject: &dyn Subject) -> Verdict {
    const LATE: Duration = Duration::from_millis(300);
    let stage = Stage::open(subject).await?;
    let player = stage.player(&stage.lock()?).await?;
    player.holder().await?;
    subject.answers(Answers::Late(LATE)).await.need("answers")?;
    let grant = player.held("a fresh lock").await;
    let acquired_at = player.now();
    let renewal = match &grant {
        Ok(grant) => Some(player.renew(grant).await),
        Err(_) => None,
    };
    let renewed_at = player.now();
    subject.answers(Answers::Prompt).await.need("answers")?;
    let grant = grant?;
    check_late("acquire", grant.proven_at, acquired_at, LATE)?;
    if let Some(renewal) = renewal
        && let Renewal::Renewed(renewed) = renewal?
    {
        check_late("renew", renewed.proven_at, renewed_at, LATE)?;
    }
    player.release(&grant).await
}

fn check_late(call: &str, proven_at: Time, answered_at: Time, late: Duration) -> Verdict {
    let age = answered_at.since(proven_at);
    ensure!(
        age >= late,
        "the proof of {call} is {age:?} old, but its answer came {late:?} after its request"
    );
    Ok(())
}
