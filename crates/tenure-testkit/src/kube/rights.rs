//! The Role that `tenure rbac` prints is enough, and each verb of it is missed when it is not
//! granted: for both kinds of objects.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use tenure_core::{
    Acquired, Candidate, Election, ErrorKind, Identity, LockBackend, Policy, Renewal,
};

use super::launch::CANDIDATE;
use super::server::Server;
use crate::log::Log;
use crate::terms::{candidate, held, lock};
use crate::wait::{until, within_limit};

/// The user whom the Role is for; a test opens its backends with this user's token.
pub const USER: &str = CANDIDATE;

/// The lock that the Role is for.
pub const LOCK: &str = "rights";

/// The verbs that are limited to the lock's name.
const NAMED: [&str; 3] = ["get", "update", "watch"];

/// A Role as YAML: with these verbs limited to the lock's name, and with `create` or without it.
pub type Role<'a> = &'a dyn Fn(&[&str], bool) -> String;

/// Each attempt is one of another candidate.
fn another() -> Candidate {
    candidate("us", fastrand::u64(1..))
}

/// As `kubectl apply --server-side` does with the same text.
pub async fn apply(server: &Server, yaml: &str) {
    for document in yaml.split("---\n") {
        let line = |start: &str| {
            let found = document.lines().find_map(|line| line.strip_prefix(start));
            found.unwrap().to_owned()
        };
        let plural = match line("kind: ").as_str() {
            "Role" => "roles",
            "RoleBinding" => "rolebindings",
            other => panic!("{other}"),
        };
        let (namespace, name) = (line("  namespace: "), line("  name: "));
        let path = format!(
            "/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}/{plural}/{name}\
             ?fieldManager=test&force=true&fieldValidation=Strict"
        );
        let body = document.as_bytes().to_vec();
        let (status, answer) = server
            .send_as("PATCH", &path, "application/apply-patch+yaml", body)
            .await;
        let answer = String::from_utf8_lossy(&answer);
        assert!(matches!(status, 200 | 201), "{status}: {answer}");
    }
}

fn all_but(verb: &str) -> Vec<&'static str> {
    NAMED.into_iter().filter(|other| *other != verb).collect()
}

/// Waits until acquiring is refused for want of `verb`: the API server learns of a Role some time
/// after it has been applied. `before` runs before each attempt.
async fn until_missed(backend: &dyn LockBackend, verb: &str, before: impl AsyncFn()) {
    let quoted = format!("the verb \"{verb}\"");
    until(&quoted, async || {
        before().await;
        let lease = Duration::from_secs(1);
        match backend.acquire(&lock(LOCK), &another(), lease).await {
            Ok(_) => false,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Forbidden, "{error}");
                error.message().contains(&quoted)
            }
        }
    })
    .await;
}

/// All of a term with the Role as it is printed; then without each of its verbs but `watch`. The
/// lock's object is at `path`.
pub async fn the_role_is_enough_and_no_verb_too_much(
    server: &Server,
    backend: &dyn LockBackend,
    path: &str,
    printed: &str,
    role: Role<'_>,
) {
    until_missed(backend, "get", async || ()).await;

    apply(server, printed).await;
    let lease = Duration::from_secs(60);
    let ours = another();
    let mut granted = None;
    until("the Role counts", async || {
        granted = backend.acquire(&lock(LOCK), &ours, lease).await.ok();
        matches!(granted, Some(Acquired::Held(_)))
    })
    .await;
    let grant = held(granted.unwrap());
    let now = backend.clock().now();
    let Renewal::Renewed(grant) = backend.renew(&grant, now).await.unwrap() else {
        panic!("it is ours");
    };
    let mut changes = backend.changes(&lock(LOCK));
    let hint = within_limit("the watch", changes.next()).await;
    assert!(hint.is_some(), "the watch is granted");
    backend.release(&grant).await.unwrap();

    for verb in ["get", "update"] {
        apply(server, &role(&all_but(verb), true)).await;
        until_missed(backend, verb, async || ()).await;
    }
    apply(server, &role(&NAMED, false)).await;
    until_missed(backend, "create", async || {
        let (status, answer) = server.send("DELETE", path, None).await;
        assert!(matches!(status, 200 | 404), "{answer}");
    })
    .await;
}

/// Without the verb `watch` the backend polls, and says so once. To be run in a runtime of one
/// thread: the log is that of the thread.
pub async fn without_watch_it_polls_and_warns_once<B: LockBackend>(
    server: &Server,
    backend: B,
    role: Role<'_>,
) {
    let (log, _logged) = Log::of_this_thread();
    apply(server, &role(&all_but("watch"), true)).await;
    until("the Role counts", async || {
        backend.holder(&lock(LOCK)).await.is_ok()
    })
    .await;
    let backend = Arc::new(backend);
    let election = |identity: &str| {
        Election::builder(backend.clone(), lock(LOCK))
            .identity(Identity::new(identity).unwrap())
            .policy(Policy::fast())
            .build()
            .unwrap()
    };
    let mut leader = within_limit("the first leader", election("first").campaign())
        .await
        .unwrap();
    for identity in ["second", "third"] {
        let waiting = election(identity);
        let campaign = tokio::spawn(async move { waiting.campaign().await });
        until("the missing verb is noticed", async || {
            log.text().contains("is polled")
        })
        .await;
        leader.resign().await.unwrap();
        leader = within_limit("the next leader", campaign)
            .await
            .unwrap()
            .unwrap();
    }
    leader.resign().await.unwrap();
    let text = log.text();
    assert_eq!(text.matches("is polled").count(), 1, "{text}");
    assert!(text.contains("without the verb \"watch\""), "{text}");
}
