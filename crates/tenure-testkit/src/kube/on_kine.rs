//! An API server on kine, as in k3s: its objects are rows of a SQL database.

use std::env;
use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

use super::launch::{arguments, write_secrets};
use super::server::Server;
use crate::port::{free_port, free_ports};
use crate::postgres;
use crate::process::Process;
use crate::wait::until;

/// The folder with the programs `kine` and `kube-apiserver`, which `cargo xtask test --more` sets.
const PROGRAMS: &str = "TENURE_TEST_KINE";

/// The database in which kine keeps the objects.
#[derive(Clone, Copy, Debug)]
pub enum Database {
    /// A file.
    Sqlite,
    /// A server of its own.
    Postgres,
}

/// An API server on kine; killed on drop.
#[derive(Debug)]
pub struct OnKine {
    /// How it is reached as the admin.
    pub server: Server,
    _api: Process,
    _kine: Process,
    _postgres: Option<postgres::Server>,
    _dir: TempDir,
}

impl OnKine {
    /// Starts all, and waits until they serve. `None`, with a line that says so, outside of
    /// `cargo xtask test --more`.
    pub async fn start(database: Database) -> Option<Self> {
        let Some(programs) = env::var_os(PROGRAMS).map(PathBuf::from) else {
            eprintln!("LEFT OUT: {PROGRAMS} is not set; cargo xtask test --more sets it");
            return None;
        };
        let dir = tempfile::tempdir().unwrap();
        let [etcd, metrics] = free_ports();
        let postgres = match database {
            Database::Sqlite => None,
            Database::Postgres => Some(postgres::start(&[])?),
        };
        let endpoint = if let Some(server) = &postgres {
            let (password, address) = (postgres::PASSWORD, server.address());
            format!("postgres://app:{password}@{address}/postgres?sslmode=disable")
        } else {
            let file = dir.path().join("kine.db");
            let options = "_journal=WAL&cache=shared&_busy_timeout=30000";
            format!("sqlite://{}?{options}", file.display())
        };
        let mut command = Command::new(programs.join("kine"));
        let kine = Process::start(command.args([
            &format!("--endpoint={endpoint}"),
            &format!("--listen-address=tcp://127.0.0.1:{etcd}"),
            &format!("--metrics-bind-address=127.0.0.1:{metrics}"),
        ]));
        let (folder, port) = (dir.path().join("api"), free_port());
        write_secrets(&folder, &[("admin", "system:masters")]);
        let server = Server {
            url: format!("https://127.0.0.1:{port}"),
            ca: folder.join("ca.pem"),
            token_file: folder.join("admin.token"),
            namespace: "default".to_owned(),
        };
        let arguments = arguments(&format!("http://127.0.0.1:{etcd}"), port, &folder);
        let mut command = Command::new(programs.join("kube-apiserver"));
        let api = Process::start(command.args(&arguments));
        let own = Self {
            server,
            _api: api,
            _kine: kine,
            _postgres: postgres,
            _dir: dir,
        };
        until("the API server on kine serves", async || {
            own.server.has("/readyz").await && own.server.has("/api/v1/namespaces/default").await
        })
        .await;
        Some(own)
    }
}
