//! A fork in the middle of a term.

use std::time::Duration;

use fork::{Fork, fork};
use futures_util::StreamExt as _;
use tenure::{Cause, ErrorKind, Leadership, NotLeading, Permit};

use crate::after::{refuses, take_other};
use crate::worker::{Stage, compete_as, election, lead, runtime, say};

pub(crate) fn play(stage: &Stage) {
    let runtime = runtime();
    let (backend, election, grant, leadership, events, mut hints) = runtime.block_on(async {
        let backend = stage.connect().await;
        let grant = take_other(stage, &backend).await;
        let election = election(stage, backend.clone(), Some("parent"));
        let events = election.events();
        let mut hints = backend.changes(&stage.lock());
        // Until the store watches: it may tell at once, or of the term that begins, or of neither.
        let watching = tokio::time::timeout(Duration::from_secs(3), hints.next());
        let (leadership, _hint) = tokio::join!(election.campaign(), watching);
        let leadership = leadership.unwrap();
        say(&format!("leads {}", leadership.token().as_u64()));
        (backend, election, grant, leadership, events, hints)
    });
    let permit = leadership.permit(Duration::ZERO).unwrap();
    match fork().unwrap() {
        Fork::Parent(_) => runtime.block_on(async {
            // Kept open, as by an observer of the parent.
            let _hints = &mut hints;
            lead(stage, leadership, events).await;
        }),
        Fork::Child => {
            say("is the child");
            refuses(stage, &backend, &election, &grant);
            leads_nothing(&leadership, &permit);
            say("was refused");
            stage.wait_for("drop");
            resigns_nothing(leadership);
            drop((permit, election, grant, hints, events, backend));
            say("has dropped");
            stage.wait_for("shut-down");
            // It cannot wait for the parent's threads.
            runtime.shutdown_background();
            say("has shut down");
            stage.wait_for("campaign");
            compete_as(stage, Some("child"));
        }
    }
}

/// In a child: the parent's term is nothing to act upon.
fn leads_nothing(leadership: &Leadership, permit: &Permit) {
    let term = leadership.term();
    assert!(!term.is_valid());
    assert!(term.remaining().is_zero());
    assert!(matches!(
        term.permit(Duration::ZERO),
        Err(NotLeading::Forked)
    ));
    assert!(matches!(permit.check(), Err(NotLeading::Forked)));
    runtime().block_on(async {
        assert!(matches!(term.confirm().await, Err(NotLeading::Forked)));
        let error = leadership.publish(None).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Forked);
        term.cancelled().await;
        assert_eq!(term.cause(), Some(Cause::Forked));
        term.lost().await;
        let work = term.until_cancelled(std::future::pending::<()>()).await;
        assert!(matches!(work, Err(NotLeading::Forked)), "{work:?}");
    });
    leadership.stop(Cause::Resigned);
}

fn resigns_nothing(leadership: Leadership) {
    let error = runtime().block_on(leadership.resign()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Forked);
}
