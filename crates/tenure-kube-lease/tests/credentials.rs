//! Credentials that change in the middle of a term, and credential helpers, on a real API server.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use support::Connects as _;
use tempfile::TempDir;
use tenure_core::{Acquired, ErrorKind, Grant, LockBackend as _};
use tenure_kube::{KubeConfig, LEASES, Subject, Tls, rbac_yaml};
use tenure_kube_lease::{KubeLeaseBackend, connect, lazy};
use tenure_testkit::kube::faulty_api::{Answer, FaultyApi, Kind, instead};
use tenure_testkit::kube::private_api::PrivateApi;
use tenure_testkit::kube::{Server, rights, webhook};
use tenure_testkit::{LONG, candidate, held, lock, renewed, until};

/// A helper that counts its runs and gives out what stands in a file.
struct Helper {
    dir: TempDir,
}

impl Helper {
    /// It gives `answer`, and before that it runs `script`.
    fn new(answer: &Value, script: &str) -> Self {
        let helper = Self {
            dir: TempDir::new().unwrap(),
        };
        helper.gives(answer);
        let script = format!("cd \"$(dirname \"$0\")\"\necho run >> runs\n{script}\ncat answer\n");
        fs::write(helper.program(), script).unwrap();
        helper
    }

    fn program(&self) -> PathBuf {
        self.dir.path().join("helper")
    }

    fn gives(&self, status: &Value) {
        let answer = json!({
            "apiVersion": "client.authentication.k8s.io/v1",
            "kind": "ExecCredential",
            "status": status,
        });
        replace(&self.dir.path().join("answer"), &answer.to_string());
    }

    fn runs(&self) -> usize {
        let runs = fs::read_to_string(self.dir.path().join("runs"));
        runs.unwrap_or_default().lines().count()
    }

    /// A kubeconfig that names it.
    fn config(&self, server: &Server) -> KubeConfig {
        self.config_at(&server.url, server)
    }

    /// The same for a server in front of this one.
    fn config_at(&self, url: &str, server: &Server) -> KubeConfig {
        let exec = json!({
            "apiVersion": "client.authentication.k8s.io/v1",
            "command": "sh",
            "args": [self.program()],
            "interactiveMode": "Never",
        });
        let cluster = json!({ "server": url, "certificate-authority": server.ca });
        let kubeconfig = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "us",
            "clusters": [{ "name": "test", "cluster": cluster }],
            "users": [{ "name": "us", "user": { "exec": exec } }],
            "contexts": [{ "name": "us", "context": { "cluster": "test", "user": "us" } }],
        });
        let file = self.dir.path().join("config");
        fs::write(&file, kubeconfig.to_string()).unwrap();
        let config = KubeConfig::from_file(Some(file), None);
        config.namespace(&*server.namespace).unwrap()
    }
}

/// Whole at every moment, as a mounted secret is.
fn replace(file: &Path, text: &str) {
    let next = file.with_extension("next");
    fs::write(&next, text).unwrap();
    fs::rename(&next, file).unwrap();
}

/// A service account, and tokens for it that can be revoked.
struct Account<'a>(&'a Server);

impl<'a> Account<'a> {
    async fn new(server: &'a Server, locks: &[&str]) -> Self {
        let account = Self(server);
        let body = json!({ "metadata": { "name": "worker" } });
        account.post("serviceaccounts", &body).await;
        for name in locks {
            let subject = Subject::ServiceAccount("worker".to_owned());
            let yaml = rbac_yaml(&LEASES, &server.namespace, &lock(name), &subject);
            rights::apply(server, &yaml).await;
        }
        account
    }

    fn path(&self, what: &str) -> String {
        format!("/api/v1/namespaces/{}/{what}", self.0.namespace)
    }

    async fn post(&self, what: &str, body: &Value) -> Value {
        let (status, answer) = self.0.send("POST", &self.path(what), Some(body)).await;
        assert_eq!(status, 201, "{answer}");
        answer
    }

