//! [`FileStore`]: the records of a directory.

use std::collections::VecDeque;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::stream;
use tenure_core::record::{
    Liveness, MAX_LEASE, Record, RecordEvent, RecordEvents, RecordHolder, RecordLock, RecordStore,
    Step, Versioned,
};
use tenure_core::{
    BootClock, CampaignId, Capabilities, Check, Clock as _, Error, ErrorKind, Expiry,
    FencingGuarantee, FencingToken, LockName, Operation, Order, Rises, SharedClock, Wakeup, record,
};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::FileConfig;
use crate::alive::{self, Alive, Pulse};
use crate::checks;
use crate::format::{self, ClockDomain, Content, Written};
use crate::record_file::{RecordFiles, Swapped};
use crate::trouble::{Action, During as _, Trouble};
use crate::watch::{NotWatched, Seen, Subscription, Watches};

/// Elections among the processes of one host; see the [crate's documentation](crate).
///
/// Clones share one store. Get one with [`open`].
pub type FileBackend = RecordLock<FileStore>;

/// The longest that [`open`] takes.
const OPEN_LIMIT: Duration = Duration::from_secs(10);

/// How many threads a hung disk can hold up in one process: requests beyond them wait without one.
const MAX_THREADS: usize = 32;

/// How often a look is repeated because the record was replaced under it.
const ATTEMPTS: usize = 8;

/// When to look again after an alive file was closed: the kernel tells of the close before it
/// unlocks the file, and the process that dies may be interrupted in between.
const SECOND_LOOKS: [Duration; 5] = [
    Duration::from_millis(1),
    Duration::from_millis(5),
    Duration::from_millis(25),
    Duration::from_millis(200),
    Duration::from_secs(1),
];

/// How often to look whether a directory that cannot be created has been created by others.
const UNTIL_CREATED: Duration = Duration::from_secs(1);

/// Opens the directory of `config` for elections among the processes of this host.
///
/// Creates the directory if the configuration says so. Fails with
/// [`Misconfigured`](ErrorKind::Misconfigured) if it is no directory or does not exist, with
/// [`Forbidden`](ErrorKind::Forbidden) if it cannot be read, with
/// [`Unsupported`](ErrorKind::Unsupported) on network, cluster and FUSE file systems, and with
/// [`Timeout`](ErrorKind::Timeout) if the file system does not answer within ten seconds. Whether
/// it can be written is not asked: an observer need not.
///
/// Cancel safe. Must be called in a tokio runtime with time enabled, as must everything else on
/// the backend; file operations run on that runtime's threads for blocking work.
pub async fn open(config: FileConfig) -> Result<FileBackend, Error> {
    let opening = tokio::task::spawn_blocking(move || FileStore::open(&config));
    match tokio::time::timeout(OPEN_LIMIT, opening).await {
        Ok(Ok(store)) => store.map(RecordLock::new),
        Ok(Err(error)) => Err(not_run(Operation::Connect, error)),
        Err(_) => Err(Error::timeout(Operation::Connect, OPEN_LIMIT)),
    }
}

/// The records behind [`FileBackend`].
#[derive(Clone, Debug)]
pub struct FileStore {
    directory: Arc<Directory>,
    watches: Arc<Watches>,
    threads: Arc<Semaphore>,
}

#[derive(Debug)]
struct Directory {
    path: PathBuf,
    domain: Option<ClockDomain>,
}

impl FileStore {
    fn open(config: &FileConfig) -> Result<Self, Error> {
        let path = config.directory();
        prepare(path, config.creates())
            .map_err(|trouble| trouble.into_error(Operation::Connect))?;
        check_file_system(path)?;
        Ok(Self {
            directory: Arc::new(Directory {
                path: path.to_owned(),
                domain: ClockDomain::current(),
            }),
            watches: Arc::new(Watches::new()),
            threads: Arc::new(Semaphore::new(MAX_THREADS)),
        })
    }

    /// The directory that holds a directory for each lock.
    pub fn directory(&self) -> &Path {
        &self.directory.path
    }

