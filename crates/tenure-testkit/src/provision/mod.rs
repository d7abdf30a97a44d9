//! Where the servers come from.
//!
//! What is on this machine is taken first. What is missing is installed as a Debian package where
//! that is possible; elsewhere an error says what to install.

mod apt;
pub mod built_tools;
mod go_module;
mod kine;
pub mod kube_apiserver;
pub mod mdbook;
pub mod newer_etcd;
mod newest_postgres;
pub mod other_servers;
pub mod tools;
mod valkey;
mod wheel;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::environment::find;
use crate::paths;
use crate::shell::{capture, is_executable};

/// Something that may be missing, with the Debian packages that bring it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Need {
    /// `etcd` and `etcdctl`.
    Etcd,
    /// `redis-server` and `redis-cli`.
    Redis,
    /// `postgres`, `initdb` and `psql`, 14 or newer.
    Postgres,
    /// `pgbouncer`.
    PgBouncer,
    /// `strace`, with which a test makes a disk stall.
    Strace,
    /// `prometheus` and `promtool`, which evaluate the alert rules.
    Prometheus,
    /// `mariadbd`, the store of a worked example.
    MariaDb,
    /// `protoc` with the definitions that belong to it, for the build of the etcd client.
    Protoc,
}

impl Need {
    /// What the tests need.
    pub const ALL: [Self; 8] = [
        Self::Protoc,
        Self::Etcd,
        Self::Redis,
        Self::Postgres,
        Self::PgBouncer,
        Self::Strace,
        Self::Prometheus,
        Self::MariaDb,
    ];

    const PROGRAMS: [(Self, &'static [&'static str]); 8] = [
        (Self::Etcd, &["etcd", "etcdctl"]),
        (Self::Redis, &["redis-server", "redis-cli"]),
        (
            Self::Postgres,
            &["postgres", "initdb", "pg_isready", "psql"],
        ),
        (Self::PgBouncer, &["pgbouncer"]),
        (Self::Strace, &["strace"]),
        (Self::Prometheus, &["prometheus", "promtool"]),
        (Self::MariaDb, &["mariadbd"]),
        (Self::Protoc, &["protoc"]),
    ];

    fn programs(self) -> &'static [&'static str] {
        Self::PROGRAMS
            .iter()
            .find(|(need, _)| *need == self)
            .map_or(&[], |(_, programs)| programs)
    }

    fn packages(self) -> &'static [&'static str] {
        match self {
            Self::Etcd => &["etcd-server", "etcd-client"],
            Self::Redis => &["redis-server", "redis-tools"],
            Self::Postgres => &["postgresql"],
            Self::PgBouncer => &["pgbouncer"],
            Self::Strace => &["strace"],
            Self::Prometheus => &["prometheus"],
            // The server alone: no service comes with it.
            Self::MariaDb => &["mariadb-server-core"],
            Self::Protoc => &["protobuf-compiler", "libprotobuf-dev"],
        }
    }

    fn is_met(self) -> bool {
        match self {
            Self::Postgres => postgres_folder().is_some(),
            Self::Protoc => has_protoc(),
            _ => self
                .programs()
                .iter()
                .all(|program| find(program).is_some()),
        }
    }
}

/// Debian puts the definitions into a package of their own; `protoc` looks for them beside itself.
fn has_protoc() -> bool {
    const DEFINITIONS: &str = "include/google/protobuf/descriptor.proto";
    let prefix = find("protoc").and_then(|file| Some(file.parent()?.parent()?.to_path_buf()));
    std::env::var_os("PROTOC_INCLUDE").is_some()
        || prefix.is_some_and(|prefix| prefix.join(DEFINITIONS).exists())
}

/// Installs what is missing.
pub fn ensure(needs: &[Need]) -> Result<()> {
    let mut missing: Vec<Need> = needs
        .iter()
        .copied()
        .filter(|need| !need.is_met())
        .collect();
    missing.sort_unstable();
    missing.dedup();
    if missing.is_empty() {
        return Ok(());
    }
    let programs: Vec<&str> = missing
        .iter()
        .flat_map(|need| need.programs())
        .copied()
        .collect();
    let packages: Vec<&str> = missing
        .iter()
        .flat_map(|need| need.packages())
        .copied()
        .collect();
    apt::install(&packages).with_context(|| {
        format!(
            "missing programs: {}. Install them so that they are on PATH (PostgreSQL 14 or newer), \
             or on Debian and Ubuntu the packages: {}",
            programs.join(", "),
            packages.join(" ")
        )
    })?;
    for need in missing {
        if !need.is_met() {
            bail!(
                "the packages {} are installed and still one of these is missing: {}",
                need.packages().join(" "),
                need.programs().join(", ")
            );
        }
    }
    Ok(())
}

/// Outside the work tree: a clean checkout on a prepared machine has nothing to build.
fn cache_folder() -> Result<PathBuf> {
    let named = |name| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    let folder = named("TENURE_CACHE")
        .or_else(|| named("XDG_CACHE_HOME"))
        .or_else(|| named("HOME").map(|home| home.join(".cache")))
        .unwrap_or_else(|| paths::workspace().join("target"))
        .join("tenure");
    std::fs::create_dir_all(&folder)
        .with_context(|| format!("cannot create the cache {}", folder.display()))?;
    Ok(folder)
}

/// A program that [`ensure`] has seen to.
pub(crate) fn program(name: &str) -> Result<PathBuf> {
    find(name).with_context(|| format!("{name} is not on PATH"))
}

/// The folder with the programs of `PostgreSQL`: the one on PATH, else the newest that Debian has
/// put aside.
pub(crate) fn postgres_folder() -> Option<PathBuf> {
    let on_path = find("postgres").and_then(|file| file.parent().map(Path::to_path_buf));
    let mut aside: Vec<(u32, PathBuf)> = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let version = entry.file_name().to_str()?.parse().ok()?;
            Some((version, entry.path().join("bin")))
        })
        .collect();
    aside.sort_unstable_by(|a, b| b.cmp(a));
    on_path
        .into_iter()
        .chain(aside.into_iter().map(|(_, folder)| folder))
        .find(|folder| {
            let whole = Need::Postgres
                .programs()
                .iter()
                .all(|program| is_executable(&folder.join(program)));
            whole && postgres_major(&folder.join("postgres")).is_some_and(|major| major >= 14)
        })
}

/// 15 out of `postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)`.
fn postgres_major(postgres: &Path) -> Option<u32> {
    let answer = capture(Command::new(postgres).arg("--version")).ok()?;
    let version = answer.split_once("(PostgreSQL) ")?.1;
    let digits: String = version.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}
