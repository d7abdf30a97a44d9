use tenure_core::ErrorKind;

use super::*;

#[test]
fn an_applications_own_configuration_says_where_the_locks_are() {
    let url = "postgres://ann:s3cret@a:6000,b:6001/jobs?sslmode=disable&connect_timeout=7";
    let client: tokio_postgres::Config = url.parse().unwrap();
    let config = PostgresConfig::from_client_config(&client).unwrap();
    assert_eq!(config, PostgresConfig::from_url(url).unwrap());
    let empty = tokio_postgres::Config::new();
    assert!(PostgresConfig::from_client_config(&empty).is_err());
}

#[test]
fn urls_are_read_as_libpq_reads_them() {
    let config = PostgresConfig::from_url(
        "postgresql://ann:p%40ss%2Fword@h1,[::1]:7000/app?sslmode=verify-full&sslrootcert=ca.pem\
         &sslcert=c.pem&sslkey=k.pem&connect_timeout=3&target_session_attrs=read-write\
         &key_class=5&token_sequence=app.fence&pooler=session&server_lease=off",
    )
    .unwrap();
    let expected = PostgresConfig::servers(["h1:5432", "[::1]:7000"])
        .unwrap()
        .user("ann")
        .password("p@ss/word")
        .database("app")
        .tls_mode(TlsMode::Require)
        .tls(
            Tls::new()
                .ca("ca.pem")
                .client_cert("c.pem")
                .client_key("k.pem"),
        )
        .connect_timeout(Duration::from_secs(3))
        .key_class(5)
        .unwrap()
        .token_sequence("app.fence")
        .session_pooler(true)
        .without_server_lease(true);
    assert!(config == expected, "{config:?}");
    assert_eq!(
        config.to_string(),
        "postgres://ann:***@h1:5432,[::1]:7000/app"
    );
    for (url, host, port) in [
        ("postgres://", "localhost", 5432),
        (
            "postgres:///app?host=/run/postgresql&port=6000",
            "/run/postgresql",
            6000,
        ),
        ("postgres://%2Frun%2Fpg/app", "/run/pg", 5432),
        ("postgres:///app?host=::1,b&port=6001,6002", "::1", 6001),
        ("postgres://a,b/app?port=6003", "a", 6003),
    ] {
        let config = PostgresConfig::from_url(url).unwrap();
        assert_eq!(config.hosts[0].host(), host);
        assert_eq!(config.hosts[0].port(), port);
        assert_eq!(config.hosts[0].is_socket(), host.starts_with('/'));
    }
}

#[test]
fn other_names_of_a_parameter_are_accepted() {
    for (alias, name) in [
        (
            "sslmode=verify-full&sslrootcert=a&sslcert=b&sslkey=c",
            "sslmode=verify-full&ca=a&client_cert=b&client_key=c",
        ),
        ("restart_grace=off", "quarantine=off"),
    ] {
        let read = |query| PostgresConfig::from_url(&format!("postgres://h?{query}")).unwrap();
        assert_eq!(read(alias), read(name));
        assert_ne!(read(name), read(""));
    }
}

#[test]
fn bad_urls_are_refused_without_repeating_a_password() {
    for (url, expected) in [
        ("localhost:5432", "scheme"),
        ("http://secret@x", "scheme"),
        ("postgres://:secret@x:port", "address"),
        ("postgres://:secret@x:0", "address"),
        ("postgres://u:sec/ret@x", "%2F"),
        ("postgres://u:sec#ret@x", "%23"),
        ("postgres://u:%ff@a", "UTF-8"),
        ("postgres://u:%00@a", "NUL"),
        ("postgres://u:secret@a?color=red", "\"color\""),
        ("postgres://u:1?secret@a/b", "%3F"),
        ("postgres://u:1?sec=ret@a/b", "%3F"),
        ("postgres://u:1?sec=r&pooler=session@a", "%3F"),
        ("postgres://u:1?sec%72et=@a", "%3F"),
        ("postgres://a?Secret", "%3F"),
        ("postgres://a?password=x&secret", "%26"),
        ("postgres://a?password=x&secret=y", "%26"),
        ("postgres://u:x@a?secret", "%26"),
        ("postgres://u:secret@a?sslmode=maybe", "verify-full"),
        ("postgres://u:secret@a?sslcert=x", "belong together"),
        ("postgres://u:secret@a?connect_timeout=soon", "duration"),
        ("postgres://u:secret@a,b,c?port=1,2", "2 ports for 3 hosts"),
        ("postgres://u:secret@a?port=0", "a port"),
        (
            "postgres://u:secret@a?target_session_attrs=standby",
            "read-write",
        ),
        ("postgres://u:secret@a?service=x", "pg_service.conf"),
        ("postgres://u:secret@a?channel_binding=maybe", "prefer"),
        ("postgres://u:secret@a?lock_key=job:x", "pg_advisory_lock"),
        (
            "postgres://u:secret@a?lock_key=a:1&lock_key=b:1",
            "lock_key",
        ),
        ("postgres://u:secret@a?application_name=x", "identity"),
        ("postgres://u:secret@a?host=b", "twice"),
        ("postgres://u:secret@a?ca=x&sslrootcert=x", "mean the same"),
        (
            "postgres://u:secret@a?quarantine=on&restart_grace=on",
            "mean the same",
        ),
        ("postgres://u:secret@a?pooler=transaction", "session"),
        ("postgres://u:secret@a?key_class=1952804469", "another"),
    ] {
        let error = PostgresConfig::from_url(url).unwrap_err();
        let text = format!("{error} {error:?}");
        assert!(text.contains(expected), "{url}: {text}");
        assert!(
            !text.contains("sec") || expected == "session",
            "{url}: {text}"
        );
        assert!(!text.contains("secret"), "{url}: {text}");
    }
}

