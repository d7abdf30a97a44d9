//! Wishes that a leader resign: they reach the term that they name, and no other. Left out for a
//! backend that does not [carry any](tenure_core::LockBackend::ask_to_resign).

use std::time::Duration;

use tenure_core::{ErrorKind, FencingToken, Grant, Operation};

use crate::case_context::contest;
use crate::contestant::Contestant;
use crate::target::Target;
use crate::verdict::{Stop, Verdict, ensure};

/// Longer than any case takes.
const LASTS: Duration = Duration::from_secs(3600);

/// The renewal after a wish for its term has it, also when another connection left it.
pub async fn a_wish_reaches_its_leader(target: &dyn Target) -> Verdict {
    let (_, [leader, asker]) = contest(target).await?;
    let grant = leader.held("a fresh lock").await?;
    ask(&asker, grant.token).await?;
    let renewed = leader.renewed(&grant, "a term that is to end").await?;
    ensure!(
        is_asked(&leader, &renewed),
        "a renewal after a wish has none: {renewed:?}"
    );
    // The answer may have been lost.
    let renewed = leader.renewed(&renewed, "a term that is to end").await?;
    ensure!(
        is_asked(&leader, &renewed),
        "the second renewal after a wish has none: {renewed:?}"
    );
    leader.release(&renewed).await?;
    leader
        .next()
        .holds_and_releases("the lock of a leader that has resigned")
        .await
}

/// A wish for an earlier term asks nothing of a later one, of the same identity either; nor does
/// one that was made for it in time.
pub async fn a_late_wish_asks_nothing_of_the_next_term(target: &dyn Target) -> Verdict {
    let (_, [leader, asker]) = contest(target).await?;
    let old = leader.held("a fresh lock").await?;
    ask(&asker, old.token).await?;
    leader.release(&old).await?;
    let next = leader.next();
    let new = next.held("a released lock").await?;
    for _ in 0..2 {
        let renewed = next.renewed(&new, "a term that nobody asked for").await?;
        ensure!(
            !is_asked(&next, &renewed),
            "a wish for the term {} came to the term {}",
            old.token,
            new.token
        );
        ask(&asker, old.token).await?;
    }
    next.renews_and_releases(&new, "a term after a late wish")
        .await
}

fn is_asked(leader: &Contestant, grant: &Grant) -> bool {
    let now = leader.now();
    grant
        .wish
        .is_some_and(|wish| wish.counts_for(grant.token, now))
}

async fn ask(asker: &Contestant, token: FencingToken) -> Verdict {
    let (backend, lock) = (asker.backend(), &asker.lock);
    let asking = backend.ask_to_resign(lock, token, LASTS);
    match asker.on.once(Operation::AskToResign, asking).await? {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::Unsupported => Err(Stop::left_out(
            "LockBackend::ask_to_resign is not supported",
        )),
        Err(_) => {
            let again = || backend.ask_to_resign(lock, token, LASTS);
            asker.on.ask(Operation::AskToResign, again).await
        }
    }
}
