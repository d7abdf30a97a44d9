use std::io;

use tenure_core::ErrorKind;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::environment::choose;
use super::forward::Proxy;

/// Which proxy `variables` name for the server, as text.
fn chosen(variables: &[(&str, &str)], scheme: &str, host: &str, port: u16) -> Option<String> {
    let variable = |name: &str| {
        let set = variables.iter().find(|(set, _)| *set == name);
        set.map(|(_, value)| (*value).to_owned())
    };
    let proxy = choose(&variable, scheme, host, port).unwrap();
    proxy.map(|proxy| proxy.to_string())
}

#[test]
fn the_variable_of_the_scheme_names_the_proxy() {
    let both = [("HTTPS_PROXY", "s:1"), ("HTTP_PROXY", "p:2")];
    let https = Some("the proxy http://s:1 of HTTPS_PROXY".to_owned());
    let http = Some("the proxy http://p:2 of HTTP_PROXY".to_owned());
    assert_eq!(chosen(&both, "https", "a", 443), https);
    assert_eq!(chosen(&both, "http", "a", 80), http);
    assert_eq!(chosen(&both[1..], "https", "a", 443), None);
    assert_eq!(chosen(&[], "https", "a", 443), None);
    assert_eq!(chosen(&[("ALL_PROXY", "s")], "https", "a", 443), None);
    let lower = [("HTTPS_PROXY", ""), ("https_proxy", "socks5h://s")];
    let socks = Some("the proxy socks5://s:1080 of https_proxy".to_owned());
    assert_eq!(chosen(&lower, "https", "a", 443), socks);
    let cgi = [("HTTP_PROXY", "p:2"), ("REQUEST_METHOD", "GET")];
    assert_eq!(chosen(&cgi, "http", "a", 80), None);
}

/// Each row was given to Go's `golang.org/x/net/http/httpproxy`, v0.61.0, with the same outcome.
#[test]
fn servers_are_excluded_as_in_go() {
    for (no_proxy, excluded, proxied) in [
        (
            "",
            &["localhost", "127.0.0.1", "127.9.9.9", "[::1]"][..],
            &["a", "10.0.0.1", "0.0.0.0"][..],
        ),
        ("*", &["a", "10.0.0.1"], &[]),
        ("a, *", &["b"], &[]),
        (
            "foo.com",
            &["foo.com", "FOO.com", "bar.foo.com"],
            &["barfoo.com", "foo.com.org", "com"],
        ),
        (".foo.com", &["bar.foo.com"], &["foo.com", "barfoo.com"]),
        ("*.foo.com", &["bar.foo.com", "a.b.foo.com"], &["foo.com"]),
        (",, foo.com ,", &["foo.com"], &["a"]),
        (
            "foo.com:6443",
            &["foo.com:6443", "a.foo.com:6443"],
            &["foo.com", "foo.com:443"],
        ),
        (".foo.com:443", &["a.foo.com"], &["a.foo.com:6443"]),
        ("foo.com:https", &[], &["foo.com"]),
        (
            "10.0.0.0/8",
            &["10.1.2.3", "10.1.2.3:6443"],
            &["11.0.0.1", "a"],
        ),
        ("10.1.2.3/8", &["10.9.9.9"], &["11.0.0.1"]),
        (
            "fd00::/8",
            &["[fd00::1]", "[fd12::1]:6443"],
            &["[fe80::1]", "10.0.0.1"],
        ),
        (
            "10.0.0.1",
            &["10.0.0.1", "10.0.0.1:6443", "[::ffff:10.0.0.1]"],
            &["10.0.0.2"],
        ),
        ("10.0.0.1:6443", &["10.0.0.1:6443"], &["10.0.0.1"]),
        ("[fd00::1]:6443", &["[fd00::1]:6443"], &["[fd00::1]"]),
        ("fd00::1", &["[fd00::1]"], &["[fd00::2]"]),
        ("0.0.1", &[], &["10.0.0.1"]),
        (":443", &[], &["a"]),
        ("10.0.0.0/99", &[], &["10.0.0.1"]),
    ] {
        let variables = [("HTTPS_PROXY", "p:1"), ("NO_PROXY", no_proxy)];
        let goes_through = |server: &str| {
            let server: http::Uri = format!("https://{server}/").parse().unwrap();
            let port = server.port_u16().unwrap_or(443);
            chosen(&variables, "https", server.host().unwrap(), port).is_some()
        };
        for server in excluded {
            assert!(!goes_through(server), "{no_proxy:?} excludes {server}");
        }
        for server in proxied {
            assert!(
                goes_through(server),
                "{no_proxy:?} does not exclude {server}"
            );
        }
    }
}

