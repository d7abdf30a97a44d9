//! Stores with a password that a test searches for in all that it sees.

use std::fs;
use std::path::Path;

use crate::kube::Server as KubeServer;
use crate::{etcd, postgres, redis};

/// The password that opens each store.
pub const SECRET: &str = postgres::PASSWORD;

/// One that opens none. It is no less a secret: people mistype a part of the right one.
pub const WRONG: &str = "wrong-horse-battery";

/// A store with a password, and URLs that hold one or name a file with one.
#[derive(Debug)]
pub struct Planted {
    /// The scheme of its URLs.
    pub name: &'static str,
    /// With the right password.
    pub right: String,
    /// URLs that fail, each with what is wrong with it.
    pub fails: Vec<(&'static str, String)>,
    secrets: Vec<String>,
    server: Server,
}

/// Each ends when it is dropped.
#[derive(Debug)]
enum Server {
    Redis(redis::Server),
    Etcd(etcd::Cluster),
    Postgres(postgres::Server),
    /// That of all tests.
    Shared,
}

fn secrets() -> Vec<String> {
    vec![SECRET.to_owned(), WRONG.to_owned()]
}

/// What is wrong with a URL of `scheme`, whatever its server: `rest` follows the host.
fn wrong(scheme: &str, address: &str, rest: &str) -> Vec<(&'static str, String)> {
    let url = |password: &str, address: &str, more: &str| {
        format!("{scheme}://app:{password}@{address}{rest}{more}")
    };
    let and = if rest.contains('?') { "&" } else { "?" };
    let with = |more: &str| url(SECRET, address, &format!("{and}{more}"));
    vec![
        ("a wrong password", url(WRONG, address, "")),
        ("no server", url(SECRET, "127.0.0.1:1", "")),
        ("no port", url(SECRET, "127.0.0.1:none", "")),
        ("an unknown parameter", with("colour=red")),
        ("a password with &", with(&format!("password=x&{SECRET}"))),
        ("no such file", with("ca=/nowhere/ca.pem")),
        (
            "no proxy",
            with(&format!("proxy=socks5h://app:{SECRET}@127.0.0.1:1")),
        ),
    ]
}

impl Planted {
    /// Redis. `None`: left out.
    pub fn redis() -> Option<Self> {
        let user = format!("app on >{SECRET} ~* &* +@all");
        let mut arguments = vec!["--appendonly", "yes", "--appendfsync", "always", "--user"];
        arguments.extend(user.split(' '));
        let server = redis::start(&arguments)?;
        let mut fails = wrong("redis", &server.address(), "");
        let tls = format!("rediss://app:{SECRET}@{}", server.address());
        fails.push(("no TLS", tls));
        Some(Self {
            name: "redis",
            right: format!("redis://app:{SECRET}@{}", server.address()),
            fails,
            secrets: secrets(),
            server: Server::Redis(server),
        })
    }

    /// etcd. `None`: left out.
    pub fn etcd() -> Option<Self> {
        let mut cluster = etcd::start_with(1, &["--bcrypt-cost", "4"])?;
        for words in [
            "role add app",
            "role grant-permission app --prefix=true readwrite app/",
            &format!("user add app:{SECRET}"),
            "user grant-role app app",
            &format!("user add root:{SECRET}"),
            "user grant-role root root",
            "auth enable",
        ] {
            cluster.ctl(&words.split(' ').collect::<Vec<_>>());
        }
        cluster.flags = vec![format!("--user=root:{SECRET}")];
        let address = cluster.members[0].address();
        let mut fails = wrong("etcd", &address, "/app");
        fails.push(("no TLS", format!("etcds://app:{SECRET}@{address}/app")));
        fails.push(("no rights", format!("etcd://app:{SECRET}@{address}/other")));
        Some(Self {
            name: "etcd",
            right: format!("etcd://app:{SECRET}@{address}/app"),
            fails,
            secrets: secrets(),
            server: Server::Etcd(cluster),
        })
    }

    /// Postgres. `None`: left out.
    pub fn postgres() -> Option<Self> {
        let server = postgres::start(&[])?;
        let address = server.address().to_string();
        let plain = "/postgres?sslmode=disable&quarantine=off";
        let mut fails = wrong("postgres", &address, "/postgres?quarantine=off");
        let url = |rest: &str| format!("postgres://app:{SECRET}@{address}/{rest}");
        fails.push(("no TLS", url("postgres?sslmode=require")));
        fails.push(("no such database", url("nowhere?sslmode=disable")));
        Some(Self {
            name: "postgres",
            right: format!("postgres://app:{SECRET}@{address}{plain}"),
            fails,
            secrets: secrets(),
            server: Server::Postgres(server),
        })
    }

    /// Kubernetes, whose URLs of this scheme name a file with a token. `None`: left out.
    pub async fn kubernetes(name: &'static str, folder: &Path) -> Option<Self> {
        let server = KubeServer::start().await?;
        let wrong = folder.join("wrong-token");
        fs::write(&wrong, WRONG).unwrap();
        let ca = server.ca.display();
        let url = |server: &str, token: &Path, more: &str| {
            let token = token.display();
            format!("{name}://default?server={server}&token_file={token}{more}")
        };
        let ca = format!("&ca={ca}");
        let right = &server.token_file;
        let proxy = format!("{ca}&proxy=http://app:{SECRET}@127.0.0.1:1");
        Some(Self {
            name,
            right: url(&server.url, right, &ca),
            fails: vec![
                ("a wrong token", url(&server.url, &wrong, &ca)),
                ("no server", url("https://127.0.0.1:1", &wrong, &ca)),
                ("no authority", url(&server.url, &wrong, "")),
                ("no proxy", url(&server.url, &wrong, &proxy)),
                (
                    "a password in the address",
                    url(&format!("https://app:{SECRET}@127.0.0.1:1"), right, ""),
                ),
            ],
            secrets: [secrets(), vec![server.token()]].concat(),
            server: Server::Shared,
        })
    }

    /// The line of a text that holds one of the passwords.
    pub fn find_in<'a>(&self, text: &'a str) -> Option<&'a str> {
        let holds = |line: &&str| self.secrets.iter().any(|secret| line.contains(secret));
        text.lines().find(holds)
    }

    /// Whether the store is of this test alone, so that it can be killed.
    pub fn is_private(&self) -> bool {
        !matches!(self.server, Server::Shared)
    }

    /// Kills it under its clients.
    pub fn kill(&mut self) {
        match &mut self.server {
            Server::Redis(server) => server.kill(),
            Server::Etcd(cluster) => cluster.members[0].kill(),
            Server::Postgres(server) => server.stop("QUIT"),
            Server::Shared => {}
        }
    }
}
