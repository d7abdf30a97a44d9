//! At most one live grant (contract 1), under contention.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::try_join_all;
use tenure_core::{Acquired, FencingToken, Grant, Renewal, Time};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::PAUSE;
use crate::case_context::{CaseContext, Contestant, earliest_end};
use crate::contestant;
use crate::verdict::{ensure, fail};
use crate::{Target, Verdict};

const PLAYERS: usize = 8;
const WINS: usize = 4;

/// Many candidates on several connections take turns: none is inside with another, and each term
/// has a larger token than the one before.
pub async fn only_one_of_many_tasks_holds(target: &dyn Target) -> Verdict {
    let context = CaseContext::open(target).await?;
    let lock = context.lock()?;
    let room = Arc::<Room>::default();
    let connections = [context.connect().await?, context.connect().await?];
    let mut contestants = JoinSet::new();
    for number in 0..PLAYERS {
        let contestant = context.player_on(&connections[number % connections.len()], &lock)?;
        // Tasks of their own, so that they run on several threads where there are some.
        contestants.spawn(take_turns(contestant, room.clone(), context.patience()));
    }
    while let Some(done) = contestants.join_next().await {
        match done {
            Ok(verdict) => verdict?,
            Err(error) => fail!("a candidate panicked: {error}"),
        }
    }
    Ok(())
}

#[derive(Default)]
struct Room {
    occupied: AtomicBool,
    last_token: Mutex<Option<FencingToken>>,
}

async fn take_turns(mut contestant: Contestant, room: Arc<Room>, patience: Duration) -> Verdict {
    for _ in 0..WINS {
        contestant = contestant.next();
        let start = Instant::now();
        let grant = loop {
            if let Some(grant) = contestant.try_held().await? {
                break grant;
            }
            ensure!(
                start.elapsed() < patience,
                "a turn of one of many: not within {patience:?}"
            );
            sleep(PAUSE).await;
        };
        ensure!(
            !room.occupied.swap(true, Ordering::SeqCst),
            "two candidates hold one lock"
        );
        room.note(grant.token)?;
        sleep(PAUSE).await;
        let grant = contestant.renewed(&grant, "the winner of a turn").await?;
        room.occupied.store(false, Ordering::SeqCst);
        contestant.release(&grant).await?;
    }
    Ok(())
}

impl Room {
    fn note(&self, token: FencingToken) -> Verdict {
        let mut last = self
            .last_token
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        ensure!(
            last.is_none_or(|last| last < token),
            "the token {token} follows on {last:?}"
        );
        *last = Some(token);
        Ok(())
    }
}

/// The same among processes: their own account of their terms, on the host's clock, has no two
/// at a time, and tokens rise.
///
/// Hook: `contestant`.
pub async fn only_one_of_many_processes_holds(target: &dyn Target) -> Verdict {
    let context = CaseContext::open(target).await?;
    let lock = context.lock()?;
    contestant::compete(&context, &lock).await
}

/// Candidates that let their leases end instead of releasing: nobody is granted the lock while
/// another's lease, counted from its own proof, goes on.
pub async fn leases_of_silent_holders_never_overlap(target: &dyn Target) -> Verdict {
    let context = CaseContext::open(target).await?;
    let lock = context.lock()?;
    let spans = Mutex::new(Vec::new());
    let lease = context.short();
    let mut contestants = Vec::new();
    for _ in 0..4 {
        let contestant = context.contestant(&lock).await?.lease(lease);
        contestants.push(fall_silent(&context, contestant, &spans));
    }
    try_join_all(contestants).await?;
    let mut spans = spans.into_inner().unwrap_or_else(PoisonError::into_inner);
    spans.sort_by_key(|span: &Span| span.granted_at);
    for pair in spans.windows(2) {
        ensure!(
            pair[0].ends <= pair[1].granted_at,
            "a lock was granted {:?} before the lease of its silent holder had ended",
            pair[0].ends.since(pair[1].granted_at)
        );
    }
    Ok(())
}

struct Span {
    granted_at: Time,
    ends: Time,
    /// A grant that nobody holds any more may be free at once.
    _silent: Grant,
}

async fn fall_silent(
    context: &CaseContext<'_>,
    contestant: Contestant,
    spans: &Mutex<Vec<Span>>,
) -> Verdict {
    let mut within = context.until_free(contestant.lease) * 4;
    within += context.patience();
    let (mut grant, granted_at) = context
        .eventually("a turn after silent holders", within, async || {
            Ok(match contestant.acquire().await? {
                Acquired::Held(grant) => Some((grant, contestant.now())),
                Acquired::Taken { .. } => None,
            })
        })
        .await?;
    // Some renew first: the lease counts from the last proof.
    if fastrand::bool()
        && let Renewal::Renewed(renewed) = contestant.renew(&grant).await?
    {
        grant = renewed;
    }
    spans
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push(Span {
            granted_at,
            ends: earliest_end(&grant),
            _silent: grant,
        });
    Ok(())
}

/// What one connection takes another sees at once: they are on the same store.
pub async fn connections_share_their_locks(target: &dyn Target) -> Verdict {
    let context = CaseContext::open(target).await?;
    let lock = context.lock()?;
    let (one, other) = (
        context.contestant(&lock).await?,
        context.contestant(&lock).await?,
    );
    let grant = one.held("a fresh lock").await?;
    let refusal = other
        .refused("a lock that another connection holds")
        .await?;
    if let Some(holder) = refusal.holder
        && holder.identity != one.candidate.identity.as_str()
    {
        fail!("a refusal names {:?} as the holder", holder.identity);
    }
    one.release(&grant).await?;
    let grant = other
        .held("a lock that another connection released")
        .await?;
    one.refused("a lock that another connection took over")
        .await?;
    other.release(&grant).await
}

/// Two candidates and two locks on one connection: each lock has its own holder, and what is done
/// to one leaves the other alone.
pub async fn candidates_and_locks_on_one_connection_are_apart(target: &dyn Target) -> Verdict {
    let context = CaseContext::open(target).await?;
    let on = context.connect().await?;
    let (a, b) = (context.lock()?, context.lock()?);
    let (one, two) = (context.player_on(&on, &a)?, context.player_on(&on, &b)?);
    let (one_on_b, two_on_a) = (one.next().on_lock(&b), two.next().on_lock(&a));
    let mut of_one = one.held("a fresh lock").await?;
    let mut of_two = two
        .held("a fresh lock, on a connection that holds another")
        .await?;
    two_on_a
        .refused("a lock that a candidate on the same connection holds")
        .await?;
    one_on_b
        .refused("a lock that a candidate on the same connection holds")
        .await?;
    of_one = one.renewed(&of_one, "one of two terms").await?;
    of_two = two.renewed(&of_two, "the other of two terms").await?;
    one.release(&of_one).await?;
    of_two = two
        .renewed(&of_two, "a term, after another lock was released")
        .await?;
    let both = two_on_a
        .held("a lock that was released on this connection")
        .await?;
    one.lost(&of_one, "a term that was released").await?;
    one.release(&of_one).await?;
    two_on_a
        .renewed(&both, "a term, after its predecessor's second release")
        .await?;
    two_on_a.withdraw().await?;
    of_two = two
        .renewed(&of_two, "a term, after another lock was withdrawn")
        .await?;
    let again = one.next();
    let grant = again
        .held("a lock that was withdrawn on this connection")
        .await?;
    two.release(&of_two).await?;
    let grant = again
        .renewed(&grant, "a term, after another lock was released")
        .await?;
    again.release(&grant).await
}
