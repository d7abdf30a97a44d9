//! `connect` as applications use it.

#![cfg(all(
    feature = "file",
    feature = "memory",
    feature = "kube-configmap",
    feature = "kube-lease",
    feature = "etcd",
    feature = "redis",
    feature = "postgres"
))]

use std::time::Duration;

use tenure::{Acquired, CampaignId, Candidate, ErrorKind, Identity, LockName};

#[tokio::test]
async fn memory_urls_share_the_locks_of_the_process() {
    let first = tenure::connect("memory:").await.unwrap();
    let second = tenure::connect("MEMORY://").await.unwrap();
    let lock = LockName::new("shared").unwrap();
    let candidate = |name: &str| Candidate::new(Identity::new(name).unwrap(), CampaignId::new(1));
    let lease = Duration::from_secs(20);
    let held = first.acquire(&lock, &candidate("a"), lease).await.unwrap();
    assert!(matches!(held, Acquired::Held(_)));
    let taken = second.acquire(&lock, &candidate("b"), lease).await.unwrap();
    assert!(matches!(taken, Acquired::Taken { .. }));
}

#[tokio::test]
async fn a_generation_outranks_every_token_without_one() {
    let directory = tempfile::tempdir().unwrap();
    let url = format!(
        "file://{}?create=true&generation=2",
        directory.path().display()
    );
    let backend = tenure::connect(&url).await.unwrap();
    let lock = LockName::new("moved").unwrap();
    let candidate = Candidate::new(Identity::new("a").unwrap(), CampaignId::new(1));
    let held = backend.acquire(&lock, &candidate, Duration::from_secs(20));
    let Acquired::Held(grant) = held.await.unwrap() else {
        panic!("nobody else campaigns");
    };
    assert_eq!(grant.token.generation().get(), 2);
}

#[tokio::test]
async fn what_cannot_be_opened_is_a_typed_error_without_the_password() {
    use ErrorKind::{InvalidInput, Misconfigured};
    let file = tempfile::NamedTempFile::new().unwrap();
    let in_the_way = format!("file://{}", file.path().display());
    for (url, kind, expected) in [
        ("", InvalidInput, "scheme"),
        ("hunter2", InvalidInput, "scheme"),
        ("/var/hunter2", InvalidInput, "scheme"),
        ("user:hunter2@host", InvalidInput, "memory:, file:"),
        ("us er:hunter2@host", InvalidInput, "scheme"),
        ("\u{1b}[31m:hunter2", InvalidInput, "scheme"),
        (
            "mysql://u:hunter2@h/d",
            InvalidInput,
            "\"mysql\" is unknown",
        ),
        ("memory://u:hunter2@h", InvalidInput, "use memory:"),
        ("memory:?hunter2", InvalidInput, "use memory:"),
        ("memory:?generation=x://a:hunter2@h", InvalidInput, "0 to"),
        ("file://u:hunter2@h/dir", InvalidInput, "file:///absolute"),
        ("file://u:hunter2/x@h/dir", InvalidInput, "%2F"),
        ("file://u:hunter2 x@h/dir", InvalidInput, "file:///absolute"),
        ("file:relative", InvalidInput, "file:///absolute"),
        (&in_the_way, Misconfigured, "no directory"),
        ("kube-lease://Ns", InvalidInput, "no name for a namespace"),
        ("kube-lease://u:hunter2@h", InvalidInput, "?server="),
        (
            "kube-configmap://?kubeconfig=/absent",
            Misconfigured,
            "/absent",
        ),
        (
            "etcds://u:hunter2@h:2379/a?color=red",
            InvalidInput,
            "color",
        ),
        ("rediss+sentinel://:hunter2@/m", InvalidInput, "host"),
        ("redis://:hunter2@h/?color=red", InvalidInput, "parameter"),
        ("postgres://u:hunter2@h/d?color=red", InvalidInput, "color"),
        ("postgresql://u:hunter2@h:0x/d", InvalidInput, "port"),
    ] {
        let error = tenure::connect(url).await.unwrap_err();
        let message = error.to_string();
        assert_eq!(error.kind(), kind, "{url}: {message}");
        assert!(message.contains(expected), "{url}: {message}");
        let mut shown = format!("{error:?}{message}");
        let mut source = std::error::Error::source(&error);
        while let Some(error) = source {
            shown.push_str(&error.to_string());
            source = error.source();
        }
        assert!(!shown.contains("hunter2"), "{url}: {shown}");
        assert!(!shown.contains('\u{1b}'), "{url}");
    }
}
