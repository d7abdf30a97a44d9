use std::fs;

use super::*;

const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
const KEY: &str = "-----BEGIN EC PRIVATE KEY-----\nAAAA\n-----END EC PRIVATE KEY-----\n";

#[test]
fn settings_are_taken_from_a_url_by_any_of_their_names() {
    let own = TlsNames {
        ca: &["sslrootcert"],
        client_cert: &["cert", "sslcert"],
        client_key: &["key"],
        server_name: &[],
    };
    let take = |text: &str| {
        let mut url = Url::parse(text).unwrap();
        let tls = Tls::take_from(&mut url, own)?;
        url.finish()?;
        Ok::<_, Error>(tls)
    };
    let expected = Tls::new()
        .ca("/a")
        .client_cert("/c")
        .client_key("/k")
        .server_name("n");
    let ours = take("x://h?ca=/a&client_cert=/c&client_key=/k&server_name=n");
    assert_eq!(ours.unwrap(), expected);
    let theirs = take("x://h?sslrootcert=/a&cert=/c&key=/k&server_name=n");
    assert_eq!(theirs.unwrap(), expected);
    assert_eq!(take("x://h").unwrap().first_setting(), None);
    for (text, part) in [
        ("x://h?cert=/c", "belong together"),
        ("x://h?client_key=/k", "belong together"),
        ("x://h?ca=", "is empty"),
        (
            "x://h?cert=/c&client_cert=/c&key=/k",
            "client_cert and cert",
        ),
    ] {
        let error = take(text).unwrap_err();
        assert!(error.message().contains(part), "{text}: {error}");
    }
}

#[tokio::test]
async fn files_are_read_anew_and_an_error_names_setting_and_file() {
    let directory = tempfile::tempdir().unwrap();
    let [ca, cert, key] = ["ca.pem", "cert.pem", "key.pem"].map(|name| directory.path().join(name));
    let tls = Tls::new().ca(&ca).client_cert(&cert).client_key(&key);
    let read = async || tls.read::<std::convert::Infallible>().await;
    let problem = async || read().await.unwrap_err().to_string();
    let text = problem().await;
    assert!(
        text.starts_with("ca: ") && text.contains("ca.pem cannot be read"),
        "{text}"
    );
    fs::write(&ca, KEY).unwrap();
    let text = problem().await;
    assert!(text.contains("ca.pem holds no certificate"), "{text}");
    fs::write(&ca, CERTIFICATE).unwrap();
    fs::write(&cert, CERTIFICATE).unwrap();
    fs::write(&key, CERTIFICATE).unwrap();
    let text = problem().await;
    assert!(
        text.starts_with("client_key: ") && text.contains("no private key"),
        "{text}"
    );
    fs::write(&key, KEY).unwrap();
    let material = read().await.unwrap();
    assert_eq!(material.client_key.as_deref(), Some(KEY.as_bytes()));
    assert_eq!(format!("{material:?}"), "TlsMaterial { .. }");
}

#[cfg(feature = "ring")]
#[tokio::test]
async fn a_client_is_built_and_what_is_no_certificate_is_named() {
    let built = Tls::new()
        .client_config::<std::convert::Infallible>(None)
        .await;
    assert!(built.is_ok());
    let directory = tempfile::tempdir().unwrap();
    let ca = directory.path().join("ca.pem");
    fs::write(&ca, CERTIFICATE).unwrap();
    let built = Tls::new()
        .ca(&ca)
        .client_config::<std::convert::Infallible>(None)
        .await;
    let error = built.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Misconfigured);
    assert!(error.message().contains("ca.pem"), "{error}");
}
