//! Locks that are deleted or damaged under their leader, and stores that are not there.

use tenure_core::{Acquired, ErrorKind, Expiry, Occupancy, Operation, Renewal};

use crate::stage::Stage;
use crate::verdict::{ensure, fail};
use crate::{Stop, Subject, Verdict};

/// A lock deleted under its leader is lost, and the leader's renewals do not bring it back
/// (hazard 16).
///
/// Hook: `delete_lock`.
pub async fn a_deleted_lock_is_lost(subject: &dyn Subject) -> Verdict {
    let stage = Stage::open(subject).await?;
    let lock = stage.lock()?;
    let player = stage.player(&lock).await?;
    let grant = player.held("a fresh lock").await?;
    subject.delete_lock(&lock).await.need("delete_lock")?;
    player.lost(&grant, "a deleted lock").await?;
    player.lost(&grant, "a deleted lock, again").await?;
    let seen = stage.connect().await?.holder(&lock).await?;
    ensure!(
        seen == Occupancy::Free,
        "renewing a deleted lock brought it back: {seen:?}"
    );
    // Releasing what is gone is no error.
    player.release(&grant).await?;
    player.withdraw().await
}

/// A deleted lock is granted anew, and the term from before it cannot touch that.
///
/// Hook: `delete_lock`.
pub async fn a_deleted_lock_can_be_acquired(subject: &dyn Subject) -> Verdict {
    let stage = Stage::open(subject).await?;
    let lock = stage.lock()?;
    let lease = stage.short();
    let player = stage.player(&lock).await?.lease(lease);
    let rival = stage.player(&lock).await?;
    let old = player.held("a fresh lock").await?;
    rival.refused("a held lock").await?;
    subject.delete_lock(&lock).await.need("delete_lock")?;
    // A store may wait until the lease of a deleted lock has ended.
    let new = stage
        .eventually("a deleted lock", stage.until_free(lease), async || {
            rival.try_held().await
        })
        .await?;
    player.lost(&old, "a term from before the deletion").await?;
    player.release(&old).await?;
    let new = rival.renewed(&new, "a term after the deletion").await?;
    rival.release(&new).await
}

/// A damaged lock gives typed errors or answers, no panic, and never two holders (hazard 17).
///
/// Hook: `corrupt_lock`.
pub async fn a_damaged_lock_never_has_two_holders(subject: &dyn Subject) -> Verdict {
    let stage = Stage::open(subject).await?;
    let lock = stage.lock()?;
    let (player, rival) = (stage.player(&lock).await?, stage.player(&lock).await?);
    let grant = player.held("a fresh lock").await?;
    subject.corrupt_lock(&lock).await.need("corrupt_lock")?;
    let rival_holds = match rival.on.once(Operation::Acquire, rival.acquiring()).await? {
        Ok(Acquired::Held(grant)) => Some(grant),
        Ok(Acquired::Taken { .. }) => None,
        Err(error) => {
            typed(error.kind())?;
            None
        }
    };
    let renewing = player.backend().renew(&grant, player.now());
    let renewed = match player.on.once(Operation::Renew, renewing).await? {
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
    let third = stage.player(&lock).await?;
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
    for player in [&player, &rival, &third] {
        let withdrawing = player.backend().withdraw(&lock, &player.candidate);
        if let Err(error) = player.on.once(Operation::Withdraw, withdrawing).await? {
            typed(error.kind())?;
        }
    }
    let releasing = player.backend().release(&grant);
    if let Err(error) = player.on.once(Operation::Release, releasing).await? {
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
pub async fn a_damaged_lock_recovers_by_deletion(subject: &dyn Subject) -> Verdict {
    let stage = Stage::open(subject).await?;
    let lock = stage.lock()?;
    let lease = stage.short();
    let player = stage.player(&lock).await?.lease(lease);
    let rival = stage.player(&lock).await?;
    player.held("a fresh lock").await?;
    subject.corrupt_lock(&lock).await.need("corrupt_lock")?;
    let asking = rival.acquiring();
    if let Err(error) = rival.on.once(Operation::Acquire, asking).await? {
        typed(error.kind())?;
    }
    subject.delete_lock(&lock).await.need("delete_lock")?;
    let grant = stage
        .eventually(
            "a damaged and deleted lock",
            stage.until_free(lease),
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
pub async fn an_absent_store_gives_typed_errors(subject: &dyn Subject) -> Verdict {
    let stage = Stage::open(subject).await?;
    let Some(connected) = subject.connect_to_nothing().await else {
        return Err(Stop::left_out(
            "the subject has no hook `connect_to_nothing`",
        ));
    };
    let usual = stage.connect().await?;
    let backend = match connected {
        Ok(backend) => backend,
        Err(error) => {
            usual.judge(Operation::Connect, &error)?;
            return absent("connect", error.kind());
        }
    };
    let nothing = stage.connection(backend);
    let lock = stage.lock()?;
    let player = stage.player_on(&nothing, &lock)?;
    let asked = nothing.once(Operation::Acquire, player.acquiring()).await?;
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
    let withdrawing = nothing.backend.withdraw(&lock, &player.candidate);
    match nothing.once(Operation::Withdraw, withdrawing).await? {
        Err(error) => absent("withdraw", error.kind()),
        // A session that never was has left nothing to take back.
        Ok(()) if stage.capabilities.expiry == Expiry::Session => Ok(()),
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

/// No password or token of the subject shows in the debug output of a connection, a grant or an
/// error.
///
/// Hook: `secrets`.
pub async fn secrets_are_not_shown(subject: &dyn Subject) -> Verdict {
    let stage = Stage::open(subject).await?;
    if subject.secrets().is_empty() {
        return Err(Stop::left_out("the subject names no `secrets`"));
    }
    let player = stage.player(&stage.lock()?).await?;
    let on = &player.on;
    on.keeps_secrets("a backend's debug output", &format!("{:?}", on.backend))?;
    on.keeps_secrets("the capabilities", &format!("{:?}", stage.capabilities))?;
    let grant = player.held("a fresh lock").await?;
    on.keeps_secrets("a grant's debug output", &format!("{grant:?}"))?;
    let seen = player.holder().await?;
    on.keeps_secrets("what an observer sees", &format!("{seen:?}"))?;
    player.release(&grant).await?;
    if let Some(connected) = subject.connect_to_nothing().await {
        match connected {
            Err(error) => on.judge(Operation::Connect, &error)?,
            Ok(backend) => {
                on.keeps_secrets("a backend's debug output", &format!("{backend:?}"))?;
                let asking = backend.acquire(&player.lock, &player.candidate, player.lease);
                // Its error, which is judged, is what this is for.
                let _refused = on.once(Operation::Acquire, asking).await?;
            }
        }
    }
    Ok(())
}
