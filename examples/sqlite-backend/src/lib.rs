//! A worked example: a lock backend of one's own, on a `SQLite` database that several processes of
//! a host share. [Writing a backend](../../../docs/how-to/write-a-backend.md) walks through it.
//!
//! `SQLite` offers compare-and-swap on a row, so this implements [`RecordStore`] and gets the lock
//! protocol from [`RecordLock`].

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::stream;
use rusqlite::{Connection, OpenFlags, OptionalExtension as _, Row, params};
use tenure_core::record::{
    Record, RecordEvents, RecordHolder, RecordLock, RecordStore, Step, Versioned, Written,
};
use tenure_core::{
    BootClock, CampaignId, Capabilities, Check, Error, ErrorKind, Expiry, FencingGuarantee,
    FencingToken, LockName, Operation, Rises, SharedClock,
};
use tenure_kit::{StoreError, Url, blocking};

/// Elections among the processes that share one `SQLite` database.
pub type SqliteBackend = RecordLock<SqliteStore>;

/// Connects by a URL: `sqlite:///directory/locks.db`. With `create=false` a missing database is an
/// error. Wrong settings fail before any I/O.
pub async fn connect(mut url: Url) -> Result<SqliteBackend, Error> {
    let create = url.take_switch("create")?.unwrap_or(true);
    let path = PathBuf::from(format!("/{}", url.path()?));
    let is_local = url.hosts().is_empty() && url.user().is_none() && url.password().is_none();
    if !is_local || !url.raw_path().starts_with('/') || path.file_name().is_none() {
        return Err(Error::invalid_input(
            "the URL does not name a file; use sqlite:///absolute/path/locks.db",
        ));
    }
    url.finish()?;
    // Dropping the future lets it run to its end: then there is an empty database.
    let opened = blocking(move || open_with(&path, create)).await;
    opened.map_err(|error: StoreError| error.into_error(Operation::Connect))?
}

/// Opens the database at `path`, creating it if need be. Blocks for as long as the disk takes.
pub fn open(path: &Path) -> Result<SqliteBackend, Error> {
    open_with(path, true)
}

fn open_with(path: &Path, create: bool) -> Result<SqliteBackend, Error> {
    let open = || {
        let mut flags = OpenFlags::default();
        flags.set(OpenFlags::SQLITE_OPEN_CREATE, create);
        let connection = Connection::open_with_flags(path, flags)?;
        // How long a writer waits for another one; below every request timeout.
        connection.busy_timeout(Duration::from_millis(200))?;
        connection.execute_batch(SCHEMA)?;
        Ok(connection)
    };
    let connection = open().map_err(|error| failed(Operation::Connect, error))?;
    Ok(RecordLock::new(SqliteStore {
        connection: Arc::new(Mutex::new(connection)),
    }))
}

/// `AUTOINCREMENT` never gives a number twice, also after the row with the largest is deleted: so
/// versions, and with them fencing tokens, rise over the deletion of a lock.
const SCHEMA: &str = "
    PRAGMA journal_mode = WAL;
    PRAGMA synchronous = FULL;
    CREATE TABLE IF NOT EXISTS tenure_locks (
        version  INTEGER PRIMARY KEY AUTOINCREMENT,
        name     TEXT NOT NULL UNIQUE,
        holder   TEXT,
        campaign TEXT,
        token    INTEGER,
        value    TEXT,
        lease_ms INTEGER NOT NULL
    );
";

/// The records behind [`SqliteBackend`].
#[derive(Debug)]
pub struct SqliteStore {
    connection: Arc<Mutex<Connection>>,
}

impl SqliteStore {
    /// Runs `query` where it may block. Dropping the future lets it run to its end: it may have
    /// been applied, which the lock protocol expects of every write.
    async fn run<T: Send + 'static>(
        &self,
        operation: Operation,
        query: impl FnOnce(&mut Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, Error> {
        let connection = self.connection.clone();
        let done =
            blocking(move || query(&mut connection.lock().unwrap_or_else(PoisonError::into_inner)));
        let result = done
            .await
            .map_err(|error: StoreError| error.into_error(operation))?;
        result.map_err(|error| failed(operation, error))
    }

    /// Writes `record` in place of the version `expected`, or as the first.
    async fn write(
        &self,
        lock: &LockName,
        record: &Record,
        step: Step,
        expected: Option<u64>,
    ) -> Result<Written, Error> {
        let (name, row) = (lock.as_str().to_owned(), record.clone());
        let operation = step.operation();
        let version = self
            .run(operation, move |connection| {
                let transaction = connection.transaction()?;
                if let Some(expected) = expected
                    && transaction.execute(
                        "DELETE FROM tenure_locks WHERE name = ?1 AND version = ?2",
                        params![name, to_sql(expected)],
                    )? == 0
                {
                    return Ok(None);
                }
                let holder = row.holder.as_ref();
                let inserted = transaction.execute(
                    "INSERT INTO tenure_locks (name, holder, campaign, token, value, lease_ms)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT (name) DO NOTHING",
                    params![
                        name,
                        holder.map(|holder| &holder.identity),
                        holder
                            .and_then(|holder| holder.campaign)
                            .map(|id| id.to_string()),
                        holder
                            .and_then(|holder| holder.token)
                            .map(FencingToken::as_i64),
                        holder.and_then(|holder| holder.value.as_ref()),
                        i64::try_from(row.lease.as_millis()).unwrap_or(i64::MAX),
                    ],
                )?;
                let version = transaction.last_insert_rowid();
                transaction.commit()?;
                Ok((inserted == 1).then_some(version))
            })
            .await?;
        let Some(version) = version else {
            return Ok(Written::Conflict);
        };
        // A record to be written lacks a token only in the write that mints it.
        let written = Versioned::new(record.clone(), version.unsigned_abs());
        Ok(Written::Applied(written.with_minted_token()?))
    }
}

#[async_trait]
impl RecordStore for SqliteStore {
    fn capabilities(&self) -> Capabilities {
        Capabilities::new(
            "sqlite",
            Expiry::Observation,
            FencingGuarantee::none()
                .over_crash(Rises::Always)
                .over_failover(Rises::NotApplicable)
                .over_deletion(Rises::Always),
        )
        .with_min_lease(Duration::from_millis(500))
        .with_lease_granularity(Duration::from_millis(1))
    }

