//! [`FileStore`]: the records of a directory, and the backend on it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tenure_core::record::{self, Record, RecordEvents, RecordLock, RecordStore, Step, Versioned};
use tenure_core::{
    BootClock, Capabilities, Check, Error, ErrorKind, Expiry, FencingGuarantee, FencingToken,
    LockName, Operation, Page, Rises, SharedClock, Wakeup,
};

use crate::alive::Alive;
use crate::checks;
use crate::config::FileConfig;
use crate::directory::{Directory, Write};
use crate::disk::Disk;
use crate::events;
use crate::watch::DirectoryWatcher;

/// Elections among the processes of one host; see the [crate's documentation](crate).
///
/// Clones share one store. Get one with [`connect`] or [`lazy`].
pub type FileBackend = RecordLock<FileStore>;

/// The longest that [`connect`] takes.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// Prepares the directory of `config` for elections among the processes of this host.
///
/// Creates the directory if the configuration says so. Whether it can be written is not asked: an
/// observer need not. Fails with
///
/// - [`Misconfigured`](tenure_core::ErrorKind::Misconfigured) if it is no directory or does not
///   exist;
/// - [`Forbidden`](tenure_core::ErrorKind::Forbidden) if it cannot be read;
/// - [`Unsupported`](tenure_core::ErrorKind::Unsupported) on network, cluster and FUSE file systems;
/// - [`Timeout`](tenure_core::ErrorKind::Timeout) if the file system does not answer within ten
///   seconds.
///
/// Cancel safe. Must be called in a tokio runtime with time enabled, as must everything else on
/// the backend; file operations run on that runtime's threads for blocking work.
pub async fn connect(config: FileConfig) -> Result<FileBackend, Error> {
    let store = FileStore::new(config);
    let preparing = store.disk.run(Operation::Connect, |_| Ok(()));
    match tokio::time::timeout(CONNECT_LIMIT, preparing).await {
        Ok(prepared) => prepared?,
        Err(_) => return Err(Error::timeout(Operation::Connect, CONNECT_LIMIT)),
    }
    Ok(RecordLock::new(store))
}

/// The same without any I/O: the first call prepares the directory, and fails as [`connect`] does
/// when it cannot be used. For a service that starts before the directory is mounted.
///
/// Does not fail; it returns a `Result` as the other backends do.
pub fn lazy(config: FileConfig) -> Result<FileBackend, Error> {
    Ok(RecordLock::new(FileStore::new(config)))
}

/// The records behind [`FileBackend`].
#[derive(Clone, Debug)]
pub struct FileStore {
    disk: Arc<Disk>,
    watches: Arc<DirectoryWatcher>,
}

impl FileStore {
    fn new(config: FileConfig) -> Self {
        Self {
            disk: Arc::new(Disk::new(config)),
            watches: Arc::new(DirectoryWatcher::new()),
        }
    }

    /// The directory that holds a directory for each lock.
    pub fn directory(&self) -> &Path {
        self.disk.config.directory()
    }

    async fn write(
        &self,
        lock: &LockName,
        record: &Record,
        step: Step,
        expected: Option<&Versioned>,
    ) -> Result<record::Written, Error> {
        let write = Write {
            lock: lock.clone(),
            record: record.clone(),
            step,
            expected: match expected {
                Some(expected) => expected.version.as_u64().ok_or_else(|| foreign(step))?,
                None => 0,
            },
            alive: expected.and_then(Versioned::state::<Alive>),
        };
        self.disk
            .run(step.operation(), move |directory| directory.write(write))
            .await
    }
}

fn foreign(step: Step) -> Error {
    Error::new(
        ErrorKind::InvalidInput,
        step.operation(),
        "this grant comes from another backend",
    )
}

#[async_trait]
impl RecordStore for FileStore {
    fn capabilities(&self) -> Capabilities {
        Capabilities::new(
            "file",
            // The host's clock is the store's.
            Expiry::Store,
            FencingGuarantee::none()
                .over_crash(Rises::Always)
                .over_failover(Rises::NotApplicable),
        )
        .with_min_lease(Duration::from_millis(100))
        .with_lease_granularity(Duration::from_millis(1))
        .with_wakeup(Wakeup::Push)
    }

    fn clock(&self) -> SharedClock {
        BootClock::shared()
    }

    async fn get(&self, lock: &LockName) -> Result<Option<Versioned>, Error> {
        let lock = lock.clone();
        self.disk
            .run(Operation::Holder, move |directory| directory.get(&lock))
            .await
    }

    async fn create(&self, lock: &LockName, record: &Record) -> Result<record::Written, Error> {
        self.write(lock, record, Step::Acquire, None).await
    }

    async fn replace(
        &self,
        lock: &LockName,
        record: &Record,
        step: Step,
        expected: &Versioned,
    ) -> Result<record::Written, Error> {
        self.write(lock, record, step, Some(expected)).await
    }

    async fn ask_to_resign(
        &self,
        lock: &LockName,
        token: FencingToken,
        lasts: Duration,
    ) -> Result<(), Error> {
        let lock = lock.clone();
        let asking = move |directory: &Directory| directory.ask_to_resign(&lock, token, lasts);
        self.disk.run(Operation::AskToResign, asking).await
    }

    async fn elections(&self, page: Page<'_>) -> Result<Vec<LockName>, Error> {
        let listing = self.disk.run(Operation::List, Directory::locks);
        Ok(page.of(listing.await?))
    }

    async fn checks(&self, lock: &LockName, _lease: Duration) -> Vec<Check> {
        let lock = lock.clone();
        let checking = self.disk.run(Operation::Connect, move |directory| {
            Ok(checks::all(directory, &lock))
        });
        checking.await.unwrap_or_else(|error| {
            vec![Check::unusable(
                "directory",
                error.message(),
                checks::REMEDY,
            )]
        })
    }

    fn watch(&self, lock: &LockName) -> RecordEvents {
        events::events(self.disk.clone(), self.watches.clone(), lock.clone())
    }
}
