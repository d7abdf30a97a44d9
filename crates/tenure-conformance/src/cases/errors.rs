//! Locks that are deleted or damaged under their leader, and stores that are not there.

use tenure_core::{Acquired, Error, ErrorKind, Expiry, Grant, Operation, Renewal};

use crate::case_context::{CaseContext, contest};
use crate::contestant::Contestant;
use crate::target::Target;
use crate::verdict::{Stop, Verdict, ensure, fail};

/// A lock deleted under its leader is lost, and the leader's renewals do not bring it back
/// (hazard 16).
///
/// Hook: `delete_lock`.
pub async fn a_deleted_lock_is_lost(target: &dyn Target) -> Verdict {
    let (context, [leader]) = contest(target).await?;
    let grant = leader.held("a fresh lock").await?;
    target.delete_lock(&leader.lock).await.need("delete_lock")?;
    leader.lost(&grant, "a deleted lock").await?;
    leader.lost(&grant, "a deleted lock, again").await?;
    let observer = context.connect().await?;
    observer
        .sees_free(&leader.lock, "after a renewal a deleted lock")
        .await?;
    // Releasing what is gone is no error.
    leader.release(&grant).await?;
    leader.withdraw().await
}

/// A deleted lock is granted again, and the term from before cannot touch the new one.
///
/// Hook: `delete_lock`.
pub async fn a_deleted_lock_can_be_acquired(target: &dyn Target) -> Verdict {
    let (context, [leader, rival]) = contest(target).await?;
    let leader = leader.lease(context.short());
    let old = leader.held("a fresh lock").await?;
    rival.refused("a held lock").await?;
    target.delete_lock(&leader.lock).await.need("delete_lock")?;
    // A store may wait until the lease of a deleted lock has ended.
    let new = context
        .granted_after(leader.lease, &rival, "a deleted lock")
        .await?;
    leader.lost(&old, "a term from before the deletion").await?;
    leader.release(&old).await?;
    rival
        .renews_and_releases(&new, "a term after the deletion")
        .await
}

/// A damaged lock gives typed errors or answers, no panic, and never two holders (hazard 17).
///
/// Hook: `corrupt_lock`.
pub async fn a_damaged_lock_never_has_two_holders(target: &dyn Target) -> Verdict {
    let (_, [leader, rival, third]) = contest(target).await?;
    let lock = &leader.lock;
    let grant = leader.held("a fresh lock").await?;
    target.corrupt_lock(lock).await.need("corrupt_lock")?;
    let rival_holds = tries(&rival).await?;
    let renewing = leader.renewing(&grant);
    let renewed = match leader.on.once(Operation::Renew, renewing).await? {
        Ok(renewal) => matches!(renewal, Renewal::Renewed(_)),
        Err(error) => typed(&error).map(|()| false)?,
    };
    ensure!(
        !(renewed && rival_holds.is_some()),
        "a damaged lock was granted to one candidate and renewed for another"
    );
    let looking = third.backend().holder(lock);
    if let Err(error) = third.on.once(Operation::Holder, looking).await? {
        typed(&error)?;
    }
    let asking = third.acquiring();
    if let Ok(Acquired::Held(_)) = third.on.once(Operation::Acquire, asking).await? {
        ensure!(
            !renewed && rival_holds.is_none(),
            "a damaged lock was granted to two candidates"
        );
    }
    for one in [&leader, &rival, &third] {
        let withdrawn = one.on.once(Operation::Withdraw, one.withdrawing()).await?;
        withdrawn.or_else(|error| typed(&error))?;
    }
    let releasing = leader.backend().release(&grant);
    let released = leader.on.once(Operation::Release, releasing).await?;
    released.or_else(|error| typed(&error))
}

/// The grant of a damaged lock, if there is one; an error has to be typed.
async fn tries(contestant: &Contestant) -> Result<Option<Grant>, Stop> {
    let asking = contestant.acquiring();
    match contestant.on.once(Operation::Acquire, asking).await? {
        Ok(Acquired::Held(grant)) => Ok(Some(grant)),
        Ok(_) => Ok(None),
        Err(error) => typed(&error).map(|()| None),
    }
}

