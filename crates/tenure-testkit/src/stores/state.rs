//! What runs: `state.json`, and the questions that can be asked of a store in it.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::kind::Kind;
use super::process::Record;
use super::store::Store;
use crate::paths::{Dirs, write_file};
use std::ffi::OsString;

/// A store that was seen ready.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Running {
    pub(super) store: Store,
    /// As the server says it.
    pub version: String,
    pub(super) processes: Vec<Record>,
    pub(super) env: BTreeMap<String, String>,
}

impl Running {
    /// Asks the store whether it still serves.
    pub(super) fn check(&self) -> Result<String> {
        if let Some(dead) = self.processes.iter().find(|process| !process.is_alive()) {
            bail!("{} (process {}) is gone", dead.name, dead.pid);
        }
        self.store.server().probe()
    }

    /// The version, and for what was built its origin.
    pub fn describe(&self) -> String {
        match &self.store {
            Store::Kube(kube) => format!("{} ({})", self.version, kube.origin),
            _ => self.version.clone(),
        }
    }
}

/// `state.json`
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct State {
    format: u32,
    /// Those that were seen ready.
    pub stores: BTreeMap<Kind, Running>,
}

impl State {
    const FORMAT: u32 = 1;

    /// What was last seen ready; nothing when there is no file.
    pub fn load(dirs: &Dirs) -> Result<Self> {
        let path = dirs.state();
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Self::default());
            }
            Err(error) => {
                return Err(error).with_context(|| format!("cannot read {}", path.display()));
            }
        };
        serde_json::from_slice(&bytes).with_context(|| {
            format!(
                "{} is not of this version: run `cargo xtask stores down`",
                path.display()
            )
        })
    }

    /// It holds URLs with passwords, so it is for its owner only.
    pub(super) fn save(&mut self, dirs: &Dirs) -> Result<()> {
        self.format = Self::FORMAT;
        write_file(&dirs.state(), 0o600, &serde_json::to_vec_pretty(self)?)
    }

    /// All variables of all stores.
    pub fn env(&self) -> BTreeMap<String, String> {
        self.stores
            .values()
            .flat_map(|running| running.env.clone())
            .collect()
    }

    /// The same for a program.
    pub fn variables(&self) -> Vec<(OsString, OsString)> {
        let all = self.env().into_iter();
        all.map(|(name, value)| (name.into(), value.into()))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_state_is_an_empty_state() {
        let folder = tempfile::tempdir().unwrap();
        let dirs = Dirs::at(folder.path().join("stores")).unwrap();
        assert!(State::load(&dirs).unwrap().stores.is_empty());
        assert!(State::load(&dirs).unwrap().env().is_empty());
        assert!(crate::stores::control::down(&dirs).unwrap().is_empty());
    }
}