    /// Runs file operations where they may block.
    ///
    /// If the future is dropped they go on, and what they return is dropped: an alive file among
    /// it is closed, so that a record that nobody knows of names a holder that is gone.
    async fn run<T: Send + 'static>(
        &self,
        operation: Operation,
        work: impl FnOnce(&Directory) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let permit = self.threads.clone().acquire_owned().await;
        let permit = permit.map_err(|error| not_run(operation, error))?;
        let directory = self.directory.clone();
        let running = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            work(&directory)
        });
        running.await.map_err(|error| not_run(operation, error))?
    }

    async fn write(
        &self,
        lock: &LockName,
        record: &Record,
        step: Step,
        expected: Option<&Versioned>,
    ) -> Result<record::Written, Error> {
        let version = expected.map_or(0, |expected| expected.version);
        let alive = expected.and_then(Versioned::state::<Alive>);
        let write = Write {
            lock: lock.clone(),
            record: record.clone(),
            step,
            expected: version,
            alive,
        };
        self.run(operation_of(step), move |directory| directory.write(write))
            .await
    }

    async fn subscribe(&self, lock: &LockName) -> Result<Result<Subscription, NotWatched>, Error> {
        let (watches, lock) = (self.watches.clone(), lock.clone());
        self.run(Operation::Holder, move |directory| {
            let files = directory.files(&lock);
            match ensure_dir(files.dir()) {
                Err(trouble) if trouble.is_refused() || trouble.is_missing() => {}
                ensured => ensured.map_err(|trouble| trouble.into_error(Operation::Holder))?,
            }
            Ok(watches.subscribe(files.dir()))
        })
        .await
    }
}

/// Whether the record of that version is of the term that holds `alive` open. When a lock's
/// directory was removed and made again, versions repeat, and the number alone would let a leader
/// from before renew over its successor (hazard 16). A damaged record names nobody: its leader
/// mends it.
fn names(files: &RecordFiles, version: u64, alive: &Alive) -> Result<bool, Trouble> {
    let Some((latest, bytes)) = files.latest()? else {
        return Ok(false);
    };
    Ok(latest == version
        && match format::decode(&bytes) {
            Content::Record(_, written) => written.alive.as_deref() == Some(alive.name()),
            _ => true,
        })
}

/// Everything a write needs on another thread.
struct Write {
    lock: LockName,
    record: Record,
    step: Step,
    expected: u64,
    alive: Option<Arc<Alive>>,
}

impl Directory {
    fn files(&self, lock: &LockName) -> RecordFiles {
        RecordFiles::new(self.path.join(lock.as_str()))
    }

    fn get(&self, lock: &LockName) -> Result<Option<Versioned>, Error> {
        let failed = |trouble: Trouble| trouble.into_error(Operation::Holder);
        let files = self.files(lock);
        for _ in 0..ATTEMPTS {
            let Some((version, bytes)) = files.latest().map_err(failed)? else {
                return Ok(None);
            };
            let (record, liveness) = match format::decode(&bytes) {
                Content::Record(record, written) => {
                    let alive = written.alive.as_deref();
                    let pulse =
                        alive.map_or(Pulse::Unknown, |name| alive::pulse(files.dir(), name));
                    // Its name goes when the next leader is elected: has one been meanwhile?
                    if record.holder.is_some()
                        && pulse == Pulse::Unknown
                        && files.highest().map_err(failed)? != Some(version)
                    {
                        continue;
                    }
                    let liveness = self.liveness(&record, &written, pulse);
                    (record, liveness)
                }
                Content::Newer(format) => return Err(newer(&files.path(version), format)),
                Content::Damaged(problem) => {
                    let path = files.path(version);
                    let path = path.display();
                    tracing::warn!(%lock, %path, %problem, "the record cannot be read");
                    unreadable(&files).map_err(failed)?
                }
            };
            return Ok(Some(
                Versioned::new(record, version).with_liveness(liveness),
            ));
        }
        Err(Error::new(
            ErrorKind::Conflict,
            Operation::Holder,
            format!("others changed the record {ATTEMPTS} times in a row"),
        ))
    }

    fn liveness(&self, record: &Record, written: &Written, pulse: Pulse) -> Liveness {
        if pulse == Pulse::Dead {
            return Liveness::Gone;
        }
        // From here on the holder may be alive, also when the clocks differ: another time
        // namespace has an offset of its own, and some containers have a boot identifier of their
        // own. After a real reboot nobody has the file locked.
        let now = BootClock.now();
        match written.renewed {
            // A time to come is damage: it must not keep the lock for ever.
            Some(renewed)
                if self.domain.is_some() && written.clock == self.domain && renewed <= now =>
            {
                Liveness::Until(renewed + record.lease)
            }
            _ => Liveness::Observed,
        }
    }