    fn clock(&self) -> SharedClock {
        BootClock::shared()
    }

    async fn get(&self, lock: &LockName) -> Result<Option<Versioned>, Error> {
        let name = lock.as_str().to_owned();
        let row = self
            .run(Operation::Holder, move |connection| {
                connection
                    .query_row(
                        "SELECT * FROM tenure_locks WHERE name = ?1",
                        [name],
                        columns,
                    )
                    .optional()
            })
            .await?;
        let Some((version, record)) = row else {
            return Ok(None);
        };
        // A record without a token is the very write that minted it.
        let found = Versioned::new(record, version);
        Ok(Some(found.with_minted_token()?))
    }

    async fn create(&self, lock: &LockName, record: &Record) -> Result<Written, Error> {
        self.write(lock, record, Step::Acquire, None).await
    }

    async fn replace(
        &self,
        lock: &LockName,
        record: &Record,
        step: Step,
        expected: &Versioned,
    ) -> Result<Written, Error> {
        // A version that is no number of ours is that of another store: no row has it.
        let expected = expected.version.as_u64().unwrap_or(u64::MAX);
        self.write(lock, record, step, Some(expected)).await
    }

    async fn checks(&self, _: &LockName, _: Duration) -> Vec<Check> {
        const NAME: &str = "journal";
        let mode = |connection: &mut Connection| {
            connection.query_row("PRAGMA journal_mode", [], |row| row.get::<_, String>(0))
        };
        vec![match self.run(Operation::Connect, mode).await {
            Ok(mode) if mode == "wal" => Check::fine(NAME, "writers do not wait for readers"),
            Ok(mode) => Check::warning(
                NAME,
                format!("the journal mode is {mode}, so writers wait for readers"),
                "put the database on a local file system, which WAL mode needs",
            ),
            Err(error) => Check::warning(NAME, error.message(), "fix this and run doctor again"),
        }]
    }

    fn watch(&self, _: &LockName) -> RecordEvents {
        // SQLite tells nobody of changes: the stream ends at once, and candidates poll.
        Box::pin(stream::empty())
    }
}

fn columns(row: &Row<'_>) -> rusqlite::Result<(u64, Record)> {
    let token: Option<u64> = row.get::<_, Option<i64>>("token")?.map(i64::unsigned_abs);
    let campaign: Option<String> = row.get("campaign")?;
    let value: Option<String> = row.get("value")?;
    let holder: Option<String> = row.get("holder")?;
    let record = Record::new(
        holder.map(|identity| {
            RecordHolder::new(identity)
                .with_campaign(campaign.as_deref().and_then(CampaignId::parse))
                .with_token(token.and_then(|token| FencingToken::from_counter(token).ok()))
                .with_value(value)
        }),
        // A negative duration in a damaged row counts as none.
        Duration::from_millis(u64::try_from(row.get::<_, i64>("lease_ms")?).unwrap_or(0)),
    );
    Ok((row.get::<_, i64>("version")?.unsigned_abs(), record))
}

fn to_sql(version: u64) -> i64 {
    i64::try_from(version).unwrap_or(i64::MAX)
}

fn failed(operation: Operation, error: rusqlite::Error) -> Error {
    use rusqlite::ErrorCode as Code;
    let (kind, message) = match error.sqlite_error_code() {
        Some(Code::DatabaseBusy | Code::DatabaseLocked) => {
            (ErrorKind::Unavailable, "the database is busy")
        }
        Some(Code::DiskFull) => (ErrorKind::Unavailable, "the disk is full"),
        Some(Code::PermissionDenied | Code::ReadOnly) => (
            ErrorKind::Forbidden,
            "the database file and its directory must be writable for this process",
        ),
        Some(Code::CannotOpen) => (
            ErrorKind::Misconfigured,
            "the database cannot be opened; does its directory exist?",
        ),
        Some(Code::NotADatabase | Code::DatabaseCorrupt) => (
            ErrorKind::Corrupted,
            "the file is no intact SQLite database",
        ),
        _ => (ErrorKind::Unavailable, "the database did not do it"),
    };
    Error::new(kind, operation, message).with_source(error)
}
