//! A lock belongs to an identity and a campaign: with one of them alone nobody adopts it, renews
//! it, releases it or takes it back. For both kinds of object.

use tenure_core::{Acquired, Candidate, Grant, LockBackend, Occupancy, Renewal};

use crate::terms::{LONG, candidate, lock};

async fn holder(backend: &dyn LockBackend, name: &str) -> String {
    match backend.holder(&lock(name)).await.unwrap() {
        Occupancy::Led(holder) | Occupancy::Unknown(holder) => holder.identity,
        other => panic!("it is held: {other:?}"),
    }
}

/// Candidates with one number and names of their own, and one name and numbers of their own, as
/// processes that drew alike: of each pair exactly one leads.
pub async fn exactly_one_leads(one: &dyn LockBackend, other: &dyn LockBackend) {
    for (name, rival) in [("number", ("b", 7)), ("name", ("a", 8))] {
        let (ours, theirs) = (candidate("a", 7), candidate(rival.0, rival.1));
        for round in 0..10 {
            let name = &*format!("{name}-{round}");
            let name_of_lock = lock(name);
            let outcomes = tokio::join!(
                one.acquire(&name_of_lock, &ours, LONG),
                other.acquire(&name_of_lock, &theirs, LONG)
            );
            let (winner, loser, grant) = match (outcomes.0.unwrap(), outcomes.1.unwrap()) {
                (Acquired::Held(grant), Acquired::Taken { .. }) => (one, (other, &theirs), grant),
                (Acquired::Taken { .. }, Acquired::Held(grant)) => (other, (one, &ours), grant),
                outcomes => panic!("not exactly one leads: {outcomes:?}"),
            };
            the_loser_changes_nothing(winner, loser.0, loser.1, grant).await;
        }
    }
}

async fn the_loser_changes_nothing(
    winner: &dyn LockBackend,
    loser: &dyn LockBackend,
    lost: &Candidate,
    grant: Grant,
) {
    let name = &grant.lock;
    let leader = grant.candidate.identity.as_str().to_owned();
    // The version that the loser's claim bears is an old one from here on: its record decides.
    let mut claim = grant.clone();
    claim.candidate = lost.clone();
    let grant = renewed(winner, &grant).await;

    let again = loser.acquire(name, lost, LONG).await.unwrap();
    assert!(matches!(again, Acquired::Taken { .. }), "{again:?}");
    let outcome = loser.renew(&claim, loser.clock().now()).await.unwrap();
    assert!(matches!(outcome, Renewal::Lost { .. }), "{outcome:?}");
    loser.release(&claim).await.unwrap();
    loser.withdraw(name, lost).await.unwrap();

    assert_eq!(holder(winner, name.as_str()).await, leader);
    let grant = renewed(winner, &grant).await;
    winner.release(&grant).await.unwrap();
    assert_eq!(winner.holder(name).await.unwrap(), Occupancy::Free);
}

async fn renewed(backend: &dyn LockBackend, grant: &Grant) -> Grant {
    let now = backend.clock().now();
    match backend.renew(grant, now).await.unwrap() {
        Renewal::Renewed(grant) => grant,
        other => panic!("{other:?}"),
    }
}

/// `restarted` takes back what "pod-0" has left, unless its process has won it itself: not even
/// `beside` does so, another value with the same configuration.
pub async fn an_earlier_self_is_an_identity_and_a_campaign(
    earlier: &dyn LockBackend,
    restarted: &dyn LockBackend,
    beside: &dyn LockBackend,
) {
    let held = async |backend: &dyn LockBackend, name: &str, candidate: &Candidate| {
        let outcome = backend.acquire(&lock(name), candidate, LONG).await;
        match outcome.unwrap() {
            Acquired::Held(grant) => grant,
            other => panic!("{name}: {other:?}"),
        }
    };
    let old = held(earlier, "mine", &candidate("pod-0", 7)).await;
    // The same number, but another candidate's.
    let _theirs = held(restarted, "another", &candidate("pod-1", 7)).await;
    let new = held(restarted, "mine", &candidate("pod-0", 9)).await;
    assert!(new.token > old.token);
    // Its own term is not an earlier self's.
    for backend in [restarted, beside] {
        let second = candidate("pod-0", 10);
        let outcome = backend.acquire(&lock("mine"), &second, LONG).await;
        assert!(matches!(outcome, Ok(Acquired::Taken { .. })), "{outcome:?}");
    }
    renewed(restarted, &new).await;
}