/// Damage at the store is neither the caller's mistake nor a bug of the backend.
fn typed(error: &Error) -> Verdict {
    match error.kind() {
        kind @ (ErrorKind::Internal | ErrorKind::InvalidInput | ErrorKind::Unsupported) => {
            fail!("a damaged lock gives an error of kind {}", kind.name())
        }
        _ => Ok(()),
    }
}

/// A damaged lock works again when an operator has deleted it.
///
/// Hooks: `corrupt_lock` and `delete_lock`.
pub async fn a_damaged_lock_recovers_by_deletion(target: &dyn Target) -> Verdict {
    let (context, [leader, rival]) = contest(target).await?;
    let leader = leader.lease(context.short());
    let lock = &leader.lock;
    leader.held("a fresh lock").await?;
    target.corrupt_lock(lock).await.need("corrupt_lock")?;
    tries(&rival).await?;
    target.delete_lock(lock).await.need("delete_lock")?;
    let what = "a damaged and deleted lock";
    let grant = context.granted_after(leader.lease, &rival, what).await?;
    rival
        .renews_and_releases(&grant, "a term on a lock that was damaged before")
        .await
}

/// Where no store is, every call fails with `Unavailable` or `Timeout`, which the engine
/// retries, and names its own operation.
///
/// Hook: `connect_to_nothing`.
pub async fn an_absent_store_gives_typed_errors(target: &dyn Target) -> Verdict {
    let context = CaseContext::open(target).await?;
    let Some(connected) = target.connect_to_nothing().await else {
        return Err(Stop::missing_hook("connect_to_nothing"));
    };
    let usual = context.connect().await?;
    let backend = match connected {
        Ok(backend) => backend,
        Err(error) => {
            usual.judge(Operation::Connect, &error)?;
            return absent("connect", &error);
        }
    };
    let nothing = context.connection(backend);
    let contestant = context.contestant_on(&nothing, &context.lock()?)?;
    let acquiring = contestant.acquiring();
    match nothing.once(Operation::Acquire, acquiring).await? {
        Err(error) => absent("acquire", &error)?,
        Ok(acquired) => fail!("without a store, acquire gives {acquired:?}"),
    }
    let looking = nothing.backend.holder(&contestant.lock);
    match nothing.once(Operation::Holder, looking).await? {
        Err(error) => absent("holder", &error)?,
        Ok(seen) => fail!("without a store, holder gives {seen:?}"),
    }
    let withdrawing = contestant.withdrawing();
    match nothing.once(Operation::Withdraw, withdrawing).await? {
        Err(error) => absent("withdraw", &error),
        // A session that never was has left nothing to take back.
        Ok(()) if context.capabilities.expiry == Expiry::Session => Ok(()),
        Ok(()) => fail!("without a store, withdraw says it is done"),
    }
}

fn absent(call: &str, error: &Error) -> Verdict {
    ensure!(
        matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Timeout),
        "without a store, {call} gives an error of kind {}",
        error.kind().name()
    );
    Ok(())
}

/// No password or token of the target shows in the debug output of a connection, a grant or an
/// error.
///
/// Hook: `secrets`.
pub async fn secrets_are_not_shown(target: &dyn Target) -> Verdict {
    let (context, [leader]) = contest(target).await?;
    if target.secrets().is_empty() {
        return Err(Stop::MissingHook(
            "secrets",
            "the target names no `secrets`".to_owned(),
        ));
    }
    let on = &leader.on;
    on.keeps_secrets("a backend's debug output", &format!("{:?}", on.backend))?;
    on.keeps_secrets("the capabilities", &format!("{:?}", context.capabilities))?;
    let grant = leader.held("a fresh lock").await?;
    on.keeps_secrets("a grant's debug output", &format!("{grant:?}"))?;
    let seen = leader.holder().await?;
    on.keeps_secrets("what an observer sees", &format!("{seen:?}"))?;
    leader.release(&grant).await?;
    match target.connect_to_nothing().await {
        None => {}
        Some(Err(error)) => on.judge(Operation::Connect, &error)?,
        Some(Ok(backend)) => {
            on.keeps_secrets("a backend's debug output", &format!("{backend:?}"))?;
            let asking = backend.acquire(&leader.lock, &leader.candidate, leader.lease);
            // Its error, which is judged, is what this is for.
            let _refused = on.once(Operation::Acquire, asking).await?;
        }
    }
    Ok(())
}
