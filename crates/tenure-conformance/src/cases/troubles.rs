//! Locks that are deleted or damaged under their leader, and stores that are not there.

use tenure_core::{Acquired, ErrorKind, Expiry, Occupancy, Operation, Renewal};

use crate::case_context::CaseContext;
use crate::verdict::{ensure, fail};
use crate::{Stop, Target, Verdict};

/// A lock deleted under its leader is lost, and the leader's renewals do not bring it back
/// (hazard 16).
///
/// Hook: `delete_lock`.
pub async fn a_deleted_lock_is_lost(target: &dyn Target) -> Verdict {
    let context = CaseContext::open(target).await?;
    let lock = context.lock()?;
    let contestant = context.contestant(&lock).await?;
    let grant = contestant.held("a fresh lock").await?;
    target.delete_lock(&lock).await.need("delete_lock")?;
    contestant.lost(&grant, "a deleted lock").await?;
    contestant.lost(&grant, "a deleted lock, again").await?;
    let seen = context.connect().await?.holder(&lock).await?;
    ensure!(
        seen == Occupancy::Free,
        "renewing a deleted lock brought it back: {seen:?}"
    );
    // Releasing what is gone is no error.
    contestant.release(&grant).await?;
    contestant.withdraw().await
}

/// A deleted lock is granted anew, and the term from before it cannot touch that.
///
/// Hook: `delete_lock`.
pub async fn a_deleted_lock_can_be_acquired(target: &dyn Target) -> Verdict {
    let context = CaseContext::open(target).await?;
    let lock = context.lock()?;
    let lease = context.short();
    let contestant = context.contestant(&lock).await?.lease(lease);
    let rival = context.contestant(&lock).await?;
    let old = contestant.held("a fresh lock").await?;
    rival.refused("a held lock").await?;
    target.delete_lock(&lock).await.need("delete_lock")?;
    // A store may wait until the lease of a deleted lock has ended.
    let new = context
        .eventually("a deleted lock", context.until_free(lease), async || {
            rival.try_held().await
        })
        .await?;
    contestant
        .lost(&old, "a term from before the deletion")
        .await?;
    contestant.release(&old).await?;
    let new = rival.renewed(&new, "a term after the deletion").await?;
    rival.release(&new).await
}

/// A damaged lock gives typed errors or answers, no panic, and never two holders (hazard 17).
///
/// Hook: `corrupt_lock`.
pub async fn a_damaged_lock_never_has_two_holders(target: &dyn Target) -> Verdict {
    let context = CaseContext::open(target).await?;
    let lock = context.lock()?;
    let (contestant, rival) = (
        context.contestant(&lock).await?,
        context.contestant(&lock).await?,
    );
    let grant = contestant.held("a fresh lock").await?;
    target.corrupt_lock(&lock).await.need("corrupt_lock")?;
    let rival_holds = match rival.on.once(Operation::Acquire, rival.acquiring()).await? {
        Ok(Acquired::Held(grant)) => Some(grant),
        Ok(Acquired::Taken { .. }) => None,
        Err(error) => {
            typed(error.kind())?;
            None
        }
    };
    let renewing = contestant.backend().renew(&grant, contestant.now());
    let renewed = match contestant.on.once(Operation::Renew, renewing).await? {
        Ok(Renewal::Renewed(_)) => true,
        Ok(Renewal::Lost { .. }) => false,
        Err(error) => {
            typed(error.kind())?;
            false
        }
    };
    ensure!(
        !(renewed && rival_holds.is_some()),
        "a damaged lock was granted to one candidate and renewed for another"
    );
    let third = context.contestant(&lock).await?;
    let looking = third.backend().holder(&lock);
    if let Err(error) = third.on.once(Operation::Holder, looking).await? {
        typed(error.kind())?;
    }
    if let Ok(Acquired::Held(_)) = third.on.once(Operation::Acquire, third.acquiring()).await? {
        ensure!(
            !renewed && rival_holds.is_none(),
            "a damaged lock was granted to two candidates"
        );
    }
    for contestant in [&contestant, &rival, &third] {
        let withdrawing = contestant.backend().withdraw(&lock, &contestant.candidate);
        if let Err(error) = contestant.on.once(Operation::Withdraw, withdrawing).await? {
            typed(error.kind())?;
        }
    }
    let releasing = contestant.backend().release(&grant);
    if let Err(error) = contestant.on.once(Operation::Release, releasing).await? {
        typed(error.kind())?;
    }
    Ok(())
}

/// What is damaged at the store is neither the caller's mistake nor a bug of the backend.
fn typed(kind: ErrorKind) -> Verdict {
    match kind {
        ErrorKind::Internal | ErrorKind::InvalidInput | ErrorKind::Unsupported => {
            fail!("a damaged lock gives an error of kind {}", kind.name())
        }
        _ => Ok(()),
    }
}

