//! Stores with a planted password: nothing that the library shows holds it. And stores with a
//! certificate that has expired.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::error::Error as _;
use std::fmt::{self, Write as _};
use std::sync::{Arc, Mutex, OnceLock};

use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use tempfile::TempDir;
use tenure::{Election, Error, ErrorKind, LockBackend, LockName, Policy};
use tenure_testkit::certificates::Authority;
use tenure_testkit::planted::Planted;
use tenure_testkit::{tls, within_limit};

/// All names and labels of metrics so far.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<String>>);

impl Seen {
    /// The one of this process.
    fn installed() -> &'static Self {
        static SEEN: OnceLock<Seen> = OnceLock::new();
        SEEN.get_or_init(|| {
            let seen = Self::default();
            metrics::set_global_recorder(seen.clone()).unwrap();
            seen
        })
    }

    fn note(&self, shown: &dyn fmt::Debug) {
        writeln!(self.0.lock().unwrap(), "{shown:?}").unwrap();
    }

    fn text(&self) -> String {
        self.0.lock().unwrap().clone()
    }
}

impl Recorder for Seen {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, text: SharedString) {
        self.note(&text);
    }

    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, text: SharedString) {
        self.note(&text);
    }

    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, text: SharedString) {
        self.note(&text);
    }

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        self.note(key);
        Counter::noop()
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        self.note(key);
        Gauge::noop()
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        self.note(key);
        Histogram::noop()
    }
}

/// An error and all its causes, in each form.
fn shown(error: &Error) -> String {
    let mut text = format!("{error} {error:?} {error:#?}");
    let mut cause = error.source();
    while let Some(next) = cause {
        write!(text, "\n{next} {next:?}").unwrap();
        cause = next.source();
    }
    text
}

#[track_caller]
fn assert_hidden(store: &Planted, what: &str, text: &str) {
    assert_eq!(store.find_in(text), None, "{}, {what}", store.name);
}

/// The error of the first call that fails.
async fn failure(url: &str) -> Error {
    let backend = match within_limit("an answer", tenure::connect(url)).await {
        Ok(backend) => backend,
        Err(error) => return error,
    };
    let job = LockName::new("job").unwrap();
    let holder = within_limit("an answer", backend.holder(&job)).await;
    holder.unwrap_err()
}

fn election(backend: Arc<dyn LockBackend>) -> Election {
    // A shared server keeps the lock of an earlier run for its lease.
    let lock = format!("secrets-{}", std::process::id());
    Election::builder(backend, LockName::new(&lock).unwrap())
        .policy(Policy::fast())
        .build()
        .unwrap()
}

async fn says_nothing(mut store: Planted) {
    let metrics = Seen::installed();
    for (what, url) in &store.fails {
        assert_hidden(&store, what, &shown(&failure(url).await));
        assert_hidden(&store, what, tenure::redact(url).as_ref());
    }
    let backend = tenure::connect(&store.right).await.unwrap();
    let election = election(backend.clone());
    let leadership = within_limit("a term", election.campaign()).await.unwrap();
    let term = leadership.term();
    for text in [
        format!("{backend:?} {backend:#?} {:?}", backend.capabilities()),
        format!(
            "{election:?} {leadership:?} {term:?} {:?}",
            term.permit(std::time::Duration::ZERO)
        ),
    ] {
        assert_hidden(&store, "a term", &text);
    }
    if store.is_private() {
        store.kill();
        within_limit("the loss", term.lost()).await;
        let lost = format!("{:?}", term.cause());
        assert_hidden(&store, "a lost term", &lost);
        let job = LockName::new("job").unwrap();
        let error = within_limit("an error", backend.holder(&job)).await;
        assert_hidden(&store, "a killed server", &shown(&error.unwrap_err()));
        drop(leadership);
    } else {
        leadership.resign().await.unwrap();
    }
    let metrics = metrics.text();
    assert!(metrics.contains("tenure_"), "{metrics}");
    assert_hidden(&store, "metrics", &metrics);
}

#[tokio::test]
async fn what_a_store_with_a_password_says_never_holds_it() {
    let directory = TempDir::new().unwrap();
    let private = [Planted::redis(), Planted::etcd(), Planted::postgres()];
    let mut all: Vec<Planted> = private.into_iter().flatten().collect();
    for name in ["kube-lease", "kube-configmap"] {
        all.extend(Planted::kubernetes(name, directory.path()).await);
    }
    for store in all {
        says_nothing(store).await;
    }
}

#[tokio::test]
async fn a_certificate_that_has_expired_is_refused_on_every_store_with_tls() {
    let directory = TempDir::new().unwrap();
    let authority = Authority::new(&directory.path().join("ca"));
    let (certificate, key) = authority.expired_certificate("server", &["localhost"]);
    let port = tls::shows(&certificate, &key).await.port();
    let token = directory.path().join("token");
    std::fs::write(&token, "token").unwrap();
    let (ca, token) = (authority.ca().display().to_string(), token.display());
    for url in [
        format!("rediss://localhost:{port}?ca={ca}"),
        format!("etcds://localhost:{port}?ca={ca}"),
        format!("postgres://app:x@localhost:{port}/db?sslmode=require&ca={ca}"),
        format!("kube-lease://default?server=https://localhost:{port}&ca={ca}&token_file={token}"),
        format!(
            "kube-configmap://default?server=https://localhost:{port}&ca={ca}&token_file={token}"
        ),
    ] {
        let error = failure(&url).await;
        assert_eq!(error.kind(), ErrorKind::Misconfigured, "{url}: {error}");
        let text = shown(&error).to_ascii_lowercase();
        assert!(text.contains("expired"), "{url}: {text}");
    }
}
