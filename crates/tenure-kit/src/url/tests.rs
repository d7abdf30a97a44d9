use super::*;

fn url(text: &str) -> Url {
    Url::parse(text).unwrap()
}

#[test]
fn a_url_is_taken_apart() {
    let mut url = url("Rediss+Sentinel://ann:p%40ss%2Fword@[::1]:7000,b/main/3?prefix=a%26b&n=7");
    assert_eq!(url.scheme(), "rediss+sentinel");
    assert_eq!(
        url.addresses(5).unwrap(),
        [Address::new("::1", 7000), Address::new("b", 5)]
    );
    assert_eq!(url.segments().unwrap(), ["main", "3"]);
    assert_eq!(url.path().unwrap(), "main/3");
    assert_eq!(url.take("prefix").unwrap().as_deref(), Some("a&b"));
    assert_eq!(url.take_number("n").unwrap(), Some(7));
    assert_eq!(url.take("absent").unwrap(), None);
    let credentials = url.take_credentials().unwrap();
    assert_eq!(credentials.user.as_deref(), Some("ann"));
    assert_eq!(credentials.password, Some(Secret::value("p@ss/word")));
    url.finish().unwrap();
}

#[test]
fn a_url_without_hosts_has_a_path_alone() {
    for (text, has_authority, path) in [
        ("memory:", false, ""),
        ("memory:?x=1", false, ""),
        ("file:/a/b", false, "/a/b"),
        ("file:///a%20@b?x=1", true, "/a%20@b"),
        ("kube-lease://", true, ""),
    ] {
        let url = url(text);
        assert_eq!(url.has_authority(), has_authority, "{text}");
        assert_eq!(url.raw_path(), path, "{text}");
        assert!(url.hosts().is_empty() && url.addresses(5).is_err());
    }
}

#[test]
fn what_cannot_be_read_is_refused_without_repeating_a_password() {
    for (text, expected) in [
        ("", "scheme"),
        ("secret", "scheme"),
        ("sec/ret:x", "scheme"),
        ("x://u:sec/ret@x", "%2F"),
        ("x://u:sec#ret@x", "%23"),
        ("x://u:%ff@a", "UTF-8"),
        ("x://u:%00@a", "NUL"),
        ("x://u:secret@a?a=%ff", "UTF-8"),
    ] {
        let error = Url::parse(text).unwrap_err();
        let shown = format!("{error} {error:?}");
        assert_eq!(error.kind(), tenure_core::ErrorKind::InvalidInput);
        assert!(shown.contains(expected), "{text}: {shown}");
        assert!(!shown.contains("sec"), "{text}: {shown}");
    }
    assert!(
        url("x://u:1?secret=2@x/0")
            .refuse_at_in_parameters()
            .is_err()
    );
    assert!(url("x://h?user=a%40b").refuse_at_in_parameters().is_ok());
}

#[test]
fn an_unknown_parameter_is_named_only_when_it_is_no_part_of_a_password() {
    for (text, expected) in [
        ("x://a?color=red", "\"color\""),
        ("x://a?color=red&sentinel_password=ab", "\"color\""),
        ("x://a?password_file=/p&color=red", "\"color\""),
        ("x://a?password_env=E&color=red", "\"color\""),
        ("x://a?token_file=/t&token_env=E&color=red", "\"color\""),
        ("x://a?passfile=/p&token_sequence=s&color=red", "\"color\""),
        ("x://a?color", "%26"),
        ("x://a?Secret=", "%26"),
        ("x://a?password=ab&secret=y", "%26"),
        ("x://a?pass%77ord=ab&secret=y", "%26"),
        ("x://a?sentinel_password=ab&prefix=c&sec=ret", "%26"),
        ("x://u:x@a?secret", "%26"),
        ("x://u:1?sec=ret@a/b", "%3F"),
        ("x://u:1?sec%72et=@a", "%3F"),
    ] {
        let mut url = url(text);
        let _ = url.take_secret("sentinel_password", None).unwrap();
        let names = "password_file password_env token_file token_env passfile token_sequence";
        let names = names.split(' ');
        for name in names.chain(["password", "sentinel_password", "prefix"]) {
            url.take(name).unwrap();
        }
        let error = url.finish().unwrap_err().to_string();
        assert!(error.contains(expected), "{text}: {error}");
        assert!(!error.contains("sec"), "{text}: {error}");
        assert!(error.contains("sentinel_password and prefix"), "{error}");
    }
}

