//! The Role that `tenure rbac` prints is enough, and each verb of it is missed when it is not
//! granted: for both kinds of objects.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::StreamExt as _;
use tenure_core::{
    Acquired, CampaignId, Candidate, Election, ErrorKind, Identity, LockBackend, Policy, Renewal,
};
use tenure_kube::{
    KubeConfig, NAMED_VERBS, Resource, Subject, Token, Verb, rbac_yaml, rbac_yaml_of,
};

use crate::support::{Server, lock, until, within_limit};

pub(crate) const USER: &str = "candidate";

/// Each attempt is one of another candidate.
fn candidate() -> Candidate {
    let campaign = CampaignId::new(fastrand::u64(1..));
    Candidate::new(Identity::new("us").unwrap(), campaign)
}

pub(crate) fn config(server: &Server) -> KubeConfig {
    let token = Token::File(Server::token_file_of(USER));
    server.config_as(server.address(), token)
}

/// As `kubectl apply --server-side` does with the same text.
pub(crate) async fn apply(server: &Server, yaml: &str) {
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

async fn grant(server: &Server, resource: &Resource, name: &str, named: &[Verb], create: bool) {
    let user = Subject::User(USER.to_owned());
    let yaml = rbac_yaml_of(
        resource,
        &server.namespace,
        &lock(name),
        &user,
        named,
        create,
    );
    apply(server, &yaml).await;
}

fn all_but(verb: Verb) -> Vec<Verb> {
    NAMED_VERBS
        .into_iter()
        .filter(|other| *other != verb)
        .collect()
}

/// Waits until acquiring is refused for want of `verb`: the API server learns of a Role some time
/// after it has been applied. `before` each attempt sets the stage.
async fn until_missed(backend: &dyn LockBackend, name: &str, verb: Verb, before: impl AsyncFn()) {
    let quoted = format!("the verb \"{}\"", verb.name());
    until(&quoted, async || {
        before().await;
        let lease = Duration::from_secs(1);
        match backend.acquire(&lock(name), &candidate(), lease).await {
            Ok(_) => false,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Forbidden, "{error}");
                error.message().contains(&quoted)
            }
        }
    })
    .await;
}

/// All of a term with the Role as it is printed; then without each of its verbs but `watch`.
pub(crate) async fn the_role_is_enough_and_no_verb_too_much<B: LockBackend>(
    server: &Server,
    resource: &Resource,
    path: &str,
    open: impl AsyncFn(KubeConfig) -> B,
) {
    let name = "rights";
    let backend = open(config(server)).await;
    until_missed(&backend, name, Verb::Get, async || ()).await;

    let user = Subject::User(USER.to_owned());
    let yaml = rbac_yaml(resource, &server.namespace, &lock(name), &user);
    apply(server, &yaml).await;
    let lease = Duration::from_secs(60);
    let ours = candidate();
    let mut held = None;
    until("the Role counts", async || {
        let outcome = backend.acquire(&lock(name), &ours, lease).await;
        held = outcome.ok().and_then(|acquired| match acquired {
            Acquired::Held(grant) => Some(grant),
            Acquired::Taken { .. } => None,
        });
        held.is_some()
    })
    .await;
    let held = held.unwrap();
    let now = backend.clock().now();
    let Renewal::Renewed(held) = backend.renew(&held, now).await.unwrap() else {
        panic!("it is ours");
    };
    let mut changes = backend.changes(&lock(name));
    let hint = within_limit("the watch", changes.next()).await;
    assert!(hint.is_some(), "the watch is granted");
    backend.release(&held).await.unwrap();

    for verb in [Verb::Get, Verb::Update] {
        grant(server, resource, name, &all_but(verb), true).await;
        until_missed(&backend, name, verb, async || ()).await;
    }
    grant(server, resource, name, &NAMED_VERBS, false).await;
    until_missed(&backend, name, Verb::Create, async || {
        let (status, answer) = server.send("DELETE", path, None).await;
        assert!(matches!(status, 200 | 404), "{answer}");
    })
    .await;
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, text: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(text);
        Ok(text.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// To be run in a runtime of one thread: the log is that of the thread.
pub(crate) async fn without_watch_it_polls_and_warns_once<B: LockBackend>(
    server: &Server,
    resource: &Resource,
    open: impl AsyncFn(KubeConfig) -> B,
) {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::WARN)
        .with_writer(move || writer.clone())
        .finish();
    let _logged = tracing::subscriber::set_default(subscriber);

    let name = "polled";
    let backend = open(config(server)).await;
    grant(server, resource, name, &all_but(Verb::Watch), true).await;
    until("the Role counts", async || {
        backend.holder(&lock(name)).await.is_ok()
    })
    .await;
    let backend = Arc::new(backend);
    let election = |identity: &str| {
        Election::builder(backend.clone(), lock(name))
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
        let warned = || String::from_utf8_lossy(&log.0.lock().unwrap()).contains("is polled");
        until("the missing verb is noticed", async || warned()).await;
        leader.resign().await.unwrap();
        leader = within_limit("the next leader", campaign)
            .await
            .unwrap()
            .unwrap();
    }
    leader.resign().await.unwrap();
    let text = String::from_utf8_lossy(&log.0.lock().unwrap()).into_owned();
    assert_eq!(text.matches("is polled").count(), 1, "{text}");
    assert!(text.contains("without the verb \"watch\""), "{text}");
}