    fn write(&self, write: Write) -> Result<record::Written, Error> {
        let operation = operation_of(write.step);
        let failed = |trouble: Trouble| trouble.into_error(operation);
        let files = self.files(&write.lock);
        let version = write.expected.saturating_add(1);
        let Ok(token) = FencingToken::from_counter(version) else {
            return Err(beyond_tokens(operation, &files.path(write.expected)));
        };
        let (mut record, mut alive) = (write.record, write.alive);
        if write.step == Step::Acquire {
            ensure_dir(files.dir()).map_err(failed)?;
            // Of a thousand that were woken all but the first turn round here, before they have
            // made any file.
            let highest = files.highest().map_err(failed)?;
            if highest.is_some_and(|highest| highest > write.expected) {
                return Ok(record::Written::Conflict);
            }
            if let Some(holder) = &mut record.holder {
                holder.token = Some(token);
                let campaign = holder.campaign.unwrap_or(CampaignId::new(0));
                // A new one for each term, since the old one may be held by whoever made an
                // earlier attempt.
                let made = Alive::create(files.dir(), campaign, record.lease).map_err(failed)?;
                alive = Some(Arc::new(made));
            }
        }
        if let (Step::Renew | Step::Release, Some(alive)) = (write.step, &alive)
            && !names(&files, write.expected, alive).map_err(failed)?
        {
            return Ok(record::Written::Conflict);
        }
        // Read after the caller has read the time of its proof, so that nobody sees the lease end
        // before the holder does.
        let renewed = BootClock.now();
        let written = Written {
            alive: alive.as_ref().map(|alive| alive.name().to_owned()),
            renewed: Some(renewed),
            clock: self.domain.clone(),
        };
        let content = format::encode(&record, &written).map_err(|error| {
            Error::new(
                ErrorKind::Internal,
                operation,
                "cannot write the record as JSON",
            )
            .with_source(error)
        })?;
        let swapped = files.swap(write.expected, &content, &mut |_| {});
        let remove_alive = |alive: Option<&Arc<Alive>>| {
            if let Some(alive) = alive {
                alive.remove();
            }
        };
        let sweep = match swapped.map_err(failed)? {
            Swapped::Applied { sweep } => sweep,
            Swapped::Conflict { published } => {
                if write.step == Step::Acquire && !published {
                    remove_alive(alive.as_ref());
                }
                return Ok(record::Written::Conflict);
            }
        };
        files.sweep(&sweep, write.step == Step::Acquire, &mut |_| {});
        if write.step == Step::Release {
            remove_alive(alive.as_ref());
        }
        let liveness = self.liveness(&record, &written, Pulse::Unknown);
        let mut versioned = Versioned::new(record, version).with_liveness(liveness);
        if let Some(alive) = alive {
            versioned = versioned.with_state(alive);
        }
        Ok(record::Written::Applied(versioned))
    }
}

/// What an unreadable record is taken for: held by somebody for as long as anybody who may hold it
/// could believe so.
fn unreadable(files: &RecordFiles) -> Result<(Record, Liveness), Trouble> {
    // A leader's alive file is there and locked from before its record is.
    let lease = files
        .alive_names()?
        .iter()
        .filter_map(|name| match alive::pulse(files.dir(), name) {
            Pulse::Alive { lease } => Some(lease),
            Pulse::Dead => None,
            Pulse::Unknown => Some(MAX_LEASE),
        })
        .max();
    let record = Record {
        holder: Some(RecordHolder {
            identity: "(unreadable record)".to_owned(),
            campaign: None,
            token: None,
            value: None,
        }),
        lease: lease.unwrap_or(MAX_LEASE),
    };
    let liveness = match lease {
        Some(_) => Liveness::Observed,
        None => Liveness::Gone,
    };
    Ok((record, liveness))
}

fn newer(path: &Path, format: u64) -> Error {
    Error::new(
        ErrorKind::Unsupported,
        Operation::Holder,
        format!(
            "{} has the record format {format}, which only a newer version of tenure reads; \
             update this program",
            path.display()
        ),
    )
}

