use super::*;

#[test]
fn an_applications_client_says_where_the_locks_are() {
    let taken = |url: &str| RedisConfig::from_client(&redis::Client::open(url).unwrap());
    let config = taken("redis://app:s3cret@db:6380/3").unwrap();
    assert_eq!(
        config,
        RedisConfig::from_url("redis://app:s3cret@db:6380/3").unwrap()
    );
    assert_eq!(
        taken("unix:///run/redis.sock").unwrap(),
        RedisConfig::socket("/run/redis.sock").unwrap()
    );
}

#[test]
fn a_unix_socket_is_given_by_its_path() {
    let config = RedisConfig::from_url("redis+unix://ann:pw@/run/r%20s/a.sock?db=3").unwrap();
    let expected = RedisConfig::socket("/run/r s/a.sock").unwrap();
    assert_eq!(config, expected.user("ann").password("pw").database(3));
    assert_eq!(config.to_string(), "redis+unix://ann:***@/run/r s/a.sock/3");
    for wrong in [
        "redis+unix://run/a.sock",
        "redis+unix:///run/a.sock?db=x",
        "redis://host?db=3",
    ] {
        RedisConfig::from_url(wrong).unwrap_err();
    }
    RedisConfig::socket("run/a.sock").unwrap_err();
}

#[test]
fn valkey_is_another_word_for_redis() {
    for (valkey, redis) in [
        ("valkey://h/1", "redis://h/1"),
        ("valkeys://h", "rediss://h"),
        ("valkey+sentinel://h/m", "redis+sentinel://h/m"),
        ("valkeys+cluster://h", "rediss+cluster://h"),
        ("valkey+unix:///s", "redis+unix:///s"),
    ] {
        let both = [valkey, redis].map(|url| RedisConfig::from_url(url).unwrap());
        assert_eq!(both[0], both[1]);
    }
}

#[test]
fn urls_of_all_kinds_are_read() {
    let config = RedisConfig::from_url("redis://localhost").unwrap();
    assert_eq!(config, RedisConfig::server("localhost:6379").unwrap());

    let config = RedisConfig::from_url(
        "rediss://ann:p%40ss%2Fword@[::1]:7000/3?prefix=app&wait_timeout=80ms&wait_replicas=2\
         &connect_timeout=2s&ca=/etc/ca.pem&cert=c.pem&key=k.pem",
    )
    .unwrap();
    let expected = RedisConfig::server("[::1]:7000")
        .unwrap()
        .user("ann")
        .password("p@ss/word")
        .database(3)
        .prefix("app")
        .unwrap()
        .connect_timeout(Duration::from_secs(2))
        .wait_for_replicas(2, Duration::from_millis(80))
        .tls(
            Tls::new()
                .ca("/etc/ca.pem")
                .client_cert("c.pem")
                .client_key("k.pem"),
        );
    assert_eq!(config, expected);
    assert_eq!(config.to_string(), "rediss://ann:***@[::1]:7000/3");

    let config =
        RedisConfig::from_url("redis+sentinel://:pw@a,b:1,c/main/2?sentinel_password=spw").unwrap();
    let expected = RedisConfig::sentinel(["a:26379", "b:1", "c:26379"], "main")
        .unwrap()
        .password("pw")
        .sentinel_credentials(None, "spw")
        .database(2);
    assert_eq!(config, expected);
    assert_eq!(
        config.to_string(),
        "redis+sentinel://:***@a:26379,b:1,c:26379/main/2"
    );

    let config = RedisConfig::from_url("redis+cluster://a:7000,b:7001").unwrap();
    assert_eq!(config, RedisConfig::cluster(["a:7000", "b:7001"]).unwrap());
}

#[test]
fn bad_urls_are_refused_without_repeating_a_password() {
    for (url, expected) in [
        ("localhost:6379", "scheme"),
        ("http://secret@x", "scheme"),
        ("redis+quorum://a:secret@x", "scheme"),
        ("redis://", "address"),
        ("redis://:secret@", "address"),
        ("redis://:secret@x:port", "address"),
        ("redis://:secret@x:0", "address"),
        ("redis://u:sec/ret@x", "%2F"),
        ("redis://u:sec#ret@x", "%23"),
        ("redis://u:1?secret@x", "%3F"),
        ("redis://u:1?secret=2@x/0", "%3F"),
        ("redis://u:secret@a,b", "several"),
        ("redis://u:secret@a/one", "number"),
        ("redis://u:secret@a/1/2", "too many"),
        ("redis://u:%ff@a", "UTF-8"),
        ("redis://u:secret@a?color=red", "\"color\""),
        ("redis://u:secret@a?color", "%26"),
        ("redis+sentinel://a/m?sentinel_password=ab&secret", "%26"),
        ("redis+sentinel://a/m?sentinel_password=ab&secret=", "%26"),
        (
            "redis+sentinel://a/m?sentinel_password=ab&prefix=c&sec=ret",
            "%26",
        ),
        (
            "redis+sentinel://a/m?sentinel%5Fpassword=ab&secret=1",
            "%26",
        ),
        (
            "redis+sentinel://a/m?color=red&sentinel_password=ab",
            "\"color\"",
        ),
        ("redis://u:secret@a?ca=x", "rediss"),
        ("rediss://u:secret@a?cert=x", "belong together"),
        ("redis://u:secret@a?connect_timeout=soon", "duration"),
        ("redis://u:secret@a?wait_replicas=two", "whole number"),
        ("redis://u:secret@a?prefix=a{b}", "prefix"),
        ("redis://u:secret@a?password_file=x", "keep one"),
        (
            "redis://a?request_timeout=1s&response_timeout=1s",
            "mean the same",
        ),
        (
            "rediss://u:secret@a?cert=x&client_cert=x&key=y",
            "mean the same",
        ),
        ("redis://u:secret@a?prefix=a&prefix=b", "twice"),
        ("redis+sentinel://u:secret@a", "master"),
        ("redis+cluster://u:secret@a/1", "database 0"),
    ] {
        let error = RedisConfig::from_url(url).unwrap_err();
        let text = format!("{error} {error:?}");
        assert!(text.contains(expected), "{url}: {text}");
        assert!(!text.contains("sec"), "{url}: {text}");
    }
}

