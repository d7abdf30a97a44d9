//! A server behind a forward proxy. The tests run a process with the environment that they are
//! about; it takes part in an election and says how that went.
#![cfg(any(feature = "ring", feature = "aws-lc-rs"))]
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::net::SocketAddr;

use tempfile::TempDir;
use tenure_core::LockBackend as _;
use tenure_etcd::{EtcdBackend, EtcdConfig};
use tenure_testkit::certificates::Authority;
use tenure_testkit::etcd::{Cluster, launch, start};
use tenure_testkit::forward_proxy::{ForwardProxy, PASSWORD};
use tenure_testkit::process::Again;
use tenure_testkit::{LONG, candidate, held, lock, renewed};

/// The URL for [`a_process_that_takes_part`].
const URL: &str = "TENURE_TEST_PROXIED_URL";

/// Does nothing unless another test has started it as a process.
#[tokio::test]
async fn a_process_that_takes_part() {
    let Ok(url) = std::env::var(URL) else { return };
    let config = EtcdConfig::from_url(&url).unwrap();
    match EtcdBackend::connect(config).await {
        Ok(backend) => {
            let us = candidate("us", fastrand::u64(1..));
            let name = lock(&format!("proxied-{:x}", fastrand::u64(..)));
            let grant = held(backend.acquire(&name, &us, LONG).await.unwrap());
            let renewal = backend.renew(&grant, backend.clock().now()).await.unwrap();
            backend.release(&renewed(renewal)).await.unwrap();
            println!("outcome: led");
        }
        Err(error) => println!("outcome: {error:?} {error}"),
    }
}

/// How it went for a process with this URL and more in its environment.
fn outcome(url: &str, environment: &[(&str, &str)]) -> String {
    let cleared = ["https_proxy", "no_proxy", "HTTPS_PROXY", "NO_PROXY"];
    let mut all: Vec<_> = cleared.map(|name| (name, String::new())).into();
    let more = environment.iter();
    all.extend(more.map(|(name, value)| (*name, (*value).to_owned())));
    all.push((URL, url.to_owned()));
    Again::start("a_process_that_takes_part", &all).says("outcome:")
}

fn address(cluster: &Cluster) -> SocketAddr {
    cluster.members[0].address().parse().unwrap()
}

#[test]
fn the_proxy_of_the_environment_leads_to_the_server_unless_it_is_excluded() {
    let Some(cluster) = start() else { return };
    let (server, port) = (address(&cluster), address(&cluster).port());
    let url = format!("etcd://etcd.invalid:{port}");
    for scheme in ["http", "socks5"] {
        let proxy = ForwardProxy::start(server);
        let environment = [("HTTPS_PROXY", &*proxy.url(scheme))];
        assert_eq!(outcome(&url, &environment), "led", "{scheme}");
        let (asked, expected) = (proxy.asked(), format!("etcd.invalid:{port}"));
        assert!(asked.contains(&expected), "{asked:?}");
    }
    let proxy = ForwardProxy::start(server);
    // To connect to it is to connect to this host, by a number that is no loopback one.
    let url = format!("etcd://0.0.0.0:{port}");
    let environment = [
        ("HTTPS_PROXY", &*proxy.url("http")),
        ("NO_PROXY", "0.0.0.0/8"),
    ];
    assert_eq!(outcome(&url, &environment), "led");
    assert_eq!(proxy.asked().len(), 0, "{:?}", proxy.asked());
    let environment = [("HTTPS_PROXY", &*proxy.url("http").replace("ann", "joe"))];
    let told = outcome(&url, &environment);
    assert!(
        told.contains("407") && told.contains("HTTPS_PROXY"),
        "{told}"
    );
    assert!(!told.contains(PASSWORD), "{told}");
}

#[test]
fn tls_goes_through_the_proxy_too() {
    let dir = TempDir::new().unwrap();
    let authority = Authority::new(&dir.path().join("ours"));
    let (cert, key) = authority.certificate("server", &["localhost"]);
    let ca = authority.ca().to_str().unwrap().to_owned();
    let arguments = [
        "--cert-file",
        cert.to_str().unwrap(),
        "--key-file",
        key.to_str().unwrap(),
    ];
    let flags = [
        format!("--cacert={ca}"),
        "--insecure-skip-tls-verify".to_owned(),
    ];
    let Some(cluster) = launch(1, &arguments, "https", &flags, dir) else {
        return;
    };
    let proxy = ForwardProxy::start(address(&cluster));
    let port = address(&cluster).port();
    let url = format!("etcds://etcd.invalid:{port}?ca={ca}&server_name=localhost");
    let environment = [("HTTPS_PROXY", &*proxy.url("http"))];
    assert_eq!(outcome(&url, &environment), "led");
    assert!(!proxy.asked().is_empty());
}
