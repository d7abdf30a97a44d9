//! A real API server behind a forward proxy. The tests run a process with the environment that
//! they are about; it takes part in an election and says how that went.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::path::Path;

use serde_json::json;
use tenure_core::LockBackend as _;
use tenure_kube::KubeConfig;
use tenure_kube_lease::connect;
use tenure_testkit::forward_proxy::{ForwardProxy, PASSWORD};
use tenure_testkit::kube::Server;
use tenure_testkit::process::Again;
use tenure_testkit::{LONG, candidate, held, lock};

/// The kubeconfig or the address, for [`a_process_that_takes_part`].
const URL: &str = "TENURE_TEST_PROXIED_URL";

/// Does nothing unless another test has started it as a process.
#[tokio::test]
async fn a_process_that_takes_part() {
    let Ok(url) = std::env::var(URL) else { return };
    let config = KubeConfig::from_url("kube-lease", &url).unwrap();
    match connect(config).await {
        Ok(backend) => {
            let us = candidate("us", fastrand::u64(1..));
            let name = lock(&format!("proxied-{:x}", fastrand::u64(..)));
            let grant = held(backend.acquire(&name, &us, LONG).await.unwrap());
            backend.release(&grant).await.unwrap();
            println!("outcome: led");
        }
        Err(error) => println!("outcome: {error:?} {error}"),
    }
}

/// How it went for a process with this URL and more in its environment.
fn outcome(url: &str, environment: &[(&str, &str)]) -> String {
    let cleared = [
        "http_proxy",
        "https_proxy",
        "no_proxy",
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "NO_PROXY",
    ];
    let mut all: Vec<_> = cleared.map(|name| (name, String::new())).into();
    all.extend(
        environment
            .iter()
            .map(|(name, value)| (*name, (*value).to_owned())),
    );
    all.push((URL, url.to_owned()));
    Again::start("a_process_that_takes_part", &all).says("outcome:")
}

