//! A child that drops all that it has inherited, the runtime too, closes none of its parent's
//! connections to the API server: their number is counted by a proxy.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod support;

use std::time::Duration;

use fork::{Fork, fork, waitpid};
use futures_util::StreamExt as _;
use support::Connects as _;
use tenure_conformance::proxy::FaultProxy;
use tenure_core::{
    Acquired, CampaignId, Candidate, Changes, ErrorKind, Grant, Hint, Identity, LockBackend as _,
    Renewal,
};
use tenure_kube_lease::{KubeLeaseBackend, connect};
use tenure_testkit::kube::Server;
use tenure_testkit::{lock, within_limit};

/// With it nothing happens by time while the test runs.
const LONG: Duration = Duration::from_secs(600);

struct Inherited {
    backend: KubeLeaseBackend,
    grant: Grant,
    hints: Changes,
}

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let Some(server) = runtime.block_on(Server::start()) else {
        return;
    };
    // In threads of its own: a child has none of them, so it does not touch the proxy's sockets.
    let threads = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let proxy = threads.block_on(async { FaultProxy::start(server.address()).unwrap() });
    let inherited = runtime.block_on(inherited(&server, &proxy));
    let before = proxy.accepted();
    match fork().unwrap() {
        Fork::Child => {
            let refused = is_refused(&inherited);
            drop(inherited);
            // It drops its tasks, and cannot wait for the parent's threads.
            runtime.shutdown_background();
            std::mem::forget((proxy, threads));
            std::process::exit(i32::from(!refused));
        }
        Fork::Parent(child) => {
            assert_eq!(waitpid(child).unwrap(), 0, "the child was not refused");
            runtime.block_on(go_on(inherited));
            assert_eq!(proxy.accepted(), before, "connections were made again");
        }
    }
}

/// A term and a watch, by way of a proxy.
async fn inherited(server: &Server, proxy: &FaultProxy) -> Inherited {
    let backend = connect(server.config_at(proxy.address())).await.unwrap();
    let us = Candidate::new(Identity::new("us").unwrap(), CampaignId::draw().unwrap());
    let outcome = backend.acquire(&lock("forked"), &us, LONG).await;
    let Ok(Acquired::Held(grant)) = outcome else {
        panic!("it is free: {outcome:?}");
    };
    let mut hints = backend.changes(&lock("forked"));
    // The watch has begun, and has told how the Lease stands.
    for _ in 0..2 {
        let hint = within_limit("a hint", hints.next()).await;
        assert!(matches!(hint, Some(Hint::HeldFor(_))), "{hint:?}");
    }
    Inherited {
        backend,
        grant,
        hints,
    }
}

/// In the child, with a runtime of its own.
fn is_refused(inherited: &Inherited) -> bool {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let released = runtime.block_on(inherited.backend.release(&inherited.grant));
    released.is_err_and(|error| error.kind() == ErrorKind::Forked)
}

/// In the parent: its term is renewed and its watch tells of it.
async fn go_on(inherited: Inherited) {
    let Inherited {
        backend,
        grant,
        mut hints,
    } = inherited;
    let renewal = backend.renew(&grant, backend.clock().now());
    let renewal = within_limit("the renewal", renewal).await.unwrap();
    let Renewal::Renewed(grant) = renewal else {
        panic!("{renewal:?}");
    };
    let hint = within_limit("a hint", hints.next()).await;
    assert!(matches!(hint, Some(Hint::HeldFor(_))), "{hint:?}");
    let released = within_limit("the release", backend.release(&grant)).await;
    released.unwrap();
    let hint = within_limit("a hint", hints.next()).await;
    assert_eq!(hint, Some(Hint::MayBeFree));
}