#[test]
fn passwords_are_not_shown() {
    let config = RedisConfig::from_url(
        "redis+sentinel://u:hidden@a/m?sentinel_username=s&sentinel_password=hidden",
    )
    .unwrap();
    let text = format!("{config} {config:?} {config:#?}");
    assert!(!text.contains("hidden"), "{text}");
    assert!(text.contains("***"));
}

#[test]
fn a_password_in_the_place_of_the_user_is_refused_and_not_shown() {
    for url in [
        "redis://hidden@a",
        "redis+sentinel://a/m?sentinel_username=hidden",
    ] {
        let config = RedisConfig::from_url(url).unwrap();
        let error = config.check().unwrap_err();
        assert_eq!(error.kind(), tenure_core::ErrorKind::InvalidInput);
        let text = format!("{config} {config:?} {error} {error:?}");
        assert!(!text.contains("hidden"), "{text}");
    }
    // The password may come from somewhere else.
    let config = RedisConfig::from_url("redis://ann@a").unwrap();
    assert!(config.password("p").check().is_ok());
}

#[test]
fn timeouts_of_nothing_are_refused() {
    let config = RedisConfig::server("a").unwrap();
    assert!(config.check().is_ok());
    let config = config.wait_for_replicas(1, Duration::ZERO);
    assert!(config.check().unwrap_err().to_string().contains("replicas"));
}

#[test]
fn secrets_and_names_are_those_of_every_store() {
    let ours = RedisConfig::from_url(
        "rediss+sentinel://ann@a/m?password_file=/p&sentinel_user=s&sentinel_password_env=S\
         &request_timeout=3s&client_cert=c&client_key=k&server_name=redis.internal",
    );
    let mut expected = RedisConfig::sentinel(["a"], "m")
        .unwrap()
        .user("ann")
        .password_file("/p")
        .request_timeout(Duration::from_secs(3))
        .tls(
            Tls::new()
                .client_cert("c")
                .client_key("k")
                .server_name("redis.internal"),
        );
    expected.sentinel_credentials = Credentials {
        user: Some("s".to_owned()),
        password: Some(Secret::environment("S")),
    };
    assert_eq!(ours.unwrap(), expected);
    let redis_names = "redis://a?response_timeout=3s&sentinel_username=s&sentinel_password=p";
    let theirs = RedisConfig::from_url(redis_names).unwrap();
    assert_eq!(theirs.request_timeout, Some(Duration::from_secs(3)));
    assert_eq!(theirs.sentinel_credentials.user.as_deref(), Some("s"));
}

#[test]
fn a_lock_joins_an_election_by_its_key() {
    let lock = |name: &str| LockName::new(name).unwrap();
    let url = "redis://h?lock_key=leader:WantNumberOne&lock_key=job:a%7Bx%7D";
    let config = RedisConfig::from_url(url).unwrap();
    let keys = |config: &RedisConfig, name: &str| config.keys_of(&lock(name)).unwrap();
    assert_eq!(keys(&config, "leader").lock(), "WantNumberOne");
    assert_eq!(keys(&config, "job").fence(), "a{x}:fence");
    assert_eq!(keys(&config, "other").lock(), "tenure:{other}");

    // Two names of one election, or a key of one that is the fence of the other.
    for key in ["WantNumberOne", "a{x}", "a{x}:fence"] {
        let error = config.clone().key(lock("third"), key).unwrap_err();
        assert!(error.message().contains("third"), "{error}");
    }
    for key in ["tenure:{other}", "tenure:{other}:fence"] {
        let config = RedisConfig::from_url("redis://h").unwrap();
        let config = config.key(lock("leader"), key).unwrap();
        assert!(config.keys_of(&lock("other")).is_err(), "{key}");
        config.keys_of(&lock("leader")).unwrap();
    }
    for (url, expected) in [
        ("redis://u:secret@h?lock_key=job", "LOCK:KEY"),
        ("redis://u:secret@h?lock_key=job:", "empty"),
        ("redis://u:secret@h?lock_key=job:a%7Db", "hash tag"),
        (
            "redis://u:secret@h?lock_key=a:x&lock_key=b:x",
            "locks b and a",
        ),
    ] {
        let message = RedisConfig::from_url(url).unwrap_err().to_string();
        assert!(message.contains(expected), "{url}: {message}");
        assert!(!message.contains("secret"), "{message}");
    }
}