#[test]
fn a_parameter_is_given_once_by_one_of_its_names() {
    for (text, expected) in [
        ("x://a?ca=1&ca=2", "ca twice"),
        ("x://a?ca=1&sslrootcert=2", "ca and sslrootcert"),
    ] {
        let error = url(text).take_any(&["ca", "sslrootcert"]).unwrap_err();
        assert!(error.message().contains(expected), "{error}");
    }
    let mut aliased = url("x://a?sslrootcert=2&label=a&label=b");
    let taken = aliased.take_any(&["ca", "sslrootcert"]).unwrap();
    assert_eq!(taken.as_deref(), Some("2"));
    assert_eq!(aliased.take_all("label"), ["a", "b"]);
    for text in [
        "x://u:p@a?password_file=f",
        "x://a?password_env=E&password_file=f",
    ] {
        let error = url(text).take_credentials().unwrap_err();
        assert!(error.message().contains("keep one"), "{error}");
    }
}

#[test]
fn a_password_in_place_of_a_variables_name_is_refused_and_not_shown() {
    for text in ["hun-ter2", "7hunter", "hun%20ter2", ""] {
        let mut url = url(&format!("x://a?password_env={text}"));
        let error = url.take_credentials().unwrap_err();
        assert_eq!(error.kind(), tenure_core::ErrorKind::InvalidInput);
        assert!(
            error.message().contains("password_env is the name"),
            "{error}"
        );
        assert!(!error.message().contains("hun"), "{error}");
    }
}

#[test]
fn values_have_a_type_and_are_not_repeated_when_they_have_another() {
    let mut read = url("x://a?a=500ms&b=2s&c=3&d=on&e=false");
    let mut duration = |name| read.take_duration(&[name]).unwrap().unwrap();
    assert_eq!(duration("a"), Duration::from_millis(500));
    assert_eq!(duration("b"), Duration::from_secs(2));
    assert_eq!(duration("c"), Duration::from_secs(3));
    assert_eq!(read.take_switch("d").unwrap(), Some(true));
    assert_eq!(read.take_switch("e").unwrap(), Some(false));
    let wrong = || url("x://a?a=hidden");
    for error in [
        wrong().take_duration(&["a"]).unwrap_err(),
        wrong().take_number::<u16>("a").unwrap_err(),
        wrong().take_switch("a").unwrap_err(),
    ] {
        assert!(error.message().contains("parameter a "), "{error}");
        assert!(!error.message().contains("hidden"), "{error}");
    }
    assert!(
        url("x://a?a=99999999999999999999s")
            .take_duration(&["a"])
            .is_err()
    );
}

#[test]
fn nothing_that_may_be_a_secret_is_shown() {
    let text = format!("{:?}", url("x://hidden:hidden@hidden/hidden?hidden=hidden"));
    assert!(!text.contains("hidden"), "{text}");
    let show = |user: Option<&str>, password: Option<&str>| {
        let credentials = Credentials {
            user: user.map(str::to_owned),
            password: password.map(Secret::value),
        };
        let hosts = [Address::new("::1", 7), Address::new("b", 8)];
        Url::show("redis", &credentials, &hosts, &["main", "", "2"])
    };
    let rest = "[::1]:7,b:8/main/2";
    assert_eq!(show(None, None), format!("redis://{rest}"));
    assert_eq!(show(None, Some("p")), format!("redis://:***@{rest}"));
    assert_eq!(show(Some("u"), Some("p")), format!("redis://u:***@{rest}"));
    assert_eq!(show(Some("u"), None), format!("redis://***@{rest}"));
}
