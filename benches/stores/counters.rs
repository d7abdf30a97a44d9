//! What differs by store: its own count of requests, and what its URL needs here.

use std::env;
use std::process::Command;

use http_body_util::BodyExt as _;
use tenure_kube::kube;
use tenure_kube::kube::config::{KubeConfigOptions, Kubeconfig};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// What `cargo xtask stores env` says.
pub(crate) fn variable(name: &str) -> Option<String> {
    env::var(format!("TENURE_TEST_{name}")).ok()
}

/// Nobody led before on a server that was just started, so the backend need not wait for such a
/// leader's lease.
pub(crate) fn parameters(name: &str) -> &'static str {
    if name == "postgres" {
        "?quarantine=off"
    } else {
        ""
    }
}

/// A store's own count of requests. Asking it costs the same at each look, and is taken off.
#[derive(Clone, Debug)]
pub(crate) enum Counter {
    /// By the URL of the store.
    Redis(String),
    Etcd(String),
    /// By the URL of the superuser.
    Postgres(String),
    /// By a kubeconfig, for this kind of object.
    Kube(String, &'static str),
}

impl Counter {
    /// Of the store with this name and URL.
    pub(crate) fn of(name: &str, url: &str) -> Option<Self> {
        let kube = |resource| Some(Self::Kube(variable("KUBECONFIG")?, resource));
        match name {
            "redis" => Some(Self::Redis(url.to_owned())),
            "etcd" => Some(Self::Etcd(url.to_owned())),
            "postgres" => variable("POSTGRES_ADMIN_URL").map(Self::Postgres),
            "kube-lease" => kube("leases"),
            "kube-configmap" => kube("configmaps"),
            _ => None,
        }
    }

    /// What it counts, for the report.
    pub(crate) fn source(&self) -> &'static str {
        match self {
            Self::Redis(_) => "`INFO commandstats`, without what scripts call inside",
            Self::Etcd(_) => "`grpc_server_msg_received_total`",
            Self::Postgres(_) => "`pg_stat_statements`",
            Self::Kube(..) => {
                "`apiserver_request_total` of its resource; a watch counts when it ends"
            }
        }
    }

    pub(crate) async fn read(&self) -> f64 {
        match self {
            // QUIT ends the answer.
            Self::Redis(url) => commands(&ask(url, "INFO commandstats\r\nQUIT\r\n").await),
            Self::Etcd(url) => {
                let answer = ask(url, "GET /metrics HTTP/1.0\r\nHost: etcd\r\n\r\n").await;
                sum(&answer, |line| {
                    line.starts_with("grpc_server_msg_received_total{")
                })
            }
            Self::Postgres(url) => statements(url),
            Self::Kube(kubeconfig, resource) => {
                let label = format!("resource=\"{resource}\"");
                sum(&api_metrics(kubeconfig).await, |line| {
                    line.starts_with("apiserver_request_total{") && line.contains(&label)
                })
            }
        }
    }
}

/// What the server of this URL answers until it closes.
async fn ask(url: &str, question: &str) -> String {
    let (_, rest) = url.split_once("://").unwrap();
    let address = rest.split(['/', ',', '?']).next().unwrap();
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(question.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

/// What scripts call inside, and this question; a candidate sends none of it by itself.
const NO_REQUESTS: [&str; 9] = [
    "del", "get", "info", "pexpire", "pttl", "publish", "quit", "set", "time",
];

fn commands(stats: &str) -> f64 {
    let count = |line: &str| {
        let (command, rest) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
        let count = rest.split(',').next()?.parse::<f64>().ok()?;
        (!NO_REQUESTS.contains(&command)).then_some(count)
    };
    stats.lines().filter_map(count).sum()
}

fn statements(url: &str) -> f64 {
    let ask = "CREATE EXTENSION IF NOT EXISTS pg_stat_statements; \
        SELECT coalesce(sum(calls), 0)::float8 FROM pg_stat_statements \
        WHERE query NOT LIKE '%pg_stat_statements%'";
    let asked = Command::new("psql").args([url, "-qtAc", ask]).output();
    let answer = String::from_utf8(asked.unwrap().stdout).unwrap();
    answer.trim().parse().unwrap()
}

async fn api_metrics(kubeconfig: &str) -> String {
    let read = Kubeconfig::read_from(kubeconfig).unwrap();
    let options = KubeConfigOptions::default();
    let config = kube::Config::from_custom_kubeconfig(read, &options).await;
    let client = kube::Client::try_from(config.unwrap()).unwrap();
    let request = http::Request::get("/metrics").body(kube::client::Body::empty());
    let response = client.send(request.unwrap()).await.unwrap();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8_lossy(&body).into_owned()
}

fn sum(metrics: &str, counts: impl Fn(&str) -> bool) -> f64 {
    let lines = metrics.lines().filter(|line| counts(line));
    lines
        .map(|line| line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap())
        .sum()
}
