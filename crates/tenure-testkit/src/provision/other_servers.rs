//! Other servers than the system's, that a backend's tests run on too: another product that speaks
//! the same protocol, or a newer release.

use std::path::PathBuf;

use anyhow::Result;
use tempfile::TempDir;

use super::newer_etcd::{ETCD_3_6, ETCD_3_7, EtcdLine};
use super::{kine, newest_postgres, valkey};
use crate::backends::Backend;
use crate::etcd::programs;

/// A server that is here, and the tests that run on it.
#[derive(Debug)]
pub struct OtherServer {
    /// As tables say it: `Valkey 9.1.2`.
    pub name: String,
    /// The backend whose tests they are.
    pub backend: &'static str,
    /// How the tests are told of its programs.
    pub variable: &'static str,
    /// Its program, or the folder of its programs.
    pub programs: PathBuf,
    /// The package of the tests.
    pub package: &'static str,
    /// The test programs.
    pub tests: &'static [&'static str],
    /// The tests in them that need what the server has not.
    pub without: &'static [&'static str],
    /// Where it was unpacked, until the run is over.
    _folder: Option<TempDir>,
}

/// Fetches those of the backends.
pub fn provide(backends: &[&Backend]) -> Result<Vec<OtherServer>> {
    let wanted = |name: &str| backends.iter().any(|backend| backend.name == name);
    let mut all = Vec::new();
    if wanted("redis") {
        all.push(valkey()?);
    }
    if wanted("postgres") {
        all.push(newest_postgres()?);
    }
    Ok(all)
}

/// A server that has to be built from source, by its name.
pub type Built = (&'static str, fn() -> Result<OtherServer>);

/// Those of `cargo xtask test --more`.
pub const BUILT: [Built; 3] = [
    ("etcd 3.6", || etcd(&ETCD_3_6)),
    ("etcd 3.7", || etcd(&ETCD_3_7)),
    ("kube-apiserver on kine", on_kine),
];

/// A newer etcd, which all clusters of the tests run.
fn etcd(line: &EtcdLine) -> Result<OtherServer> {
    let found = line.provide()?;
    Ok(OtherServer {
        name: format!("etcd {}", found.version),
        backend: "etcd",
        variable: programs::ALL,
        programs: found.programs,
        package: "tenure-etcd",
        tests: &[
            "auth",
            "conformance",
            "elections",
            "endpoints",
            "flood",
            "interop",
            "outages",
            "ownership",
            "queue",
            "session_loss",
            "tls",
            "verdicts",
        ],
        without: &[],
        _folder: None,
    })
}

/// kube-apiserver on kine, as in k3s.
fn on_kine() -> Result<OtherServer> {
    let found = kine::provide()?;
    Ok(OtherServer {
        name: format!("kube-apiserver on kine {}", found.version),
        backend: "kube-lease",
        variable: "TENURE_TEST_KINE",
        programs: found.folder,
        package: "tenure-kube-lease",
        tests: &["kine"],
        without: &[],
        _folder: None,
    })
}

/// Valkey. Without the tests that need TLS, which the fetched one has not, and a clock that can be
/// made to jump, which it ignores.
fn valkey() -> Result<OtherServer> {
    let found = valkey::provide()?;
    Ok(OtherServer {
        name: format!("Valkey {}", found.version),
        backend: "redis",
        variable: "TENURE_TEST_REDIS_SERVER",
        programs: found.program,
        package: "tenure-redis",
        tests: &["conformance", "election", "faults", "lock", "topology"],
        without: &[],
        _folder: None,
    })
}

/// The newest Postgres. Without the tests that need TLS, which the fetched one has not.
fn newest_postgres() -> Result<OtherServer> {
    let found = newest_postgres::provide()?;
    Ok(OtherServer {
        name: format!("PostgreSQL {}", found.version),
        backend: "postgres",
        variable: "TENURE_TEST_POSTGRES_BIN",
        programs: found.programs,
        package: "tenure-postgres",
        tests: &[
            "conformance",
            "guard",
            "lock",
            "processes",
            "servers",
            "shared",
        ],
        without: &[
            "the_server_may_demand_a_certificate",
            "tls_is_verified_when_it_is_asked_for",
        ],
        _folder: Some(found.folder),
    })
}
