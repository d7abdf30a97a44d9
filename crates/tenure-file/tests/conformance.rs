//! The conformance suite on the file backend, with candidates in processes of their own.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use tempfile::TempDir;
use tenure_conformance::{Hook, Target, async_trait};
use tenure_core::{Error, LockBackend, LockName};
use tenure_file::{FileConfig, connect};

const DIRECTORY: &str = "TENURE_TEST_FILE_DIRECTORY";

struct Files {
    directory: PathBuf,
    /// Removes the directory; a contestant does not own it.
    _owned: Option<TempDir>,
}

impl Files {
    fn new() -> Self {
        let owned = tempfile::tempdir().unwrap();
        Self {
            directory: owned.path().to_owned(),
            _owned: Some(owned),
        }
    }

    fn lock(&self, lock: &LockName) -> PathBuf {
        self.directory.join(lock.as_str())
    }
}

#[async_trait]
impl Target for Files {
    async fn connect(&self) -> Result<Arc<dyn LockBackend>, Error> {
        Ok(Arc::new(connect(FileConfig::new(&self.directory)?).await?))
    }

    async fn delete_lock(&self, lock: &LockName) -> Hook {
        hook(std::fs::remove_dir_all(self.lock(lock)))
    }

    async fn corrupt_lock(&self, lock: &LockName) -> Hook {
        hook(damage_records(&self.lock(lock)))
    }

    fn contestant(&self) -> Option<Command> {
        let mut command = tenure_conformance::reexec("contestant");
        command.env(DIRECTORY, &self.directory);
        Some(command)
    }
}

fn hook(done: io::Result<()>) -> Hook {
    match done {
        Ok(()) => Hook::Done,
        Err(error) => Hook::Failed(error.to_string()),
    }
}

fn damage_records(lock: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(lock)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with("record-") {
            std::fs::write(entry.path(), b"\0no record")?;
        }
    }
    Ok(())
}

tenure_conformance::suite!(file, Files::new());

/// A candidate in a process of its own; does nothing among the other tests.
#[test]
fn contestant() {
    tenure_conformance::contestant_main(async || Files {
        directory: std::env::var_os(DIRECTORY).unwrap().into(),
        _owned: None,
    });
}
