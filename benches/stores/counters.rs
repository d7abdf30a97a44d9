//! What each store says it has been asked so far.

use std::env;

use http_body_util::BodyExt as _;
use tenure_kube::kube;
use tenure_kube::kube::config::{KubeConfigOptions, Kubeconfig};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::place::Place;

/// A store's own count of requests. Asking it costs the same at each look, and is taken off.
pub(crate) enum Counter {
    /// `INFO commandstats`
    Redis { address: String },
    /// Messages that the server has got, those on open streams too.
    Etcd { address: String },
    /// `pg_stat_statements`
    Postgres { url: String },
    /// Requests answered for this kind of object.
    Kube {
        kubeconfig: String,
        resource: &'static str,
    },
}

impl Counter {
    pub(crate) fn of(place: &Place) -> Option<Self> {
        let address = || {
            let (_, rest) = place.url.split_once("://")?;
            Some(rest.split(['/', ',', '?']).next()?.to_owned())
        };
        let kube = |resource| {
            let kubeconfig = env::var("TENURE_TEST_KUBECONFIG").ok()?;
            Some(Self::Kube {
                kubeconfig,
                resource,
            })
        };
        match place.name {
            "redis" => Some(Self::Redis {
                address: address()?,
            }),
            "etcd" => Some(Self::Etcd {
                address: address()?,
            }),
            "postgres" => {
                let url = env::var("TENURE_TEST_POSTGRES_ADMIN_URL").ok()?;
                Some(Self::Postgres { url })
            }
            "kube-lease" => kube("leases"),
            "kube-configmap" => kube("configmaps"),
            _ => None,
        }
    }

    pub(crate) async fn read(&self) -> f64 {
        match self {
            Self::Redis { address } => redis(address).await,
            Self::Etcd { address } => etcd(address).await,
            Self::Postgres { url } => postgres(url).await,
            Self::Kube {
                kubeconfig,
                resource,
            } => kube(kubeconfig, resource).await,
        }
    }
}

async fn ask(address: &str, question: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(question.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

async fn redis(address: &str) -> f64 {
    // QUIT ends the answer. A script's inner commands are counted too, which are no requests.
    let answer = ask(address, "INFO commandstats\r\nQUIT\r\n").await;
    let mut calls = 0.0;
    for line in answer.lines() {
        let Some((command, rest)) = line
            .strip_prefix("cmdstat_")
            .and_then(|rest| rest.split_once(":calls="))
        else {
            continue;
        };
        if matches!(command, "info" | "quit") || INSIDE.contains(&command) {
            continue;
        }
        let count = rest.split(',').next().unwrap_or_default();
        calls += count.parse::<f64>().unwrap();
    }
    calls
}

/// What the scripts call; a candidate calls none of it by itself.
const INSIDE: [&str; 7] = ["del", "get", "pexpire", "pttl", "publish", "set", "time"];

async fn etcd(address: &str) -> f64 {
    let question = format!("GET /metrics HTTP/1.0\r\nHost: {address}\r\n\r\n");
    let answer = ask(address, &question).await;
    sum(&answer, |line| {
        line.starts_with("grpc_server_msg_received_total{")
    })
}

async fn postgres(url: &str) -> f64 {
    let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls)
        .await
        .unwrap();
    let connection = tokio::spawn(connection);
    client
        .batch_execute("CREATE EXTENSION IF NOT EXISTS pg_stat_statements")
        .await
        .unwrap();
    let ask = "SELECT coalesce(sum(calls), 0)::float8 FROM pg_stat_statements \
        WHERE query NOT LIKE '%pg_stat_statements%'";
    let row = client.query_one(ask, &[]).await.unwrap();
    drop(client);
    let _ended = connection.await;
    row.get(0)
}

async fn kube(kubeconfig: &str, resource: &str) -> f64 {
    let read = Kubeconfig::read_from(kubeconfig).unwrap();
    let options = KubeConfigOptions::default();
    let config = kube::Config::from_custom_kubeconfig(read, &options).await;
    let client = kube::Client::try_from(config.unwrap()).unwrap();
    let request = http::Request::builder().uri("/metrics");
    let request = request.body(kube::client::Body::empty()).unwrap();
    let response = client.send(request).await.unwrap();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let label = format!("resource=\"{resource}\"");
    sum(&String::from_utf8_lossy(&body), |line| {
        line.starts_with("apiserver_request_total{") && line.contains(&label)
    })
}

fn sum(metrics: &str, counts: impl Fn(&str) -> bool) -> f64 {
    let lines = metrics.lines().filter(|line| counts(line));
    lines
        .map(|line| line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap())
        .sum()
}