    /// A token that is good for as long as the secret of this name exists.
    async fn token(&self, name: &str) -> String {
        let body = json!({ "metadata": { "name": name } });
        let secret = self.post("secrets", &body).await;
        let bound = json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "name": name,
            "uid": secret["metadata"]["uid"],
        });
        let body = json!({ "spec": { "boundObjectRef": bound } });
        let answer = self.post("serviceaccounts/worker/token", &body).await;
        answer["status"]["token"].as_str().unwrap().to_owned()
    }

    async fn revoke(&self, name: &str) {
        let path = self.path(&format!("secrets/{name}"));
        let (status, answer) = self.0.send("DELETE", &path, None).await;
        assert_eq!(status, 200, "{answer}");
    }

    /// Whether the server refuses this token by now: it remembers good ones for a while.
    async fn refuses(&self, token: &str) -> bool {
        let config = KubeConfig::server(&*self.0.url);
        let config = config.tls(Tls::new().ca(&self.0.ca)).token(token);
        connect(config)
            .await
            .is_err_and(|error| error.kind() == ErrorKind::Forbidden)
    }
}

/// A term; waits until the rights of the account count.
async fn term(backend: &KubeLeaseBackend, name: &str) -> Grant {
    let mut granted = None;
    until("the rights count", async || {
        let us = candidate("us", fastrand::u64(1..));
        granted = backend.acquire(&lock(name), &us, LONG).await.ok();
        matches!(granted, Some(Acquired::Held(_)))
    })
    .await;
    held(granted.unwrap())
}

/// The file with the token used to be read after up to a minute, and the helper never again.
#[tokio::test]
async fn a_term_outlives_its_revoked_token_without_one_heartbeat_that_fails() {
    let Some(server) = Server::start().await else {
        return;
    };
    let account = Account::new(&server, &["by-helper", "by-file"]).await;
    let [old, new] = [account.token("old").await, account.token("new").await];
    let helper = Helper::new(&json!({ "token": old }), "");
    let file = helper.dir.path().join("token");
    replace(&file, &old);
    // One that names an end is run again before the server refuses what it gave.
    let end = "2001-01-01T00:00:00Z";
    let ending = json!({ "token": server.token(), "expirationTimestamp": end });
    let ending = Helper::new(&ending, "");
    let by_ending = connect(ending.config(&server)).await.unwrap();
    let by_helper = connect(helper.config(&server)).await.unwrap();
    let by_file = connect(server.config().token_file(&file)).await.unwrap();
    let mut terms = [
        (&by_helper, term(&by_helper, "by-helper").await),
        (&by_file, term(&by_file, "by-file").await),
        (&by_ending, term(&by_ending, "by-ending").await),
    ];
    assert_eq!([helper.runs(), ending.runs()], [1, 1]);

    helper.gives(&json!({ "token": new }));
    replace(&file, &new);
    account.revoke("old").await;
    let mut after = 0;
    until(
        "heartbeats go on after the old token is refused",
        async || {
            for (backend, grant) in &mut terms {
                let renewal = backend.renew(grant, backend.clock().now()).await;
                let next = renewed(renewal.unwrap());
                assert_eq!(next.token, grant.token);
                *grant = next;
            }
            // Each look makes a client; there is no hurry.
            tokio::time::sleep(Duration::from_millis(100)).await;
            after += usize::from(helper.runs() > 1 && account.refuses(&old).await);
            after == 2
        },
    )
    .await;
    assert_eq!(helper.runs(), 2);
}

#[tokio::test]
async fn a_helper_whose_token_is_refused_is_run_once_for_each_request() {
    let Some(server) = Server::start().await else {
        return;
    };
    let helper = Helper::new(&json!({ "token": "none-of-yours" }), "");
    let backend = lazy(helper.config(&server)).unwrap();
    for requests in 1..=3 {
        let error = backend.holder(&lock("refused")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Forbidden, "{error}");
        assert_eq!(helper.runs(), requests);
    }
    // A good one is used with the next request.
    helper.gives(&json!({ "token": server.token() }));
    backend.holder(&lock("refused")).await.unwrap();
    backend.holder(&lock("refused")).await.unwrap();
    assert_eq!(helper.runs(), 4);
}

