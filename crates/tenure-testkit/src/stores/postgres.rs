//! `PostgreSQL`, run as an ordinary user: it refuses to run as root.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::free_port;
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::launch::Launch;
use super::server::{Env, Server};
use super::user::{give, ordinary_user, run_as};
use crate::bound::{self, Ending};
use crate::paths::write_file;
use crate::provision::postgres_folder;
use crate::shell::{capture, capture_with_input};

/// The ordinary role, and its database.
pub(super) const ROLE: &str = "tenure";
const ADMIN: &str = "postgres";

/// A running server.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Postgres {
    pub(crate) port: u16,
    /// The folder of its programs.
    programs: PathBuf,
    password: PathBuf,
    admin_password: PathBuf,
}

impl Postgres {
    pub(super) fn start(launch: &mut Launch<'_>) -> Result<Self> {
        let programs = postgres_folder().context("there is no PostgreSQL of 14 or newer")?;
        let user = ordinary_user()?;
        let folder = launch.folder("postgres", user.as_ref())?;
        let secrets = launch.dirs.secrets();
        let password = secrets.join("postgres-password");
        let admin_password = secrets.join("postgres-admin-password");
        write_file(&password, 0o600, random_hex(16)?.as_bytes())?;
        let secret = random_hex(16)?;
        write_file(&admin_password, 0o600, secret.as_bytes())?;

        // A copy that the server's user can read, for as long as it takes.
        let handed = folder.join("password");
        write_file(&handed, 0o600, secret.as_bytes())?;
        give(&handed, user.as_ref())?;
        let mut initdb = bound::bound(programs.join("initdb"))?;
        initdb
            .args(["--pgdata=data", "--auth=scram-sha-256", "--pwfile=password"])
            .args(["--encoding=UTF8", "--locale=C"])
            .arg(format!("--username={ADMIN}"))
            .current_dir(&folder)
            .env("HOME", &folder);
        run_as(&mut initdb, user.as_ref());
        capture(&mut initdb)?;
        fs::remove_file(&handed)?;

        let port = free_port();
        let mut spec = launch.spec(
            "postgres",
            programs.join("postgres"),
            folder,
            Ending::Postgres,
        );
        spec.user = user;
        spec.args = vec!["-D".to_owned(), "data".to_owned()];
        for setting in [
            "listen_addresses=127.0.0.1".to_owned(),
            format!("port={port}"),
            // A socket's path has a short limit that a deep checkout would break.
            "unix_socket_directories=".to_owned(),
            // Elections here hold a connection each, and there are hundreds in some tests.
            "max_connections=300".to_owned(),
        ] {
            spec.args.extend(["-c".to_owned(), setting]);
        }
        // The benchmarks read what the server has been asked; some systems package it apart.
        let statements = "pg_stat_statements";
        let library = programs.join(format!("../lib/{statements}.so"));
        if library.is_file() {
            let setting = format!("shared_preload_libraries={statements}");
            spec.args.extend(["-c".to_owned(), setting]);
        }
        launch.run(&spec)?;
        Ok(Self {
            port,
            programs,
            password,
            admin_password,
        })
    }

    pub(super) fn read_password(&self) -> Result<String> {
        read_secret(&self.password)
    }

    /// Runs SQL through psql; passwords travel in the environment, SQL on standard input.
    pub(super) fn psql(&self, login: &Login<'_>, sql: &str) -> Result<String> {
        let mut command = Command::new(self.programs.join("psql"));
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("PG") {
                command.env_remove(name);
            }
        }
        command
            .args(["--no-psqlrc", "--quiet", "--no-align", "--tuples-only"])
            .args(["--set=ON_ERROR_STOP=1", "--host=127.0.0.1"])
            .arg(format!("--port={}", login.port))
            .arg(format!("--username={}", login.role))
            .arg(format!("--dbname={}", login.database))
            .env("PGPASSWORD", &login.password)
            .env("PGCONNECT_TIMEOUT", "10");
        let answer = capture_with_input(&mut command, sql)?;
        Ok(answer.trim().to_owned())
    }

    fn admin(&self) -> Result<Login<'static>> {
        Ok(Login {
            port: self.port,
            role: ADMIN,
            database: "postgres",
            password: read_secret(&self.admin_password)?,
        })
    }

    fn ordinary(&self) -> Result<Login<'static>> {
        Ok(Login {
            port: self.port,
            role: ROLE,
            database: ROLE,
            password: self.read_password()?,
        })
    }
}

/// Who connects where.
pub(super) struct Login<'a> {
    pub(super) port: u16,
    pub(super) role: &'a str,
    pub(super) database: &'a str,
    pub(super) password: String,
}

impl Login<'_> {
    pub(super) fn url(&self) -> String {
        format!(
            "postgres://{}:{}@127.0.0.1:{}/{}",
            self.role, self.password, self.port, self.database
        )
    }
}

fn read_secret(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

impl Server for Postgres {
    fn probe(&self) -> Result<String> {
        capture(
            Command::new(self.programs.join("pg_isready"))
                .args(["--quiet", "--host=127.0.0.1"])
                .arg(format!("--port={}", self.port)),
        )?;
        let version = self.psql(&self.admin()?, "SHOW server_version;")?;
        Ok(version.split(' ').next().unwrap_or_default().to_owned())
    }

    fn settle(&self) -> Result<()> {
        let password = self.read_password()?;
        self.psql(
            &self.admin()?,
            &format!(
                "CREATE ROLE {ROLE} LOGIN PASSWORD '{password}';\n\
                 CREATE DATABASE {ROLE} OWNER {ROLE};\n"
            ),
        )
        .map(|_| ())
    }

    fn env(&self) -> Result<Env> {
        Ok(vec![
            ("TENURE_TEST_POSTGRES_URL", self.ordinary()?.url()),
            ("TENURE_TEST_POSTGRES_ADMIN_URL", self.admin()?.url()),
        ])
    }
}

/// Secrets that nobody else has, from the system's own source.
fn random_hex(bytes: usize) -> Result<String> {
    let mut buffer = vec![0; bytes];
    File::open("/dev/urandom")
        .and_then(|mut source| source.read_exact(&mut buffer))
        .context("no random bytes from the system")?;
    let digits = buffer.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    Ok(digits
        .filter_map(|digit| char::from_digit(digit.into(), 16))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_names_differ() {
        let one = random_hex(16).unwrap();
        assert_eq!(one.len(), 32);
        assert_ne!(one, random_hex(16).unwrap());
    }
}
