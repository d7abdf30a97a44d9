//! A store that several processes share: a directory with a file for each lock.
//!
//! The simplest thing that is enough for the suite's own tests: no durability, one lock file for
//! everything. For real use there is the crate `tenure-file`.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::stream;
use tenure_conformance::{Hook, Target, reexec};
use tenure_core::record::{
    Liveness, Record, RecordEvents, RecordHolder, RecordLock, RecordStore, Step, Version,
    Versioned, Written,
};
use tenure_core::{
    BootClock, CampaignId, Capabilities, Clock as _, Error, ErrorKind, Expiry, FencingGuarantee,
    FencingToken, LockBackend, LockName, Operation, Rises, SharedClock, Time,
};
use tokio::time::sleep;

use crate::lies::Lie;

const DIRECTORY: &str = "TENURE_LYING_DIRECTORY";
const LIE: &str = "TENURE_LYING_LIE";

pub(crate) struct DirectoryTarget {
    path: PathBuf,
    lie: Option<Lie>,
    /// Only who has made the directory removes it.
    owned: bool,
}

impl DirectoryTarget {
    pub(crate) fn new(lie: Option<Lie>) -> Self {
        let name = format!("tenure-directory-{:016x}", fastrand::u64(..));
        let path = std::env::temp_dir().join(name);
        // A directory that is missing shows with the first call.
        let _shown_later = fs::create_dir_all(&path);
        Self {
            path,
            lie,
            owned: true,
        }
    }

    pub(crate) fn from_environment() -> Self {
        let lie = std::env::var(LIE).unwrap_or_default();
        Self {
            path: std::env::var_os(DIRECTORY).unwrap_or_default().into(),
            lie: Lie::ALL
                .iter()
                .copied()
                .find(|known| format!("{known:?}") == lie),
            owned: false,
        }
    }
}

impl Drop for DirectoryTarget {
    fn drop(&mut self) {
        if self.owned {
            let _left_to_the_system = fs::remove_dir_all(&self.path);
        }
    }
}

#[async_trait]
impl Target for DirectoryTarget {
    async fn connect(&self) -> Result<Arc<dyn LockBackend>, Error> {
        Ok(Arc::new(RecordLock::new(Directory {
            path: self.path.clone(),
            lie: self.lie,
        })))
    }

    fn patience(&self) -> Duration {
        // Real time, and processes that have to start; but a lie shall show soon.
        Duration::from_secs(if self.lie.is_some() { 10 } else { 60 })
    }

    async fn delete_lock(&self, lock: &LockName) -> Hook {
        done(fs::remove_file(self.path.join(lock.as_str())))
    }

    async fn corrupt_lock(&self, lock: &LockName) -> Hook {
        done(fs::write(self.path.join(lock.as_str()), b"\xff\n-1\n"))
    }

    fn contestant(&self) -> Option<Command> {
        let mut command = reexec("contestant");
        command.env(DIRECTORY, &self.path);
        if let Some(lie) = self.lie {
            command.env(LIE, format!("{lie:?}"));
        }
        Some(command)
    }
}

fn done(result: io::Result<()>) -> Hook {
    match result {
        Ok(()) => Hook::Done,
        Err(error) => Hook::Failed(error.to_string()),
    }
}

#[derive(Debug)]
struct Directory {
    path: PathBuf,
    lie: Option<Lie>,
}

impl Directory {
    /// Shuts out all others, of this process and of others, until it is dropped.
    fn lock(&self) -> io::Result<File> {
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(self.path.join("LOCK"))?;
        file.lock()?;
        Ok(file)
    }

