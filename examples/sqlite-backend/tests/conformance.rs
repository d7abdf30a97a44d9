//! The conformance suite on the worked example.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::sync::Arc;

use tenure_conformance::{Target, async_trait};
use tenure_core::{Error, LockBackend};
use tenure_example_sqlite::open;

struct Sqlite {
    directory: tempfile::TempDir,
}

#[async_trait]
impl Target for Sqlite {
    async fn connect(&self) -> Result<Arc<dyn LockBackend>, Error> {
        Ok(Arc::new(open(&self.directory.path().join("locks.db"))?))
    }
}

tenure_conformance::suite!(
    sqlite,
    Sqlite {
        directory: tempfile::tempdir().unwrap()
    }
);
