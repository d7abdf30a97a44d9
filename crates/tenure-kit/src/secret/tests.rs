use std::fs;

use super::*;

type Error = StoreError;

#[test]
fn secrets_are_hidden_and_the_rest_is_kept() {
    for (text, expected) in [
        ("no URL, a@b", "no URL, a@b"),
        ("file:///var/locks", "file:///var/locks"),
        ("etcd://host:2379/a", "etcd://host:2379/a"),
        ("etcd://u:p@a:1,b:2/x", "etcd://***@a:1,b:2/x"),
        ("redis://:p/a@s?s w\"o@h/0", "redis://***@h/0"),
        ("redis://token@h", "redis://***@h"),
        (
            "postgres://h/db?sslmode=require&password=p&user=u",
            "postgres://h/db?sslmode=require&password=***&user=u",
        ),
        (
            "postgres://h/db?SSLPassword=p#x",
            "postgres://h/db?SSLPassword=***",
        ),
        ("postgres://a@h/db?password=abc@hunter2", "postgres://***"),
        (
            "postgres://a@h/db?password=abc@hunter2&x=1",
            "postgres://***",
        ),
        (
            "postgres://h/db?x=1&sentinel_password=a@hunter2",
            "postgres://***",
        ),
        (
            "redis://h?sentinel_password=a/b",
            "redis://h?sentinel_password=***",
        ),
        ("postgres://u:p@h/db?user=a@b", "postgres://***@b"),
        (
            "postgres://h/db?password=ab&hunter2&x=1",
            "postgres://h/db?password=***&***&x=1",
        ),
        (
            "postgres://h/db?user=a@b&password=p&x=1",
            "postgres://***@b&password=***&x=1",
        ),
        ("postgres://h/db?x=1?password=p", "postgres://h/db?x=***"),
        (
            "error: 'redis://u:p@h'\nnext line",
            "error: 'redis://***@h'\nnext line",
        ),
        // A URL without `//`.
        ("redis:app:hunter2@db", "redis:***@db"),
        (
            "argument 'redis:app:hun ter2@db' found",
            "argument 'redis:***@db' found",
        ),
        ("scratch:?password=p&x=1", "scratch:?password=***&x=1"),
        ("redis:u:p@h\nredis://u:p@h", "redis:***@h\nredis://***@h"),
        (
            "redis:u:p@h or redis://u:p@h",
            "redis:***@h or redis://***@h",
        ),
        ("Error: user a@b", "Error: user a@b"),
        ("10:15 by a@b, memory:", "10:15 by a@b, memory:"),
        // A URL that was broken into lines.
        ("redis://u:pa\nss@h", "redis://***@h"),
        ("redis://h/?a\n&password=s", "redis://h/?a\n&password=***"),
    ] {
        assert_eq!(redact(text), expected, "{text}");
    }
}

#[tokio::test]
async fn a_secret_is_read_each_time_from_where_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("password");
    let secret = Secret::file(&path);
    for expected in ["first", "second word"] {
        fs::write(&path, format!("{expected}\r\n")).unwrap();
        let read: Result<String, Error> = secret.read("password").await;
        assert_eq!(read.unwrap(), expected);
    }
    let read: Result<String, Error> = Secret::environment("PATH").read("password").await;
    assert_eq!(read.unwrap(), std::env::var("PATH").unwrap());
    let read: Result<String, Error> = Secret::value("p").read("password").await;
    assert_eq!(read.unwrap(), "p");
}

#[tokio::test]
async fn what_cannot_be_read_is_named_with_its_setting() {
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let path = directory.path().join(name);
        fs::write(&path, bytes).unwrap();
        Secret::file(path)
    };
    let too_large = vec![b'x'; usize::try_from(MAX_SECRET_BYTES).unwrap() + 1];
    for (secret, expected) in [
        (
            Secret::file(directory.path().join("none")),
            "none cannot be read",
        ),
        (file("large", &too_large), "large is larger than 64 KiB"),
        (file("binary", &[0xff]), "binary is not valid UTF-8"),
    ] {
        let error: Error = secret.read("sentinel_password").await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Misconfigured);
        assert!(error.message().contains(expected), "{error}");
        assert!(
            error.message().starts_with("sentinel_password_file: "),
            "{error}"
        );
    }
    let absent = Secret::environment("TENURE_KIT_NO_SUCH_VARIABLE");
    let error: Error = absent.read("password").await.unwrap_err();
    assert!(
        error
            .message()
            .contains("password_env: the variable TENURE_KIT_NO"),
        "{error}"
    );
}

#[tokio::test]
async fn a_password_in_place_of_a_variables_name_is_not_shown() {
    for name in ["hidden!", "1hidden", "hidden\u{e9}", "hidden word", ""] {
        let secret = Secret::environment(name);
        let error: Error = secret.read("password").await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Misconfigured);
        assert!(
            error.message().starts_with("password_env is the name"),
            "{error}"
        );
        let shown = format!("{error} {error:?} {secret:?}");
        assert!(!shown.contains("hidden"), "{shown}");
    }
}

#[test]
fn a_value_is_not_shown_and_where_it_comes_from_is() {
    for (secret, shown) in [
        (Secret::value("hidden"), "Value(***)"),
        (Secret::file("/run/secret"), "File(\"/run/secret\")"),
        (
            Secret::environment("DB_PASSWORD"),
            "Environment(\"DB_PASSWORD\")",
        ),
        (Secret::environment("hidden!"), "Environment(***)"),
    ] {
        assert_eq!(format!("{secret:?}"), shown);
    }
    let alone = Credentials {
        user: Some("hidden".to_owned()),
        password: None,
    };
    assert!(alone.is_user_alone());
    let both = Credentials {
        password: Some(Secret::value("hidden")),
        user: Some("ann".to_owned()),
    };
    let text = format!("{alone:?} {both:?} {} {}", alone.shown(), both.shown());
    assert!(!text.contains("hidden") && text.contains("ann"), "{text}");
}