#[test]
fn tls_settings_that_the_mode_would_pass_over_are_refused() {
    let pair = "client_cert=c&client_key=k";
    for (mode, settings, named) in [
        ("", "ca=/ca.pem", "ca needs sslmode=verify-full"),
        ("", "sslrootcert=/ca.pem", "ca needs sslmode=verify-full"),
        ("prefer", "server_name=n", "server_name needs"),
        ("allow", "ca=/ca.pem&server_name=n", "ca needs"),
        (
            "prefer",
            &format!("{pair}&server_name=n"),
            "server_name needs",
        ),
        ("disable", "ca=/ca.pem", "ca needs TLS"),
        ("disable", pair, "client_cert needs TLS"),
        ("disable", "server_name=n", "server_name needs TLS"),
    ] {
        let mode = match mode {
            "" => String::new(),
            mode => format!("&sslmode={mode}"),
        };
        let error = PostgresConfig::from_url(&format!("postgres://h/db?{settings}{mode}"));
        let error = error.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
        assert!(error.message().contains(named), "{settings}{mode}: {error}");
    }
    for fits in [
        &format!("sslmode=prefer&{pair}"),
        "sslmode=require&ca=/ca.pem&server_name=n",
        "sslmode=disable",
    ] {
        PostgresConfig::from_url(&format!("postgres://h/db?{fits}")).unwrap();
    }
}

#[test]
fn tls_settings_are_checked_before_any_io() {
    let config = PostgresConfig::server("h").unwrap();
    let with_ca = config.clone().tls(Tls::new().ca("/ca.pem"));
    let error = with_ca.check().unwrap_err();
    if cfg!(feature = "_tls") {
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
        with_ca.tls_mode(TlsMode::Require).check().unwrap();
        let pair = Tls::new().client_cert("c").client_key("k");
        config.tls(pair).check().unwrap();
    } else {
        let expected = Tls::not_built_in("tenure-postgres");
        assert_eq!(error.kind(), expected.kind());
        assert_eq!(error.message(), expected.message());
    }
}

#[test]
fn an_at_sign_in_a_value_hides_no_other_error() {
    for (parameters, expected) in [
        ("application_name=x@y", "identity"),
        ("pooler=x@y", "pooler cannot be read"),
        ("options=x@y&ca=/ca.pem", "verify-full"),
    ] {
        let error = PostgresConfig::from_url(&format!("postgres://h/db?{parameters}"));
        let error = error.unwrap_err();
        assert!(error.message().contains(expected), "{parameters}: {error}");
        // It may be the end of a password, too.
        assert!(error.message().contains("%3F"), "{parameters}: {error}");
    }
}

#[test]
fn passwords_are_not_shown() {
    let config = PostgresConfig::from_url("postgres://u:hidden@a/b?password=hidden").unwrap();
    let text = format!("{config} {config:?} {config:#?}");
    assert!(!text.contains("hidden"), "{text}");
}

#[test]
fn keys_can_be_chosen() {
    let lock = LockName::new("a").unwrap();
    let config = PostgresConfig::server("x").unwrap();
    assert_eq!(config.key_of(&lock), AdvisoryKey::of(&lock));
    let config = config.key_class(9).unwrap();
    assert_eq!(config.key_of(&lock), AdvisoryKey::in_class(9, &lock));
    let config = config.key(lock.clone(), AdvisoryKey::Big(42)).unwrap();
    assert_eq!(config.key_of(&lock), AdvisoryKey::Big(42));
    assert!(config.key(lock, AdvisoryKey::Pair(ALIVE, 0)).is_err());
}
