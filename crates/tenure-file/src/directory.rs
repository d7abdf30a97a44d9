//! The locks of a directory: reads and writes of their records, as they are made on one thread.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tenure_core::record::{self, Liveness, MAX_LEASE, Record, RecordHolder, Step, Versioned};
use tenure_core::{
    BootClock, CampaignId, Clock as _, Error, ErrorKind, FencingToken, Generation, LockName,
    Operation, Wish,
};

use crate::alive::{self, Alive, Maker};
use crate::config::FileConfig;
use crate::errors::{Action, During as _, StoreError, Unsafe};
use crate::file_system;
use crate::format::{self, ClockDomain, Content, Written};
use crate::open_dir::OpenDir;
use crate::record_file::{RecordFiles, Swapped};
use crate::trust::{Group, Sharing};
use crate::wish;

/// How often a look is repeated because the record was replaced under it.
const ATTEMPTS: usize = 8;

/// A directory that holds a directory for each lock.
#[derive(Debug)]
pub(crate) struct Directory {
    path: PathBuf,
    sharing: Sharing,
    domain: Option<ClockDomain>,
    /// Whether it was told that others may do more here than they have to.
    warned: AtomicBool,
}

/// Whether the record of that version is of the term that holds `alive` open. When a lock's
/// directory was removed and made again, versions repeat, and the number alone would let a leader
/// from before renew over its successor (hazard 16). A damaged record names nobody: its leader
/// repairs it.
fn names(files: &RecordFiles, version: u64, alive: &Alive) -> Result<bool, StoreError> {
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
pub(crate) struct Write {
    pub(crate) lock: LockName,
    pub(crate) record: Record,
    pub(crate) step: Step,
    /// The version to replace; 0 is none.
    pub(crate) expected: u64,
    pub(crate) alive: Option<Arc<Alive>>,
}

impl Directory {
    /// Makes the directory where the configuration says so, and checks that processes can share
    /// locks in it.
    pub(crate) fn prepare(config: &FileConfig, operation: Operation) -> Result<Self, Error> {
        let failed = |error: StoreError| error.into_error(operation);
        let path = config.directory();
        let group = config.group_name().map(Group::find).transpose();
        let sharing = Sharing::new(group.map_err(failed)?);
        let prepare = || {
            let warning = sharing.judge_way(path)?;
            let dir = file_system::prepare(path, config.creates(), &sharing)?;
            Ok(sharing.judge(&dir)?.or(warning))
        };
        let warning = prepare().map_err(failed)?;
        file_system::check(path, operation)?;
        let directory = Self {
            path: path.to_owned(),
            sharing,
            domain: ClockDomain::current(),
            warned: AtomicBool::new(false),
        };
        directory.warn(warning);
        Ok(directory)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Who else can change the records of a lock, as the next operation on it will find.
    pub(crate) fn judge(&self, lock: &LockName) -> Result<Option<Unsafe>, StoreError> {
        let way = self.sharing.judge_way(&self.path)?;
        let base = OpenDir::open(&self.path)?;
        let here = self.sharing.judge(&base)?;
        let inside = match base.directory(lock.as_str()) {
            Err(error) if error.is_missing() => None,
            opened => self.sharing.judge_lock(&opened?)?,
        };
        Ok(inside.or(here).or(way))
    }

    /// Logged once: it stays true with each heartbeat.
    fn warn(&self, warning: Option<Unsafe>) {
        if let Some(warning) = warning
            && !self.warned.swap(true, Ordering::Relaxed)
        {
            tracing::warn!("{warning}");
        }
    }

    /// It is opened for each operation: it may have been removed and made again since.
    fn open(&self) -> Result<OpenDir, StoreError> {
        self.sharing.judge_way(&self.path)?;
        let dir = OpenDir::open(&self.path)?;
        self.sharing.judge(&dir)?;
        Ok(dir)
    }

    /// The files of a lock; an error that [is missing](StoreError::is_missing) if it has none.
    fn files(&self, lock: &LockName) -> Result<RecordFiles, StoreError> {
        self.checked(self.open()?.directory(lock.as_str())?)
    }

    /// The files of a lock, in a directory that is made if there is none.
    fn make_files(&self, lock: &LockName) -> Result<RecordFiles, StoreError> {
        let base = self.open()?;
        let dir = match base.directory(lock.as_str()) {
            Err(error) if error.is_missing() => {
                file_system::make_in(&base, lock.as_str(), &self.sharing)?
            }
            opened => opened?,
        };
        self.checked(dir)
    }

    fn checked(&self, dir: OpenDir) -> Result<RecordFiles, StoreError> {
        self.warn(self.sharing.judge_lock(&dir)?);
        Ok(RecordFiles::new(dir))
    }

    /// Where one lock's directory is, made if that is possible.
    pub(crate) fn of_lock(&self, lock: &LockName) -> Result<PathBuf, Error> {
        match self.make_files(lock) {
            Err(error) if !error.is_refused() && !error.is_missing() => {
                Err(error.into_error(Operation::Holder))
            }
            Ok(_) | Err(_) => Ok(self.path.join(lock.as_str())),
        }
    }

    pub(crate) fn get(&self, lock: &LockName) -> Result<Option<Versioned>, Error> {
        let failed = |error: StoreError| error.into_error(Operation::Holder);
        let files = match self.files(lock) {
            Err(error) if error.is_missing() => return Ok(None),
            files => files.map_err(failed)?,
        };
        for _ in 0..ATTEMPTS {
            let Some((version, bytes)) = files.latest().map_err(failed)? else {
                return Ok(None);
            };
            if version >= Generation::STEP {
                return Err(beyond_tokens(Operation::Holder, &files.path(version)));
            }
            let (record, liveness) = match format::decode(&bytes) {
                Content::Record(record, written) => {
                    let alive = written.alive.as_deref();
                    let maker =
                        alive.map_or(Maker::Unknown, |name| alive::maker(files.dir(), name));
                    // Its name goes when the next leader is elected: has one been meanwhile?
                    if record.holder.is_some()
                        && maker == Maker::Unknown
                        && files.highest().map_err(failed)? != Some(version)
                    {
                        continue;
                    }
                    let liveness = self.liveness(&record, &written, maker);
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
            let found = Versioned::new(record, version).with_liveness(liveness);
            return Ok(Some(found.with_mark(mark_text(version, &bytes))));
        }
        Err(Error::new(
            ErrorKind::Conflict,
            Operation::Holder,
            format!("others changed the record {ATTEMPTS} times in a row"),
        ))
    }

    /// Leaves a wish for the leader of the term with `token`, if that is the one.
    pub(crate) fn ask_to_resign(
        &self,
        lock: &LockName,
        token: FencingToken,
        lasts: Duration,
    ) -> Result<(), Error> {
        let failed = |error: StoreError| error.into_error(Operation::AskToResign);
        let files = match self.files(lock) {
            Err(error) if error.is_missing() => return Ok(()),
            files => files.map_err(failed)?,
        };
        let Some((_, bytes)) = files.latest().map_err(failed)? else {
            return Ok(());
        };
        let holder = match format::decode(&bytes) {
            Content::Record(record, _) => record.holder,
            Content::Newer(_) | Content::Damaged(_) => None,
        };
        if holder.and_then(|holder| holder.token) != Some(token) {
            return Ok(());
        }
        let name = wish::name_of(Wish::new(token, BootClock.now() + lasts));
        match files.dir().create(&name) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            made => made
                .map(drop)
                .during(Action::Create, &files.dir().path(&name))
                .map_err(failed),
        }
    }

    /// The locks that have a record.
    pub(crate) fn locks(&self) -> Result<Vec<LockName>, Error> {
        let failed = |error: StoreError| error.into_error(Operation::List);
        let base = self.open().map_err(failed)?;
        let names = base.names().during(Action::List, &self.path);
        let names = names.map_err(failed)?.into_iter();
        let has_record = |lock: &LockName| {
            let files = base.directory(lock.as_str()).map(RecordFiles::new);
            files.is_ok_and(|files| files.highest().is_ok_and(|highest| highest.is_some()))
        };
        let locks = names.filter_map(|name| LockName::new(name).ok());
        Ok(locks.filter(has_record).collect())
    }

    fn liveness(&self, record: &Record, written: &Written, maker: Maker) -> Liveness {
        if maker == Maker::Dead {
            return Liveness::Gone;
        }
        // From here on the holder may be alive, also when the clocks differ: another time
        // namespace has an offset of its own, and some containers have a boot identifier of their
        // own. After a real reboot nobody has the file locked.
        let now = BootClock.now();
        match written.renewed {
            // A time to come is damage: it must not keep the lock taken without end.
            Some(renewed)
                if self.domain.is_some() && written.clock == self.domain && renewed <= now =>
            {
                Liveness::Until(renewed + record.lease)
            }
            _ => Liveness::Observed,
        }
    }

    pub(crate) fn write(&self, write: Write) -> Result<record::Written, Error> {
        let operation = write.step.operation();
        let failed = |error: StoreError| error.into_error(operation);
        let opened = match write.step {
            Step::Acquire => self.make_files(&write.lock),
            _ => self.files(&write.lock),
        };
        let files = match opened {
            Err(error) if error.is_missing() && write.step != Step::Acquire => {
                return Ok(record::Written::Conflict);
            }
            files => files.map_err(failed)?,
        };
        let version = write.expected.saturating_add(1);
        let token = match FencingToken::from_counter(version) {
            Ok(token) if version < Generation::STEP => token,
            _ => return Err(beyond_tokens(operation, &files.path(write.expected))),
        };
        let (mut record, mut alive) = (write.record, write.alive);
        if write.step == Step::Acquire {
            // Of a thousand that were woken all but the first turn round here, before they have
            // made any file.
            let highest = files.highest().map_err(failed)?;
            if highest.is_some_and(|highest| highest > write.expected) {
                return Ok(record::Written::Conflict);
            }
            if let Some(holder) = &mut record.holder {
                holder.token = Some(token);
                let campaign = holder.campaign.unwrap_or(CampaignId::new(0));
                // A new one for each term, since the old one may be held by the maker of an
                // earlier attempt.
                alive = match Alive::create(files.dir(), campaign, record.lease) {
                    Ok(made) => Some(Arc::new(made)),
                    // The directory was removed since it was opened: it is made again.
                    Err(error) if error.is_missing() => return Ok(record::Written::Conflict),
                    Err(error) => return Err(failed(error)),
                };
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
                alive.remove(files.dir());
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
        let token = record.holder.as_ref().and_then(|holder| holder.token);
        let asked = token.and_then(|token| wish::for_term(sweep.wishes(), token));
        for name in sweep.wishes() {
            if write.step == Step::Release || wish::read(name) != asked {
                let _gone = files.dir().remove(name);
            }
        }
        let liveness = self.liveness(&record, &written, Maker::Unknown);
        let mut versioned = Versioned::new(record, version)
            .with_liveness(liveness)
            .with_mark(mark_text(version, &content))
            .with_wish(asked);
        if let Some(alive) = alive {
            versioned = versioned.with_state(alive);
        }
        Ok(record::Written::Applied(versioned))
    }
}

/// What tells a renewal from all others, also from one of a deleted record under the same version.
/// It is the version, and the record as it is written, with its time and the name of the file that
/// its holder keeps locked. A damaged record has little text, so the version counts too.
fn mark_text(version: u64, content: &[u8]) -> String {
    format!("{version} {}", String::from_utf8_lossy(content))
}

/// What an unreadable record is taken for: held for as long as any candidate that may hold it
/// could believe so.
fn unreadable(files: &RecordFiles) -> Result<(Record, Liveness), StoreError> {
    // A leader's alive file is there and locked from before its record is.
    let lease = files
        .alive_names()?
        .iter()
        .filter_map(|name| match alive::maker(files.dir(), name) {
            Maker::Alive { lease } => Some(lease),
            Maker::Dead => None,
            Maker::Unknown => Some(MAX_LEASE),
        })
        .max();
    let record = Record::new(
        Some(RecordHolder::new("(unreadable record)")),
        lease.unwrap_or(MAX_LEASE),
    );
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