/// A URL to the server by a host that is no loopback name, so that a proxy counts.
fn url(server: &Server, host: &str) -> String {
    let (ca, token_file) = (server.ca.display(), server.token_file.display());
    format!(
        "kube-lease://{}?server=https://{host}:{}&ca={ca}&token_file={token_file}\
         &server_name=localhost",
        server.namespace,
        server.address().port()
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn the_proxies_of_the_environment_lead_to_the_api_server() {
    let Some(server) = Server::start().await else {
        return;
    };
    let url = url(&server, "kube.invalid");
    let asked = format!("kube.invalid:{}", server.address().port());
    for scheme in ["http", "socks5"] {
        for variable in ["HTTPS_PROXY", "https_proxy"] {
            let proxy = ForwardProxy::start(server.address());
            assert_eq!(
                outcome(&url, &[(variable, &proxy.url(scheme))]),
                "led",
                "{scheme}"
            );
            let all = proxy.asked();
            assert!(
                !all.is_empty() && all.iter().all(|one| *one == asked),
                "{all:?}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_proxy_excludes_the_api_server() {
    let Some(server) = Server::start().await else {
        return;
    };
    let proxy = ForwardProxy::start(server.address());
    // To connect to it is to connect to this host, by a number that is no loopback one.
    let url = url(&server, "0.0.0.0");
    let named = proxy.url("http");
    assert_eq!(outcome(&url, &[("HTTPS_PROXY", &named)]), "led");
    let before = proxy.asked().len();
    assert_ne!(before, 0, "the proxy counts");
    let port = format!("0.0.0.0:{}", server.address().port());
    for excluded in ["*", "a.example,0.0.0.0", "0.0.0.0/8", &port] {
        let environment = [("HTTPS_PROXY", &*named), ("NO_PROXY", excluded)];
        assert_eq!(outcome(&url, &environment), "led", "{excluded}");
    }
    // Not even where it is wrong.
    let wrong = [("HTTPS_PROXY", "ftp://nobody"), ("NO_PROXY", "0.0.0.0")];
    assert_eq!(outcome(&url, &wrong), "led");
    assert_eq!(proxy.asked().len(), before, "{:?}", proxy.asked());
}

fn write_kubeconfig(file: &Path, server: &Server, host: &str, proxy: Option<&str>) {
    let mut cluster = json!({
        "server": format!("https://{host}:{}", server.address().port()),
        "certificate-authority": server.ca,
        "tls-server-name": "localhost",
    });
    if let Some(proxy) = proxy {
        cluster["proxy-url"] = json!(proxy);
    }
    let kubeconfig = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "us",
        "clusters": [{ "name": "test", "cluster": cluster }],
        "users": [{ "name": "us", "user": { "tokenFile": server.token_file } }],
        "contexts": [{ "name": "us", "context": { "cluster": "test", "user": "us" } }],
    });
    std::fs::write(file, kubeconfig.to_string()).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_proxy_of_a_kubeconfig_counts_whatever_the_environment_says() {
    let Some(server) = Server::start().await else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config");
    let url = format!(
        "kube-lease://{}?kubeconfig={}",
        server.namespace,
        file.display()
    );
    for scheme in ["http", "socks5"] {
        let proxy = ForwardProxy::start(server.address());
        let other = ForwardProxy::start(server.address());
        write_kubeconfig(&file, &server, "kube.invalid", Some(&proxy.url(scheme)));
        let environment = [("HTTPS_PROXY", &*other.url("http")), ("NO_PROXY", "*")];
        assert_eq!(outcome(&url, &environment), "led", "{scheme}");
        assert!(!proxy.asked().is_empty());
        assert_eq!(other.asked().len(), 0);
    }
    // Without one that of the environment counts.
    let proxy = ForwardProxy::start(server.address());
    write_kubeconfig(&file, &server, "kube.invalid", None);
    assert_eq!(outcome(&url, &[("HTTPS_PROXY", &proxy.url("http"))]), "led");
    assert!(!proxy.asked().is_empty());
}

/// As kubectl does it.
#[tokio::test(flavor = "multi_thread")]
async fn files_that_are_missing_are_skipped_in_a_list_of_kubeconfigs() {
    let Some(server) = Server::start().await else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let [there, missing] = ["there", "missing"].map(|name| dir.path().join(name));
    write_kubeconfig(&there, &server, "127.0.0.1", None);
    let url = format!("kube-lease://{}", server.namespace);
    let list = |files: &[&Path]| {
        let list = std::env::join_paths(files).unwrap();
        list.into_string().unwrap()
    };
    for files in [[&*missing, &*there], [&*there, &*missing]] {
        assert_eq!(
            outcome(&url, &[("KUBECONFIG", &list(&files))]),
            "led",
            "{files:?}"
        );
    }
    let told = outcome(&url, &[("KUBECONFIG", &list(&[&missing, &missing]))]);
    assert!(
        told.contains("Misconfigured") && told.contains("missing"),
        "{told}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_names_the_proxy_and_never_its_password() {
    let Some(server) = Server::start().await else {
        return;
    };
    let proxy = ForwardProxy::start(server.address());
    let url = url(&server, "kube.invalid");
    let good = proxy.url("http");
    let address = good.rsplit('@').next().unwrap();
    for (wrong, expected) in [
        (good.replace("ann", "joe"), "407"),
        (
            proxy.url("socks5").replace("ann", "joe"),
            "refuses the user and password",
        ),
        (
            format!("http://ann:{PASSWORD}@127.0.0.1:1"),
            "cannot reach the proxy http://127.0.0.1:1",
        ),
        (proxy.url("https"), "http:// or socks5://"),
        (format!("{good}/?#"), "HTTPS_PROXY"),
    ] {
        let told = outcome(&url, &[("HTTPS_PROXY", &wrong)]);
        assert!(told.contains(expected), "{told}");
        assert!(told.contains("HTTPS_PROXY"), "{told}");
        assert!(!told.contains(PASSWORD), "{told}");
    }
    let told = outcome(&url, &[("HTTPS_PROXY", &good.replace("ann", "joe"))]);
    assert!(
        told.contains(address) && told.contains("NO_PROXY"),
        "{told}"
    );
    assert_eq!(proxy.asked().len(), 0);
}
