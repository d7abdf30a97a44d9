//! A job that runs once in each period, on one of many instances.
//!
//! To lead is not enough: a leader can be replaced between two runs, or in the middle of one, and
//! the next one must know what was done. So each run is entered in a ledger that all instances
//! share, by one statement that refuses a run that is already there and a leader that is past.
//!
//! A run is entered **before** it begins, so none happens twice; one that a crash cuts short is not
//! repeated. A job that may run twice but must not be left out enters it afterwards instead.

use std::future::Future;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rusqlite::{Connection, params};
use tenure::{Election, FencingToken, Next, Term};

/// The longest that the entry can take.
const ENTRY: Duration = Duration::from_secs(2);

/// Which runs were begun. Here a `SQLite` file, whose calls are short; the statement is the same on
/// any SQL database.
#[derive(Debug)]
pub struct Ledger(Mutex<Connection>);

impl Ledger {
    /// The ledger in a file, which is made if there is none.
    pub fn open(file: &Path) -> rusqlite::Result<Self> {
        let connection = Connection::open(file)?;
        connection.busy_timeout(ENTRY / 2)?;
        connection.execute(
            "CREATE TABLE IF NOT EXISTS runs (job TEXT PRIMARY KEY, run INTEGER, token INTEGER)",
            [],
        )?;
        Ok(Self(Mutex::new(connection)))
    }

    /// Enters a run, unless it or a later one is there, or a later leader has been.
    pub fn begin(&self, job: &str, run: i64, token: FencingToken) -> rusqlite::Result<bool> {
        let connection = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let entered = connection.execute(
            "INSERT INTO runs VALUES (?1, ?2, ?3) ON CONFLICT (job) DO UPDATE \
             SET run = excluded.run, token = excluded.token \
             WHERE runs.run < excluded.run AND runs.token <= excluded.token",
            params![job, run, token.as_i64()],
        )?;
        Ok(entered == 1)
    }
}

/// Runs `job` once in each period, on whichever instance leads, until `shutdown`.
pub async fn run<J, F>(
    election: &Election,
    ledger: Ledger,
    period: Duration,
    shutdown: impl Future<Output = ()>,
    job: J,
) -> anyhow::Result<()>
where
    J: Fn(i64) -> F,
    F: Future<Output = anyhow::Result<()>>,
{
    let (ledger, job) = (&ledger, &job);
    election
        .run_until(shutdown, |term| while_leading(term, ledger, period, job))
        .await?;
    Ok(())
}

async fn while_leading<J, F>(
    term: Term,
    ledger: &Ledger,
    period: Duration,
    job: &J,
) -> anyhow::Result<Next>
where
    J: Fn(i64) -> F,
    F: Future<Output = anyhow::Result<()>>,
{
    loop {
        let (run, next) = current_run(period)?;
        let name = term.lock().as_str();
        let Ok(permit) = term.permit(ENTRY) else {
            return Ok(Next::Campaign);
        };
        if ledger.begin(name, run, permit.token)? {
            match term.until_cancelled(job(run)).await {
                Ok(done) => done?,
                Err(over) => {
                    tracing::warn!(run, "cut short: {over}");
                    return Ok(Next::Campaign);
                }
            }
        }
        if term
            .until_cancelled(tokio::time::sleep(next))
            .await
            .is_err()
        {
            return Ok(Next::Campaign);
        }
    }
}

/// The number of the period we are in, and how long until the next. The wall clock only names the
/// runs here: where it differs between hosts, a run is early or late, but still happens once.
fn current_run(period: Duration) -> anyhow::Result<(i64, Duration)> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos();
    let period = period.as_nanos().max(1);
    let next = period - now % period;
    Ok((
        i64::try_from(now / period)?,
        Duration::from_nanos(u64::try_from(next)?),
    ))
}