    fn read(&self, lock: &LockName) -> Result<Option<Versioned>, Error> {
        let bytes = match fs::read(self.path.join(lock.as_str())) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(Operation::Holder, error)),
        };
        let parsed = String::from_utf8(bytes)
            .ok()
            .and_then(|text| self.parse(&text));
        let damaged = || {
            Error::new(
                ErrorKind::Corrupted,
                Operation::Holder,
                format!("the record of {lock} is damaged; delete it"),
            )
        };
        parsed.ok_or_else(damaged).map(Some)
    }

    /// Nothing in a record holds a line break: names, identities and values have none.
    fn parse(&self, text: &str) -> Option<Versioned> {
        let mut lines = text.split('\n');
        let version = Version::parse(lines.next()?)?;
        let ends = lines.next()?.parse().ok()?;
        let lease = Duration::from_millis(lines.next()?.parse().ok()?);
        let process: u32 = lines.next()?.parse().ok()?;
        let holder = match lines.next()? {
            "" => None,
            identity => Some(
                RecordHolder::new(identity.to_owned())
                    .with_campaign(CampaignId::parse(lines.next()?))
                    .with_token(FencingToken::from_counter(lines.next()?.parse().ok()?).ok())
                    .with_value(lines.next()?.strip_prefix('=').map(str::to_owned)),
            ),
        };
        let mut record = Record::new(holder, lease);
        let mut ends = Time::from_nanos(ends);
        if self.lie == Some(Lie::DeadProcessesKeepLocks) && process != std::process::id() {
            ends = Time::from_nanos(u64::MAX);
            record.lease = Duration::from_secs(3600);
        }
        Some(Versioned::new(record, version).with_liveness(Liveness::Until(ends)))
    }

    fn write(
        &self,
        lock: &LockName,
        record: &Record,
        step: Step,
        expected: Option<u64>,
    ) -> Result<Written, Error> {
        let operation = step.operation();
        let _locked = self.lock().map_err(|error| failed(operation, error))?;
        let found = self.read(lock)?.and_then(|found| found.version.as_u64());
        if found != expected && self.lie != Some(Lie::WritesUnconditionally) {
            return Ok(Written::Conflict);
        }
        self.replace(lock, record, step)
            .map_err(|error| failed(operation, error))
    }

    fn replace(&self, lock: &LockName, record: &Record, step: Step) -> io::Result<Written> {
        let counter = self.path.join("COUNTER");
        let last = fs::read_to_string(&counter).unwrap_or_default();
        let version = last.trim().parse::<u64>().unwrap_or(0) + 1;
        put(&counter, &version.to_string())?;
        let mut record = record.clone();
        if step == Step::Acquire
            && let Some(holder) = &mut record.holder
        {
            holder.token = FencingToken::from_counter(version).ok();
        }
        let ends = BootClock.now() + record.lease;
        let mut text = format!(
            "{version}\n{}\n{}\n{}\n",
            ends.as_nanos(),
            record.lease.as_millis(),
            std::process::id()
        );
        if let Some(holder) = &record.holder {
            let campaign = holder.campaign.map(|campaign| campaign.to_string());
            let token = holder.token.map_or(0, FencingToken::as_u64);
            let value = holder.value.as_ref().map(|value| format!("={value}"));
            text.push_str(&holder.identity);
            text.push('\n');
            text.push_str(&campaign.unwrap_or_default());
            text.push('\n');
            text.push_str(&token.to_string());
            text.push('\n');
            text.push_str(&value.unwrap_or_default());
        }
        put(&self.path.join(lock.as_str()), &text)?;
        let written = Versioned::new(record, version).with_liveness(Liveness::Until(ends));
        Ok(Written::Applied(written))
    }
}

/// Readers see the old or the new text, never half of it.
fn put(path: &Path, text: &str) -> io::Result<()> {
    let fresh = path.with_file_name("FRESH");
    fs::write(&fresh, text)?;
    fs::rename(&fresh, path)
}

fn failed(operation: Operation, error: io::Error) -> Error {
    Error::new(
        ErrorKind::Unavailable,
        operation,
        "the directory cannot be used",
    )
    .with_source(error)
}

#[async_trait]
impl RecordStore for Directory {
    fn capabilities(&self) -> Capabilities {
        Capabilities::new(
            "directory",
            Expiry::Store,
            FencingGuarantee::none()
                .over_failover(Rises::NotApplicable)
                .over_deletion(Rises::Always),
        )
        .with_min_lease(Duration::from_millis(10))
        .with_lease_granularity(Duration::from_millis(1))
    }

    fn clock(&self) -> SharedClock {
        BootClock::shared()
    }

    async fn get(&self, lock: &LockName) -> Result<Option<Versioned>, Error> {
        let found = self.read(lock);
        if self.lie == Some(Lie::WritesUnconditionally) {
            // Long enough for another process to come in between.
            sleep(Duration::from_millis(2)).await;
        }
        found
    }

    async fn create(&self, lock: &LockName, record: &Record) -> Result<Written, Error> {
        self.write(lock, record, Step::Acquire, None)
    }

    async fn replace(
        &self,
        lock: &LockName,
        record: &Record,
        step: Step,
        expected: &Versioned,
    ) -> Result<Written, Error> {
        self.write(lock, record, step, expected.version.as_u64())
    }

    fn watch(&self, _: &LockName) -> RecordEvents {
        Box::pin(stream::empty())
    }
}