fn beyond_tokens(operation: Operation, path: &Path) -> Error {
    Error::new(
        ErrorKind::Corrupted,
        operation,
        format!(
            "the version in the name {} is beyond the 48 bits of a fencing token, so it was not \
             counted up to; stop all candidates of this lock, remove the file, and start them \
             again",
            path.display()
        ),
    )
}

fn not_run(operation: Operation, error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::new(
        ErrorKind::Internal,
        operation,
        "a file operation was not run to its end: is the runtime shutting down?",
    )
    .with_source(error)
}

fn operation_of(step: Step) -> Operation {
    match step {
        Step::Acquire => Operation::Acquire,
        Step::Renew => Operation::Renew,
        Step::Release => Operation::Release,
    }
}

fn ensure_dir(dir: &Path) -> Result<(), Trouble> {
    match fs::create_dir(dir) {
        Err(_) if dir.is_dir() => Ok(()),
        created => created.during(Action::Create, dir),
    }
}

fn prepare(dir: &Path, create: bool) -> Result<(), Trouble> {
    if create && !dir.is_dir() {
        fs::create_dir_all(dir).during(Action::Create, dir)?;
    }
    fs::read_dir(dir).map(drop).during(Action::List, dir)?;
    // Listing needs no search permission, opening a file in it does.
    match fs::symlink_metadata(dir.join("tenure")) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).during(Action::Read, dir)
        }
        Ok(_) | Err(_) => Ok(()),
    }
}

/// The file systems that several hosts or a user's process can serve, by their magic numbers. On
/// these a lock or a notification need not reach every process.
#[cfg(target_os = "linux")]
const NOT_LOCAL: [(u64, &str); 23] = [
    (0x6969, "NFS"),
    (0x517b, "SMB"),
    (0xff53_4d42, "CIFS"),
    (0xfe53_4d42, "SMB"),
    (0x564c, "NCP"),
    (0x0102_1997, "9p"),
    (0x5346_414f, "AFS"),
    (0x6b41_4653, "AFS"),
    (0x7375_7245, "Coda"),
    (0x00c3_6400, "Ceph"),
    (0x6573_5546, "FUSE"),
    (0x0bd0_0bd0, "Lustre"),
    (0x0116_1970, "GFS2"),
    (0x7461_636f, "OCFS2"),
    (0x4750_4653, "GPFS"),
    (0xaad7_aaea, "PanFS"),
    (0x1983_0326, "BeeGFS"),
    (0x2003_0528, "OrangeFS"),
    (0x013a_51d0, "VMware HGFS"),
    (0xbacb_acbc, "VMware HGFS"),
    (0x786f_4256, "VirtualBox shared folders"),
    (0x7c7c_6673, "Parallels shared folders"),
    (0x4750_4446, "GPFS"),
];

#[cfg(target_os = "linux")]
fn check_file_system(dir: &Path) -> Result<(), Error> {
    let found = rustix::fs::statfs(dir)
        .map_err(io::Error::from)
        .during(Action::Read, dir)
        .map_err(|trouble| trouble.into_error(Operation::Connect))?;
    // The field's type differs between architectures; the magic number is its lower 32 bits.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let magic = u64::from(found.f_type as u32);
    refuse_if_not_local(dir, magic)
}

#[cfg(target_os = "linux")]
fn refuse_if_not_local(dir: &Path, magic: u64) -> Result<(), Error> {
    match NOT_LOCAL.iter().find(|(known, _)| *known == magic) {
        None => Ok(()),
        Some((_, name)) => Err(Error::new(
            ErrorKind::Unsupported,
            Operation::Connect,
            format!(
                "{} is on {name}, where the death of a process need not be seen by all others; \
                 use a directory on a local file system such as ext4, XFS, Btrfs or tmpfs, or \
                 another backend for several hosts",
                dir.display()
            ),
        )),
    }
}

#[cfg(not(target_os = "linux"))]
fn check_file_system(_dir: &Path) -> Result<(), Error> {
    Ok(())
}

