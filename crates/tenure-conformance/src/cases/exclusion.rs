//! At most one live grant (contract 1), under contention.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::try_join_all;
use tenure_core::{FencingToken, Grant, Renewal, Time};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::case_context::{CaseContext, FIRST_PAUSE, contest, earliest_end};
use crate::contestant::Contestant;
use crate::processes::{Entry, History, Running};
use crate::target::Target;
use crate::verdict::{Verdict, ensure, fail};

const CONTESTANTS: usize = 8;
const WINS: usize = 4;

/// Contestants in processes of their own, and the turns of each.
const PROCESSES: usize = 3;
const TURNS: u32 = 8;

/// Many candidates on several connections take turns: none is inside with another, and each term
/// has a larger token than the one before.
pub async fn only_one_of_many_tasks_holds(target: &dyn Target) -> Verdict {
    let context = CaseContext::open(target).await?;
    let lock = context.lock()?;
    let inside = Arc::<Inside>::default();
    let connections = [context.connect().await?, context.connect().await?];
    let mut contestants = JoinSet::new();
    for number in 0..CONTESTANTS {
        let on = &connections[number % connections.len()];
        let contestant = context.contestant_on(on, &lock)?;
        // Tasks of their own, so that they run on several threads where there are some.
        contestants.spawn(take_turns(contestant, inside.clone(), context.patience()));
    }
    while let Some(done) = contestants.join_next().await {
        match done {
            Ok(verdict) => verdict?,
            Err(error) => fail!("a candidate panicked: {error}"),
        }
    }
    Ok(())
}

/// Whether one of them holds the lock, and the last token.
#[derive(Default)]
struct Inside {
    occupied: AtomicBool,
    last_token: Mutex<Option<FencingToken>>,
}

async fn take_turns(
    mut contestant: Contestant,
    inside: Arc<Inside>,
    patience: Duration,
) -> Verdict {
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
            sleep(FIRST_PAUSE).await;
        };
        ensure!(
            !inside.occupied.swap(true, Ordering::SeqCst),
            "two candidates hold one lock"
        );
        inside.note(grant.token)?;
        sleep(FIRST_PAUSE).await;
        let grant = contestant.renewed(&grant, "the winner of a turn").await?;
        inside.occupied.store(false, Ordering::SeqCst);
        contestant.release(&grant).await?;
    }
    Ok(())
}

