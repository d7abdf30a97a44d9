//! A fork after the backend is connected and the election is built.

use std::sync::Arc;
use std::time::Duration;

use fork::{Fork, fork};
use futures_util::StreamExt as _;
use tenure::{
    Acquired, CampaignId, Candidate, Election, ErrorKind, Grant, Identity, LockBackend, Renewal,
    Verdict,
};

use crate::worker::{Stage, compete, compete_as, election, runtime, say};

pub(crate) fn play(stage: &Stage) {
    let runtime = runtime();
    let (backend, election, grant) = runtime.block_on(async {
        let backend = stage.connect().await;
        backend.holder(&stage.lock()).await.unwrap();
        let grant = take_other(stage, &backend).await;
        let election = election(stage, backend.clone(), Some("parent"));
        (backend, election, grant)
    });
    say("is the parent");
    match fork().unwrap() {
        Fork::Parent(_) => runtime.block_on(async {
            stage.told("campaign").await;
            compete(stage, &election).await;
            let renewal = backend.renew(&grant, backend.clock().now()).await.unwrap();
            assert!(matches!(renewal, Renewal::Renewed(_)), "{renewal:?}");
            say("has its other lock still");
        }),
        Fork::Child => {
            say("is the child");
            refuses(stage, &backend, &election, &grant);
            drop((grant, election, backend));
            // A child neither drives its parent's runtime nor waits for its threads.
            std::mem::forget(runtime);
            say("was refused");
            compete_as(stage, Some("child"));
        }
    }
}

/// Takes the other lock by the backend alone, as the one who implements a backend sees it.
pub(crate) async fn take_other(stage: &Stage, backend: &Arc<dyn LockBackend>) -> Grant {
    let candidate = Candidate::new(Identity::new("other").unwrap(), CampaignId::draw().unwrap());
    let lease = Duration::from_secs(60);
    match backend
        .acquire(&stage.other_lock(), &candidate, lease)
        .await
    {
        Ok(Acquired::Held(grant)) => grant,
        other => panic!("{other:?}"),
    }
}

/// In a child: every call on what the parent has connected and built is a typed error.
pub(crate) fn refuses(
    stage: &Stage,
    backend: &Arc<dyn LockBackend>,
    election: &Election,
    grant: &Grant,
) {
    let lock = stage.other_lock();
    let candidate = &grant.candidate;
    let forked = |what: &str, error: Option<tenure::Error>| {
        let kind = error.as_ref().map(tenure::Error::kind);
        assert_eq!(kind, Some(ErrorKind::Forked), "{what}: {error:?}");
    };
    runtime().block_on(async {
        let acquired = backend.acquire(&lock, candidate, grant.lease).await;
        forked("acquire", acquired.err());
        let now = backend.clock().now();
        forked("renew", backend.renew(grant, now).await.err());
        forked("release", backend.release(grant).await.err());
        forked("withdraw", backend.withdraw(&lock, candidate).await.err());
        forked("holder", backend.holder(&lock).await.err());
        forked("campaign", election.campaign().await.err());
        let hint = backend.changes(&lock).next().await;
        assert!(hint.is_none(), "changes: {hint:?}");
        assert!(backend.loss(grant).is_none(), "loss");
        let checks = backend.checks(&lock, grant.lease).await;
        let unusable = |check: &tenure::Check| check.verdict == Verdict::Unusable;
        assert!(checks.iter().any(unusable), "checks: {checks:?}");
    });
}
