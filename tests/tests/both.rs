//! The conformance suite on two stores as one: the memory of this process and a directory.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::sync::Arc;

use tempfile::TempDir;
use tenure::{Both, Error, LockBackend, LockName, MemoryBackend};
use tenure_conformance::{Hook, Target, async_trait, run_all};

struct Two {
    memory: MemoryBackend,
    directory: TempDir,
}

#[async_trait]
impl Target for Two {
    async fn connect(&self) -> Result<Arc<dyn LockBackend>, Error> {
        let url = format!("file://{}", self.directory.path().display());
        let file = tenure::connect(&url).await?;
        Ok(Arc::new(Both::new(Arc::new(self.memory.clone()), file)?))
    }

    async fn delete_lock(&self, lock: &LockName) -> Hook {
        self.memory.store().delete(lock);
        match std::fs::remove_dir_all(self.directory.path().join(lock.as_str())) {
            Ok(()) => Hook::Done,
            Err(error) => Hook::Failed(error.to_string()),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_suite_is_green_on_two_stores_as_one() {
    let two = Two {
        memory: MemoryBackend::private(),
        directory: tempfile::tempdir().unwrap(),
    };
    let report = run_all("both", &two).await;
    println!("{report}");
    assert!(report.is_green(), "{report}");
}
