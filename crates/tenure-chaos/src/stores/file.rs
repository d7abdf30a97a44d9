//! A directory of this host.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use tenure_conformance::async_trait;
use tenure_conformance::proxy::FaultProxy;

use crate::fault::Fault;
use crate::stores::topology::{Applies, LOCK, Store, beyond, within};

/// The topology `file`.
pub(super) struct File {
    directory: PathBuf,
}

impl File {
    pub(super) fn start(directory: &Path) -> Result<Self> {
        let directory = directory.join("store");
        fs::create_dir(&directory)?;
        Ok(Self { directory })
    }

    fn lock(&self) -> PathBuf {
        self.directory.join(LOCK)
    }

    /// The newest record.
    fn record(&self) -> Result<PathBuf> {
        let mut newest = None;
        for entry in fs::read_dir(self.lock())? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            // Versions have leading zeros, so they sort as text.
            if name.starts_with("record-") {
                newest = newest.max(Some(name));
            }
        }
        let name = newest.context("no record")?;
        Ok(self.lock().join(name))
    }
}

#[async_trait]
impl Store for File {
    fn name(&self) -> &'static str {
        "file"
    }

    fn url(&self, _candidate: usize) -> String {
        format!("file://{}", self.directory.display())
    }

    fn proxies(&self, _candidate: usize) -> &[FaultProxy] {
        &[]
    }

    fn faults(&self) -> Vec<Applies> {
        const REMOVED: &str = "file: removing a lock's directory takes the lock from its leader, \
                               which notices at its next heartbeat";
        vec![
            within(Fault::RecordCorrupted),
            within(Fault::ForeignWriter),
            beyond(Fault::KeyDeleted, REMOVED),
        ]
    }

    fn forgets_tokens(&self, fault: Fault) -> bool {
        fault == Fault::KeyDeleted
    }

    async fn strike(&mut self, fault: Fault, _lasts: Duration) -> Result<String> {
        match fault {
            Fault::RecordCorrupted => {
                let record = self.record()?;
                fs::write(&record, b"\0garbage\xff")?;
                Ok(format!("wrote garbage to {}", record.display()))
            }
            Fault::ForeignWriter => {
                let path = self.lock().join("foreign");
                fs::write(&path, "a file that is no record")?;
                Ok(format!("made {}", path.display()))
            }
            Fault::KeyDeleted => {
                // A candidate may make a file meanwhile.
                while self.lock().exists() {
                    let _again = fs::remove_dir_all(self.lock());
                }
                Ok("the lock's directory is gone".to_owned())
            }
            _ => bail!("{fault} does not apply"),
        }
    }

    async fn heal(&mut self, fault: Fault) -> Result<String> {
        if fault == Fault::ForeignWriter {
            let path = self.lock().join("foreign");
            ensure!(path.exists(), "somebody removed {}", path.display());
            fs::remove_file(path)?;
        }
        Ok(String::new())
    }
}