#[test]
fn a_wrong_proxy_is_refused_without_its_password_and_only_where_it_is_needed() {
    for (text, expected) in [
        ("ftp://u:secret@h", "http:// or socks5://"),
        ("https://u:secret@h", "http:// or socks5://"),
        ("u:secret@", "host"),
        ("u:secret@h:x", "host"),
        ("http://u:se/cret@h", "%2F"),
        ("http://u:secret@h,i", "several hosts"),
        (
            &format!("socks5://u:{}@h", "secret".repeat(99)),
            "255 bytes",
        ),
    ] {
        let named = |_: &str| Some(text.to_owned());
        let error = choose(
            &|name| named(name).filter(|_| name == "HTTPS_PROXY"),
            "https",
            "a",
            1,
        );
        let error = error.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Misconfigured);
        let message = error.message();
        assert!(message.contains("HTTPS_PROXY"), "{message}");
        assert!(message.contains(expected), "{message}");
        assert!(!message.contains("cret"), "{message}");
        assert_eq!(
            chosen(&[("HTTPS_PROXY", text)], "https", "localhost", 1),
            None
        );
    }
    let proxy = Proxy::parse("HTTPS_PROXY", "ann:secret@h").unwrap();
    for shown in [format!("{proxy:?}"), proxy.to_string()] {
        assert!(
            !shown.contains("secret") && !shown.contains("ann"),
            "{shown}"
        );
    }
}

/// A proxy that reads so many bytes and answers with those, one step after the other: what it has
/// read, and what then comes of the connection.
async fn told(url: &str, host: &str, steps: &[(usize, &[u8])]) -> (Vec<u8>, io::Result<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = url.replace("PROXY", &listener.local_addr().unwrap().to_string());
    let proxy = Proxy::parse("HTTPS_PROXY", &url).unwrap();
    let serving = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut asked = Vec::new();
        for (length, answer) in steps {
            let mut part = vec![0; *length];
            stream.read_exact(&mut part).await.unwrap();
            asked.extend(part);
            stream.write_all(answer).await.unwrap();
        }
        stream.shutdown().await.unwrap();
        // Without it what is unread would reset the connection before the answer is read.
        let _rest = stream.read_to_end(&mut Vec::new()).await;
        asked
    };
    let connecting = async {
        let mut stream = proxy.connect(host, 6443).await?;
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await?;
        Ok(rest)
    };
    tokio::join!(serving, connecting)
}

#[tokio::test]
async fn a_tunnel_is_asked_for_and_what_the_server_says_first_is_kept() {
    let expected = "CONNECT kube.example:6443 HTTP/1.1\r\nHost: kube.example:6443\r\n\
                    Proxy-Authorization: Basic YW5uOnBAc3M=\r\n\r\n";
    let answer = b"HTTP/1.1 200 OK\r\nx: y\r\n\r\nfrom the server";
    let steps = [(expected.len(), &answer[..])];
    let (asked, rest) = told("http://ann:p%40ss@PROXY", "kube.example", &steps).await;
    assert_eq!(String::from_utf8_lossy(&asked), expected);
    assert_eq!(rest.unwrap(), b"from the server");
}

#[tokio::test]
async fn a_refusal_says_what_the_proxy_said_and_what_to_do() {
    let forbidden = "\"HTTP/1.1 403 Forbidden\"; allow the server there";
    for (answer, expected) in [
        ("HTTP/1.1 403 Forbidden\r\n\r\n", forbidden),
        ("HTTP/1.0 407 Login\r\n\r\n", "write the user and password"),
        ("SSH-2.0-x\r\n\r\n", "does not answer as an HTTP proxy does"),
        ("HTTP/1.1 200 OK\r\n", "it closed the connection"),
    ] {
        let (_asked, rest) = told("http://PROXY", "10.0.0.1", &[(7, answer.as_bytes())]).await;
        let text = rest.unwrap_err().to_string();
        assert!(text.contains("does not connect to 10.0.0.1:6443"), "{text}");
        assert!(text.contains(expected), "{text}");
    }
}

#[tokio::test]
async fn a_socks_proxy_is_asked_by_name_or_number_with_or_without_a_login() {
    let reply = b"\x05\0\0\x03\x02ab\0\0from the server";
    let steps: [(usize, &[u8]); 3] = [(4, &[5, 2]), (10, &[1, 0]), (11, reply)];
    let (asked, rest) = told("socks5://ann:p%40ss@PROXY", "kube", &steps).await;
    let expected = b"\x05\x02\0\x02\x01\x03ann\x04p@ss\x05\x01\0\x03\x04kube\x19\x2b";
    assert_eq!(asked, expected);
    assert_eq!(rest.unwrap(), b"from the server");

    let steps: [(usize, &[u8]); 2] = [(3, &[5, 0]), (10, &[5, 2, 0, 1, 0, 0, 0, 0, 0, 0])];
    let (asked, rest) = told("socks5://PROXY", "10.0.0.1", &steps).await;
    assert_eq!(asked, b"\x05\x01\0\x05\x01\0\x01\x0a\0\0\x01\x19\x2b");
    let text = rest.unwrap_err().to_string();
    assert!(text.contains("2, not allowed by its rules"), "{text}");

    let (_asked, rest) = told("socks5://PROXY", "::1", &[(3, &[5, 0xff])]).await;
    let text = rest.unwrap_err().to_string();
    assert!(text.contains("write the user and password"), "{text}");
}