#[async_trait]
impl RecordStore for FileStore {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            store: "file",
            min_lease: Duration::from_millis(100),
            lease_granularity: Duration::from_millis(1),
            // The host's clock is the store's.
            expiry: Expiry::Store,
            expiry_lag: Duration::ZERO,
            wakeup: Wakeup::Push,
            order: Order::Race,
            fencing: FencingGuarantee {
                over_crash: Rises::Always,
                over_failover: Rises::NotApplicable,
                over_deletion: Rises::Never,
                over_restore: Rises::Never,
            },
        }
    }

    fn clock(&self) -> SharedClock {
        BootClock::shared()
    }

    async fn get(&self, lock: &LockName) -> Result<Option<Versioned>, Error> {
        let lock = lock.clone();
        self.run(Operation::Holder, move |directory| directory.get(&lock))
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

    async fn checks(&self, lock: &LockName, _lease: Duration) -> Vec<Check> {
        let lock = lock.clone();
        let looked = self
            .run(Operation::Connect, move |directory| {
                Ok(checks::all(&directory.path, &lock))
            })
            .await;
        looked.unwrap_or_else(|error| {
            let remedy = "see whether the disk answers";
            vec![Check::unusable("directory", error.message(), remedy)]
        })
    }

    fn watch(&self, lock: &LockName) -> RecordEvents {
        let watching = Watching {
            store: self.clone(),
            lock: lock.clone(),
            subscription: None,
            seen: Seen::default(),
            second_looks: VecDeque::new(),
        };
        Box::pin(stream::unfold(watching, |mut watching| async move {
            let event = watching.next().await?;
            Some((event, watching))
        }))
    }
}

/// The state of one stream of changes.
struct Watching {
    store: FileStore,
    lock: LockName,
    subscription: Option<Subscription>,
    seen: Seen,
    second_looks: VecDeque<Instant>,
}

impl Watching {
    async fn next(&mut self) -> Option<RecordEvent> {
        loop {
            let Some(subscription) = &mut self.subscription else {
                self.subscribe().await?;
                // For what was missed until now.
                return Some(RecordEvent::Changed);
            };
            let second_look = self.second_looks.front().copied();
            tokio::select! {
                biased;
                seen = subscription.changed() => match seen {
                    Some(seen) => {
                        if seen.closed != self.seen.closed {
                            let now = Instant::now();
                            self.second_looks = SECOND_LOOKS.map(|after| now + after).into();
                        }
                        self.seen = seen;
                        return Some(RecordEvent::Changed);
                    }
                    // The lock's directory was removed; there may be a new one.
                    None => self.subscription = None,
                },
                () = sleep_until(second_look) => {
                    self.second_looks.pop_front();
                    return Some(RecordEvent::Changed);
                }
            }
        }
    }

    /// Waits until the lock's directory can be watched; `None` when it never can.
    async fn subscribe(&mut self) -> Option<()> {
        loop {
            let reason: Box<dyn std::error::Error + Send> =
                match self.store.subscribe(&self.lock).await {
                    Ok(Ok(subscription)) => {
                        self.seen = Seen::default();
                        self.subscription = Some(subscription);
                        return Some(());
                    }
                    Ok(Err(NotWatched::Missing)) => {
                        tokio::time::sleep(UNTIL_CREATED).await;
                        continue;
                    }
                    Ok(Err(NotWatched::Refused(error))) => Box::new(error),
                    Err(error) => Box::new(error),
                };
            if self.store.watches.warns() {
                tracing::warn!(
                    lock = %self.lock,
                    error = %reason,
                    "the file system's notifications are not available, so the lock is looked at \
                     every retry interval; raising fs.inotify.max_user_instances and \
                     fs.inotify.max_user_watches may help"
                );
            }
            return None;
        }
    }
}

async fn sleep_until(instant: Option<Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn file_systems_that_are_not_local_are_refused() {
        let dir = Path::new("/mnt/share");
        for magic in [0x6969, 0xff53_4d42, 0x0102_1997, 0x6573_5546, 0x00c3_6400] {
            let error = refuse_if_not_local(dir, magic).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported);
            assert!(error.message().contains("/mnt/share"), "{error}");
        }
        for ext4_or_tmpfs in [0xef53, 0x0102_1994] {
            assert!(refuse_if_not_local(dir, ext4_or_tmpfs).is_ok());
        }
    }
}
