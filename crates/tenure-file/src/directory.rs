//! The locks of a directory: reads and writes of their records, as they are made on one thread.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tenure_core::record::{self, Liveness, MAX_LEASE, Record, RecordHolder, Step, Versioned};
use tenure_core::{
    BootClock, CampaignId, Clock as _, Error, ErrorKind, FencingToken, Generation, LockName,
    Operation,
};

use crate::alive::{self, Alive, Maker};
use crate::config::FileConfig;
use crate::errors::{Action, During as _, StoreError};
use crate::file_system;
use crate::format::{self, ClockDomain, Content, Written};
use crate::record_file::{RecordFiles, Swapped};

/// How often a look is repeated because the record was replaced under it.
const ATTEMPTS: usize = 8;

/// A directory that holds a directory for each lock.
#[derive(Debug)]
pub(crate) struct Directory {
    path: PathBuf,
    domain: Option<ClockDomain>,
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
        let path = config.directory();
        file_system::prepare(path, config.creates())
            .map_err(|error| error.into_error(operation))?;
        file_system::check(path, operation)?;
        Ok(Self {
            path: path.to_owned(),
            domain: ClockDomain::current(),
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    fn files(&self, lock: &LockName) -> RecordFiles {
        RecordFiles::new(self.path.join(lock.as_str()))
    }

    /// The directory of one lock, made if that is possible.
    pub(crate) fn of_lock(&self, lock: &LockName) -> Result<PathBuf, Error> {
        let files = self.files(lock);
        match ensure_dir(files.dir()) {
            Err(error) if error.is_refused() || error.is_missing() => {}
            ensured => ensured.map_err(|error| error.into_error(Operation::Holder))?,
        }
        Ok(files.dir().to_owned())
    }

    pub(crate) fn get(&self, lock: &LockName) -> Result<Option<Versioned>, Error> {
        let failed = |error: StoreError| error.into_error(Operation::Holder);
        let files = self.files(lock);
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
        let operation = operation_of(write.step);
        let failed = |error: StoreError| error.into_error(operation);
        let files = self.files(&write.lock);
        let version = write.expected.saturating_add(1);
        let token = match FencingToken::from_counter(version) {
            Ok(token) if version < Generation::STEP => token,
            _ => return Err(beyond_tokens(operation, &files.path(write.expected))),
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
        let liveness = self.liveness(&record, &written, Maker::Unknown);
        let mut versioned = Versioned::new(record, version).with_liveness(liveness);
        if let Some(alive) = alive {
            versioned = versioned.with_state(alive);
        }
        Ok(record::Written::Applied(versioned))
    }
}

/// What an unreadable record is taken for: held by somebody for as long as anybody who may hold it
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

pub(crate) fn operation_of(step: Step) -> Operation {
    match step {
        Step::Acquire => Operation::Acquire,
        Step::Renew => Operation::Renew,
        Step::Release => Operation::Release,
    }
}

fn ensure_dir(dir: &Path) -> Result<(), StoreError> {
    match fs::create_dir(dir) {
        Err(_) if dir.is_dir() => Ok(()),
        created => created.during(Action::Create, dir),
    }
}
