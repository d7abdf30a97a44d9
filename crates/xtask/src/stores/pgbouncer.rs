//! `PgBouncer` in transaction mode in front of `PostgreSQL`: the set-up in which session locks break,
//! which the backend has to notice.

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};

use super::postgres::{Login, Postgres, ROLE, give, ordinary_user};
use super::{Env, Kind, Launch, Server};
use crate::net::free_ports;
use crate::paths::write_file;
use crate::process::Ending;
use crate::provision;

/// A running pooler.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct PgBouncer {
    pub(crate) port: u16,
    behind: Postgres,
}

impl PgBouncer {
    pub(super) fn start(launch: &mut Launch<'_>, behind: &Postgres) -> Result<Self> {
        let [port] = free_ports()?;
        let user = ordinary_user()?;
        let folder = launch.folder("pgbouncer", user.as_ref())?;
        let configuration = format!(
            "[databases]\n\
             {ROLE} = host=127.0.0.1 port={}\n\
             [pgbouncer]\n\
             listen_addr = 127.0.0.1\n\
             listen_port = {port}\n\
             unix_socket_dir =\n\
             pool_mode = transaction\n\
             auth_type = scram-sha-256\n\
             auth_file = users.txt\n\
             stats_users = {ROLE}\n",
            behind.port
        );
        let users = format!("\"{ROLE}\" \"{}\"\n", behind.read_password()?);
        for (name, text) in [("pgbouncer.ini", configuration), ("users.txt", users)] {
            let file = folder.join(name);
            write_file(&file, 0o600, text.as_bytes())?;
            give(&file, user.as_ref())?;
        }
        let program = provision::program("pgbouncer")?;
        let mut spec = launch.spec("pgbouncer", program, folder, Ending::Plain);
        spec.user = user;
        spec.args = vec!["pgbouncer.ini".to_owned()];
        launch.run(&spec)?;
        Ok(Self {
            port,
            behind: behind.clone(),
        })
    }

    fn login(&self, database: &'static str) -> Result<Login<'static>> {
        Ok(Login {
            port: self.port,
            role: ROLE,
            database,
            password: self.behind.read_password()?,
        })
    }
}

impl Server for PgBouncer {
    fn probe(&self) -> Result<String> {
        // A question to a server that is gone would wait in the pool for minutes.
        self.behind.probe()?;
        // Its own console, which answers also while there is no database behind it.
        let answer = self
            .behind
            .psql(&self.login("pgbouncer")?, "SHOW VERSION;")?;
        let version = answer.split(' ').nth(1).unwrap_or(&answer);
        self.behind.psql(&self.login(ROLE)?, "SELECT 1;")?;
        Ok(version.to_owned())
    }

    fn round_trip(&self) -> Result<String> {
        let value = super::random_hex(8)?;
        let read = self
            .behind
            .psql(&self.login(ROLE)?, &format!("SELECT '{value}';"))?;
        if read != value {
            bail!("PgBouncer gave back {read:?} for {value:?}");
        }
        Ok("SELECT by psql through the pool".to_owned())
    }

    fn env(&self) -> Result<Env> {
        Ok(vec![("TENURE_TEST_PGBOUNCER_URL", self.login(ROLE)?.url())])
    }

    fn kind(&self) -> Kind {
        Kind::Pgbouncer
    }
}