impl Inside {
    fn note(&self, token: FencingToken) -> Verdict {
        let last = self.last_token.lock();
        let mut last = last.unwrap_or_else(PoisonError::into_inner);
        ensure!(
            last.is_none_or(|last| last < token),
            "the token {token} follows {last:?}"
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
    let (lock, history) = (context.lock()?, History::new());
    let mut running = Vec::new();
    for number in 0..PROCESSES {
        let name = format!("contestant-{number}");
        let part = (&*name, TURNS, context.long());
        running.push(Running::start(&context, &lock, &history, part)?);
    }
    let (what, within) = ("the end of the contestants", context.patience() * 2);
    context
        .eventually(what, within, async || {
            let mut all = true;
            for child in &mut running {
                all &= child.ended()?;
            }
            Ok(all.then_some(()))
        })
        .await?;
    judge(&history.read(), PROCESSES * TURNS as usize)
}

/// No two terms at a time, and rising tokens.
fn judge(entries: &[Entry], terms: usize) -> Verdict {
    let mut stops = HashMap::new();
    for entry in entries.iter().filter(|entry| !entry.start) {
        stops.insert(entry.token, entry.at);
    }
    let mut starts: Vec<_> = entries.iter().filter(|entry| entry.start).collect();
    starts.sort_by_key(|start| start.at);
    ensure!(
        starts.len() == terms,
        "{terms} terms were to be had by processes, {} were",
        starts.len()
    );
    for pair in starts.windows(2) {
        ensure!(
            pair[0].token < pair[1].token,
            "among processes the token went from {} to {}",
            pair[0].token,
            pair[1].token
        );
        let stop = stops.get(&pair[0].token);
        ensure!(
            stop.is_some_and(|stop| *stop <= pair[1].at),
            "two processes hold one lock, with the tokens {} and {}",
            pair[0].token,
            pair[1].token
        );
    }
    Ok(())
}

/// Candidates that let their leases end instead of releasing: nobody is granted the lock while
/// another's lease, counted from its own proof, goes on.
pub async fn leases_of_silent_holders_never_overlap(target: &dyn Target) -> Verdict {
    let (context, contestants) = contest::<4>(target).await?;
    let spans = Mutex::new(Vec::new());
    let silent = contestants.map(|one| fall_silent(&context, one.lease(context.short()), &spans));
    try_join_all(silent).await?;
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
    /// Kept, since a grant that nobody holds any more may be free at once.
    _silent: Grant,
}

async fn fall_silent(
    context: &CaseContext<'_>,
    contestant: Contestant,
    spans: &Mutex<Vec<Span>>,
) -> Verdict {
    let within = context.until_free(contestant.lease) * 4 + context.patience();
    let (mut grant, granted_at) = context
        .eventually("a turn after silent holders", within, async || {
            let grant = contestant.try_held().await?;
            Ok(grant.map(|grant| (grant, contestant.now())))
        })
        .await?;
    // Some renew first: the lease counts from the last proof.
    if fastrand::bool()
        && let Renewal::Renewed(renewed) = contestant.renew(&grant).await?
    {
        grant = renewed;
    }
    let mut spans = spans.lock().unwrap_or_else(PoisonError::into_inner);
    spans.push(Span {
        granted_at,
        ends: earliest_end(&grant),
        _silent: grant,
    });
    Ok(())
}

/// What one connection takes another sees at once: they are on the same store.
pub async fn connections_share_their_locks(target: &dyn Target) -> Verdict {
    let (_, [one, other]) = contest(target).await?;
    let grant = one.held("a fresh lock").await?;
    let refusal = other
        .refused("a lock that another connection holds")
        .await?;
    if let Some(holder) = refusal.holder {
        one.is_named(&holder, "a refusal")?;
    }
    one.release(&grant).await?;
    let grant = other
        .held("a lock that another connection released")
        .await?;
    one.refused("a lock that another connection took over")
        .await?;
    other.release(&grant).await
}

/// Two candidates and two locks on one connection: each lock has its own holder, and a call for
/// one lock leaves the other alone.
pub async fn candidates_and_locks_on_one_connection_are_apart(target: &dyn Target) -> Verdict {
    let context = CaseContext::open(target).await?;
    let on = context.connect().await?;
    let (a, b) = (context.lock()?, context.lock()?);
    let one = context.contestant_on(&on, &a)?;
    let two = context.contestant_on(&on, &b)?;
    let (one_on_b, two_on_a) = (one.next().on_lock(&b), two.next().on_lock(&a));
    let mut of_one = one.held("a fresh lock").await?;
    let mut of_two = two
        .held("a fresh lock, on a connection that holds another")
        .await?;
    for other in [&two_on_a, &one_on_b] {
        other
            .refused("a lock that a candidate on the same connection holds")
            .await?;
    }
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
    again
        .renews_and_releases(&grant, "a term, after another lock was released")
        .await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(text: &str) -> Vec<Entry> {
        text.lines().filter_map(Entry::parse).collect()
    }

    #[test]
    fn terms_one_after_another_are_fine() {
        let good = entries("1 start a 5\n2 stop a 5\n3 start b 7\n4 stop b 7\n5 sta");
        assert_eq!(judge(&good, 2), Ok(()));
        assert!(judge(&good, 3).is_err());
    }

    #[test]
    fn terms_side_by_side_and_falling_tokens_are_found() {
        let both = entries("1 start a 5\n2 start b 7\n3 stop a 5\n4 stop b 7");
        assert!(judge(&both, 2).is_err());
        let falling = entries("1 start a 5\n2 stop a 5\n3 start b 4\n4 stop b 4");
        assert!(judge(&falling, 2).is_err());
    }
}
