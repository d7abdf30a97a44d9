//! Contestants in other processes, and the account they give of their terms.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tenure_core::{BootClock, Clock as _, LockName};
use tokio::time::sleep;

use crate::case_context::CaseContext;
use crate::names::{identity, lock_name};
use crate::runtime::runtime;
use crate::target::Target;
use crate::verdict::{Stop, Verdict, fail};

const HISTORY: &str = "TENURE_CONTESTANT_HISTORY";
const LOCK: &str = "TENURE_CONTESTANT_LOCK";
const NAME: &str = "TENURE_CONTESTANT_NAME";
const TURNS: &str = "TENURE_CONTESTANT_TURNS";
const LEASE: &str = "TENURE_CONTESTANT_LEASE_MS";

/// How long a contestant stays inside: long enough for others to come in if they can.
const INSIDE: Duration = Duration::from_millis(3);

/// Runs this test binary again, for the test `name` alone: the path as libtest lists it, such as
/// `contestant` or `file::contestant`. Meant for [`Target::contestant`].
pub fn reexec(name: &str) -> Command {
    let program = std::env::current_exe().unwrap_or_else(|_| PathBuf::from("/proc/self/exe"));
    let mut command = Command::new(program);
    command.args([name, "--exact", "--include-ignored", "--nocapture"]);
    command
}

/// Does the part of another process if this process was started for it, and nothing otherwise.
///
/// Call it in a test (see [`reexec`]) or first thing in a `main`. `connect` makes the target on
/// the same store; what it needs to know, the [`contestant`](Target::contestant) command passes
/// in its environment or arguments.
///
/// Panics if the target fails, so that the process ends with an error.
pub fn contestant_main<S: Target>(connect: impl AsyncFnOnce() -> S) -> bool {
    let Some(history) = std::env::var_os(HISTORY) else {
        return false;
    };
    let runtime = runtime();
    let verdict = runtime.block_on(async {
        let target = connect().await;
        take_turns(&target, Path::new(&history)).await
    });
    runtime.shutdown_background();
    assert!(verdict.is_ok(), "the contestant failed: {verdict:?}");
    true
}

fn variable(name: &str) -> Result<String, Stop> {
    std::env::var(name).map_err(|error| Stop::failed(format!("{name}: {error}")))
}

fn number(name: &str) -> Result<u64, Stop> {
    let text = variable(name)?;
    text.parse()
        .map_err(|error| Stop::failed(format!("{name}={text}: {error}")))
}

/// Takes its turns and writes down each. With one turn only it keeps the lock until it is killed.
async fn take_turns(target: &dyn Target, history: &Path) -> Verdict {
    let context = CaseContext::open(target).await?;
    let lock = lock_name(&variable(LOCK)?)?;
    let turns = number(TURNS)?;
    let lease = Duration::from_millis(number(LEASE)?);
    let mut contestant = context.contestant(&lock).await?.lease(lease);
    contestant = contestant.identity(&identity(&variable(NAME)?)?);
    let name = contestant.candidate.identity.to_string();
    for _ in 0..turns {
        contestant = contestant.next();
        let what = "a turn of one of many processes";
        let grant = context.granted(&contestant, what, context.patience());
        let grant = grant.await?;
        note(history, &format!("start {name} {}", grant.token))?;
        if turns == 1 {
            // This process is to be killed. It ends by itself if the other one is gone.
            sleep(context.patience() * 4).await;
        }
        sleep(INSIDE).await;
        let grant = contestant.renewed(&grant, "the winner of a turn").await?;
        note(history, &format!("stop {name} {}", grant.token))?;
        contestant.release(&grant).await?;
    }
    Ok(())
}

/// Appends one line with the time of the host's boot clock, which all its processes share.
fn note(history: &Path, what: &str) -> Verdict {
    let line = format!("{} {what}\n", BootClock.now().as_nanos());
    OpenOptions::new()
        .append(true)
        .create(true)
        .open(history)
        .and_then(|mut file| file.write_all(line.as_bytes()))
        .map_err(|error| Stop::failed(format!("the history {}: {error}", history.display())))
}

/// A history file that is removed in the end.
pub(crate) struct History(PathBuf);

impl History {
    pub(crate) fn new() -> Self {
        let name = format!("tenure-contestants-{:016x}", fastrand::u64(..));
        Self(std::env::temp_dir().join(name))
    }

    pub(crate) fn read(&self) -> Vec<Entry> {
        let text = std::fs::read_to_string(&self.0).unwrap_or_default();
        // A killed writer may leave half a line.
        text.lines().filter_map(Entry::parse).collect()
    }
}

impl Drop for History {
    fn drop(&mut self) {
        let _gone_already = std::fs::remove_file(&self.0);
    }
}

/// One line of the history: a term that started or stopped.
pub(crate) struct Entry {
    pub(crate) at: u64,
    pub(crate) start: bool,
    pub(crate) token: u64,
}

impl Entry {
    pub(crate) fn parse(line: &str) -> Option<Self> {
        let mut words = line.split(' ');
        let at = words.next()?.parse().ok()?;
        let start = match words.next()? {
            "start" => true,
            "stop" => false,
            _ => return None,
        };
        let _name = words.next()?;
        let token = words.next()?.parse().ok()?;
        Some(Self { at, start, token })
    }
}

/// A process that is killed in the end.
pub(crate) struct Running(Child);

impl Running {
    pub(crate) fn start(
        context: &CaseContext<'_>,
        lock: &LockName,
        history: &History,
        (name, turns, lease): (&str, u32, Duration),
    ) -> Result<Self, Stop> {
        let Some(mut command) = context.target.contestant() else {
            return Err(Stop::missing_hook("contestant"));
        };
        command
            .env(HISTORY, &history.0)
            .env(LOCK, lock.as_str())
            .env(NAME, name)
            .env(TURNS, turns.to_string())
            .env(LEASE, lease.as_millis().to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        match command.spawn() {
            Ok(child) => Ok(Self(child)),
            Err(error) => Err(Stop::failed(format!("{command:?}: {error}"))),
        }
    }

    /// Whether it has ended. One that failed fails the case.
    pub(crate) fn ended(&mut self) -> Result<bool, Stop> {
        match self.0.try_wait() {
            Ok(None) => Ok(false),
            Ok(Some(status)) if status.success() => Ok(true),
            Ok(Some(status)) => fail!("a contestant ended with {status}"),
            Err(error) => fail!("a contestant cannot be waited for: {error}"),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ended_already = self.0.kill();
        let _ended_already = self.0.wait();
    }
}
