//! A store's own servers, and how clients reach them: straight through the network, or through a
//! proxy that resets, refuses and delays.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::ValueEnum;
use tenure_conformance::proxy::{FaultProxy, Way};
use tenure_testkit::kube::private_api::PrivateApi;
use tenure_testkit::postgres::PASSWORD;
use tenure_testkit::{etcd, postgres, redis};
use tokio::task::block_in_place;

use crate::namespaces::SERVERS;

/// Which store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Kind {
    /// One Redis server.
    Redis,
    /// One etcd member; three after a restart.
    Etcd,
    /// Leases of an API server.
    KubeLease,
    /// `ConfigMaps` of an API server.
    KubeConfigmap,
    /// One Postgres server.
    Postgres,
}

impl Kind {
    /// Whether a lock ends with its connection.
    pub(crate) fn ends_with_session(self) -> bool {
        self == Self::Postgres
    }
}

/// The servers themselves.
enum Servers {
    Redis(redis::Server),
    Etcd(etcd::Cluster),
    Kubernetes(Box<PrivateApi>),
    Postgres(postgres::Server),
}

/// A running store.
pub(crate) struct Store {
    kind: Kind,
    servers: Servers,
    proxy: FaultProxy,
    folder: PathBuf,
    quarantine: bool,
}

/// How a store's servers are started.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Setup {
    /// Redis syncs its file with each write; without it a restart forgets everything.
    pub(crate) durable: bool,
    /// Postgres observes its quarantine after a start, as it does by default.
    pub(crate) quarantine: bool,
    /// Members of etcd.
    pub(crate) members: usize,
}

impl Store {
    /// Starts the servers. `folder` is removed after the run.
    pub(crate) async fn start(kind: Kind, setup: Setup, folder: &Path) -> Result<Self> {
        let missing = || {
            format!(
                "this machine has no server for {}",
                crate::cell::name(&kind)
            )
        };
        let servers = match kind {
            Kind::Redis => {
                let both = SERVERS.to_string();
                let mut arguments = vec!["--bind", "127.0.0.1", &both, "--protected-mode", "no"];
                if setup.durable {
                    arguments.extend(["--appendonly", "yes", "--appendfsync", "always"]);
                }
                block_in_place(|| redis::start(&arguments)).map(Servers::Redis)
            }
            Kind::Etcd => {
                let urls = ["127.0.0.1", &SERVERS.to_string()]
                    .map(|host| format!("http://{host}:{{port}}"));
                let listen = format!("--listen-client-urls={}", urls.join(","));
                let members = setup.members.max(1);
                block_in_place(|| etcd::start_with(members, &[&listen])).map(Servers::Etcd)
            }
            Kind::KubeLease | Kind::KubeConfigmap => {
                let api = PrivateApi::start_with(&["--bind-address=0.0.0.0"]).await;
                api.map(|api| Servers::Kubernetes(Box::new(api)))
            }
            Kind::Postgres => {
                let hba = folder.join("pg_hba.conf");
                fs::write(&hba, "host all all all scram-sha-256\n")?;
                let settings = [
                    format!("listen_addresses=127.0.0.1,{SERVERS}"),
                    format!("hba_file={}", hba.display()),
                    "max_connections=1500".to_owned(),
                ];
                let settings = settings.each_ref().map(String::as_str);
                block_in_place(|| postgres::start(&settings)).map(Servers::Postgres)
            }
        };
        let servers = servers.with_context(missing)?;
        let port = port(&servers);
        Ok(Self {
            kind,
            servers,
            proxy: FaultProxy::start(SocketAddr::from(([127, 0, 0, 1], port)))?,
            folder: folder.to_owned(),
            quarantine: setup.quarantine,
        })
    }

    /// Where clients in another namespace reach it.
    pub(crate) fn address(&self) -> SocketAddr {
        (SERVERS, port(&self.servers)).into()
    }

    /// Where clients in the servers' own namespace reach the proxy.
    pub(crate) fn proxied(&self) -> SocketAddr {
        self.proxy.address()
    }

    /// The ports of all servers.
    pub(crate) fn ports(&self) -> Vec<u16> {
        match &self.servers {
            Servers::Etcd(cluster) => cluster.members.iter().map(|member| member.port).collect(),
            other => vec![port(other)],
        }
    }

    /// The URL for our backends.
    pub(crate) fn url(&self, address: SocketAddr) -> String {
        match &self.servers {
            Servers::Redis(_) => format!("redis://{address}"),
            Servers::Etcd(cluster) if cluster.members.len() > 1 => {
                let members = cluster.members.iter();
                let all = members.map(|member| format!("{}:{}", address.ip(), member.port));
                format!("etcd://{}", all.collect::<Vec<_>>().join(","))
            }
            Servers::Etcd(_) => format!("etcd://{address}"),
            Servers::Kubernetes(api) => format!(
                "{}://default?server=https://{address}&server_name=localhost&ca={}&token_file={}",
                crate::cell::name(&self.kind),
                api.server.ca.display(),
                api.server.token_file.display()
            ),
            Servers::Postgres(_) => {
                let quarantine = if self.quarantine { "on" } else { "off" };
                format!(
                    "postgres://app:{PASSWORD}@{address}/postgres?sslmode=disable&quarantine={quarantine}"
                )
            }
        }
    }

    /// A kubeconfig for other libraries.
    pub(crate) fn kubeconfig(&self, address: SocketAddr) -> Result<PathBuf> {
        let Servers::Kubernetes(api) = &self.servers else {
            anyhow::bail!("this elector is for Kubernetes alone");
        };
        let file = self.folder.join(format!("kubeconfig-{address}"));
        let text = api.server.kubeconfig();
        let here = format!("\"{}\"", api.server.url);
        let there = format!("\"https://{address}\",\"tls-server-name\":\"localhost\"");
        fs::write(&file, text.replace(&here, &there))?;
        Ok(file)
    }

    /// Resets all connections through the proxy and refuses new ones, or accepts them again.
    pub(crate) async fn cut(&self, cut: bool) {
        self.proxy.refuse(cut).await;
        if cut {
            self.proxy.reset();
        }
    }

    /// Answers through the proxy take so long.
    pub(crate) fn delay(&self, delay: Duration) {
        self.proxy.delay(Way::Answers, delay);
    }

    /// Ends all servers as a crash would; Postgres without its last checkpoint.
    pub(crate) fn crash(&mut self) {
        block_in_place(|| match &mut self.servers {
            Servers::Redis(server) => server.kill(),
            Servers::Etcd(cluster) => {
                for member in &mut cluster.members {
                    member.kill();
                }
            }
            Servers::Kubernetes(api) => api.kill(),
            Servers::Postgres(server) => server.stop("QUIT"),
        });
    }

    /// Starts all servers again, and waits until they serve.
    pub(crate) async fn start_again(&mut self) {
        match &mut self.servers {
            Servers::Kubernetes(api) => api.start_again().await,
            Servers::Redis(server) => block_in_place(|| server.restart()),
            Servers::Postgres(server) => block_in_place(|| server.restart()),
            Servers::Etcd(cluster) => block_in_place(|| {
                for member in &mut cluster.members {
                    member.restart();
                }
                cluster.wait();
            }),
        }
    }
}

fn port(servers: &Servers) -> u16 {
    match servers {
        Servers::Redis(server) => server.port,
        Servers::Etcd(cluster) => cluster.members[0].port,
        Servers::Kubernetes(api) => api.server.address().port(),
        Servers::Postgres(server) => server.port,
    }
}