/// A proxy has reasons of its own: the credentials that it refuses nothing to are good.
#[tokio::test]
async fn a_401_that_is_not_about_credentials_has_none_read_again() {
    let Some(server) = Server::start().await else {
        return;
    };
    let api = FaultyApi::start(&server).await;
    let helper = Helper::new(&json!({ "token": server.token() }), "");
    let backend = connect(helper.config_at(&api.url(), &server));
    let backend = backend.await.unwrap();
    let grant = term(&backend, "proxied").await;
    for answers in 1..=3 {
        api.fail(Kind::Put, instead(Answer::Status(401, None)), 1);
        let refused = backend.renew(&grant, backend.clock().now()).await;
        let error = refused.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Forbidden, "{error}");
        assert!(error.message().contains("as the test wishes"), "{error}");
        assert!(!error.message().contains("renew it in"), "{error}");
        assert_eq!(helper.runs(), 1, "after {answers} answers");
    }
    renewed(backend.renew(&grant, backend.clock().now()).await.unwrap());
    assert_eq!(helper.runs(), 1);
}

/// It used to be run three times, each for as long as it takes.
#[tokio::test]
async fn a_slow_helper_is_run_once_to_connect() {
    let Some(server) = Server::start().await else {
        return;
    };
    let helper = Helper::new(&json!({ "token": server.token() }), "sleep 4");
    let backend = connect(helper.config(&server)).await.unwrap();
    term(&backend, "slow").await;
    assert_eq!(helper.runs(), 1);
}

#[tokio::test]
async fn a_helper_may_give_a_certificate_and_another_one_later() {
    let Some(api) = PrivateApi::start().await else {
        return;
    };
    let server = &api.server;
    let folder = server.ca.parent().unwrap();
    let text = |name: &str| fs::read_to_string(folder.join(name)).unwrap();
    let pair = |certificate: &str, key: &str| json!({ "clientCertificateData": certificate, "clientKeyData": key });
    let subject = Subject::User(rights::USER.to_owned());
    let yaml = rbac_yaml(&LEASES, &server.namespace, &lock("certified"), &subject);
    rights::apply(server, &yaml).await;

    // Of an authority that the server does not know.
    let stranger = tenure_testkit::certificates::Authority::new(&folder.join("other"));
    let (certificate, key) = stranger.certificate(rights::USER, &[]);
    let [certificate, key] = [certificate, key].map(|file| fs::read_to_string(file).unwrap());
    let helper = Helper::new(&pair(&certificate, &key), "");
    let backend = lazy(helper.config(server)).unwrap();
    let error = backend.holder(&lock("certified")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Forbidden, "{error}");

    let name = rights::USER;
    let ours = pair(&text(&format!("{name}.pem")), &text(&format!("{name}.key")));
    helper.gives(&ours);
    let grant = term(&backend, "certified").await;
    renewed(backend.renew(&grant, backend.clock().now()).await.unwrap());
    assert_eq!(helper.runs(), 2);

    // A webhook may choose the status 401: it says nothing of credentials.
    webhook::start(server, &folder.join("webhook")).await;
    let mut refused = None;
    until("the webhook counts", async || {
        let name = format!("refused-by-401-{}", fastrand::u32(..));
        let yaml = rbac_yaml(&LEASES, &server.namespace, &lock(&name), &subject);
        rights::apply(server, &yaml).await;
        let us = candidate("us", fastrand::u64(1..));
        let outcome = backend.acquire(&lock(&name), &us, LONG).await;
        refused = outcome
            .err()
            .filter(|error| error.message().contains(webhook::REFUSAL));
        refused.is_some()
    })
    .await;
    let error = refused.unwrap();
    assert!(error.message().contains("(401): "), "{error}");
    assert_eq!(helper.runs(), 2);
}