/// A damaged lock works again once an operator has deleted it: no wedge.
///
/// Hooks: `corrupt_lock` and `delete_lock`.
pub async fn a_damaged_lock_recovers_by_deletion(target: &dyn Target) -> Verdict {
    let context = CaseContext::open(target).await?;
    let lock = context.lock()?;
    let lease = context.short();
    let contestant = context.contestant(&lock).await?.lease(lease);
    let rival = context.contestant(&lock).await?;
    contestant.held("a fresh lock").await?;
    target.corrupt_lock(&lock).await.need("corrupt_lock")?;
    let asking = rival.acquiring();
    if let Err(error) = rival.on.once(Operation::Acquire, asking).await? {
        typed(error.kind())?;
    }
    target.delete_lock(&lock).await.need("delete_lock")?;
    let grant = context
        .eventually(
            "a damaged and deleted lock",
            context.until_free(lease),
            async || rival.try_held().await,
        )
        .await?;
    let grant = rival
        .renewed(&grant, "a term on a lock that was damaged before")
        .await?;
    rival.release(&grant).await
}

/// Where no store is, every call fails with `Unavailable` or `Timeout`, which the engine
/// retries, in its own name.
///
/// Hook: `connect_to_nothing`.
pub async fn an_absent_store_gives_typed_errors(target: &dyn Target) -> Verdict {
    let context = CaseContext::open(target).await?;
    let Some(connected) = target.connect_to_nothing().await else {
        return Err(Stop::left_out(
            "the target has no hook `connect_to_nothing`",
        ));
    };
    let usual = context.connect().await?;
    let backend = match connected {
        Ok(backend) => backend,
        Err(error) => {
            usual.judge(Operation::Connect, &error)?;
            return absent("connect", error.kind());
        }
    };
    let nothing = context.connection(backend);
    let lock = context.lock()?;
    let contestant = context.player_on(&nothing, &lock)?;
    let asked = nothing
        .once(Operation::Acquire, contestant.acquiring())
        .await?;
    match asked {
        Err(error) => absent("acquire", error.kind())?,
        Ok(acquired) => fail!("without a store, acquire gives {acquired:?}"),
    }
    match nothing
        .once(Operation::Holder, nothing.backend.holder(&lock))
        .await?
    {
        Err(error) => absent("holder", error.kind())?,
        Ok(seen) => fail!("without a store, holder gives {seen:?}"),
    }
    let withdrawing = nothing.backend.withdraw(&lock, &contestant.candidate);
    match nothing.once(Operation::Withdraw, withdrawing).await? {
        Err(error) => absent("withdraw", error.kind()),
        // A session that never was has left nothing to take back.
        Ok(()) if context.capabilities.expiry == Expiry::Session => Ok(()),
        Ok(()) => fail!("without a store, withdraw says it is done"),
    }
}

fn absent(call: &str, kind: ErrorKind) -> Verdict {
    ensure!(
        matches!(kind, ErrorKind::Unavailable | ErrorKind::Timeout),
        "without a store, {call} gives an error of kind {}",
        kind.name()
    );
    Ok(())
}

/// No password or token of the target shows in the debug output of a connection, a grant or an
/// error.
///
/// Hook: `secrets`.
pub async fn secrets_are_not_shown(target: &dyn Target) -> Verdict {
    let context = CaseContext::open(target).await?;
    if target.secrets().is_empty() {
        return Err(Stop::left_out("the target names no `secrets`"));
    }
    let contestant = context.contestant(&context.lock()?).await?;
    let on = &contestant.on;
    on.keeps_secrets("a backend's debug output", &format!("{:?}", on.backend))?;
    on.keeps_secrets("the capabilities", &format!("{:?}", context.capabilities))?;
    let grant = contestant.held("a fresh lock").await?;
    on.keeps_secrets("a grant's debug output", &format!("{grant:?}"))?;
    let seen = contestant.holder().await?;
    on.keeps_secrets("what an observer sees", &format!("{seen:?}"))?;
    contestant.release(&grant).await?;
    if let Some(connected) = target.connect_to_nothing().await {
        match connected {
            Err(error) => on.judge(Operation::Connect, &error)?,
            Ok(backend) => {
                on.keeps_secrets("a backend's debug output", &format!("{backend:?}"))?;
                let asking =
                    backend.acquire(&contestant.lock, &contestant.candidate, contestant.lease);
                // Its error, which is judged, is what this is for.
                let _refused = on.once(Operation::Acquire, asking).await?;
            }
        }
    }
    Ok(())
}
