//! The real stores that the tests run against: started, asked, described, stopped.
//!
//! Everything lives under `target/stores/`: each process has a record (see [`crate::process`]) from
//! before it begins, and `state.json` describes the stores that were seen ready. Data begin empty at
//! each start and go with `down`; logs stay.

mod control;
mod etcd;
mod kube;
mod launch;
mod postgres;
mod redis;
mod session;
mod state;

use std::fs::File;
use std::io::Read;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::interrupt;
use crate::kind::Kind;
use crate::provision::Need;

pub(crate) use control::{down, status};
pub(crate) use session::{Session, up};
pub(crate) use state::State;

use etcd::Etcd;
use kube::Kube;
use launch::Launch;
use postgres::Postgres;
use redis::Redis;

/// Variables for the tests, in the order they are shown.
pub(crate) type Env = Vec<(&'static str, String)>;

/// What has to be installed for a store.
fn needs(kind: Kind) -> Need {
    match kind {
        Kind::Kube | Kind::Etcd => Need::Etcd,
        Kind::Redis => Need::Redis,
        Kind::Postgres => Need::Postgres,
    }
}

/// What every store can do once it is started.
trait Server {
    /// Which one it is.
    fn kind(&self) -> Kind;

    /// Asks it once whether it serves; the answer is its version.
    fn probe(&self) -> Result<String>;

    /// What remains to be set up, once, when it serves.
    fn settle(&self) -> Result<()> {
        Ok(())
    }

    /// Writes and reads back, and says what it did.
    fn round_trip(&self) -> Result<String>;

    /// What the tests need to know.
    fn env(&self) -> Result<Env>;
}

/// A store that was started.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Store {
    Kube(Kube),
    Etcd(Etcd),
    Redis(Redis),
    Postgres(Postgres),
}

impl Store {
    fn server(&self) -> &dyn Server {
        match self {
            Self::Kube(server) => server,
            Self::Etcd(server) => server,
            Self::Redis(server) => server,
            Self::Postgres(server) => server,
        }
    }
}

/// Tries until it works; gives up with the last error after a generous while.
fn eventually(what: &str, mut attempt: impl FnMut() -> Result<()>) -> Result<()> {
    const LIMIT: Duration = Duration::from_secs(60);
    let begin = Instant::now();
    loop {
        interrupt::check()?;
        match attempt() {
            Ok(()) => return Ok(()),
            Err(error) if begin.elapsed() > LIMIT => {
                return Err(error)
                    .with_context(|| format!("waited {} s until {what}", LIMIT.as_secs()));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}

/// Secrets and names that nobody else has, from the system's own source.
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
