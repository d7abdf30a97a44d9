//! Candidates in other processes, and the account they give of their terms.

use std::collections::HashMap;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tenure_core::{BootClock, Clock as _, LockName};
use tokio::time::sleep;

use crate::case_context::{CaseContext, identity, lock_name};
use crate::verdict::{ensure, fail};
use crate::{Stop, Target, Verdict};

const HISTORY: &str = "TENURE_CONTENDER_HISTORY";
const LOCK: &str = "TENURE_CONTENDER_LOCK";
const NAME: &str = "TENURE_CONTENDER_NAME";
const TURNS: &str = "TENURE_CONTENDER_TURNS";
const LEASE: &str = "TENURE_CONTENDER_LEASE_MS";

const CONTENDERS: usize = 3;
const TURNS_EACH: u32 = 8;

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
    let runtime = crate::harness::runtime();
    let verdict = runtime.block_on(async {
        let target = connect().await;
        contend(&target, Path::new(&history)).await
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

/// Takes its turns and writes down each; after the last it keeps the lock until it is killed if
/// it has only one.
async fn contend(target: &dyn Target, history: &Path) -> Verdict {
    let context = CaseContext::open(target).await?;
    let lock = lock_name(&variable(LOCK)?)?;
    let turns = number(TURNS)?;
    let lease = Duration::from_millis(number(LEASE)?);
    let mut contestant = context
        .contestant(&lock)
        .await?
        .identity(&identity(&variable(NAME)?)?)
        .lease(lease);
    let name = contestant.candidate.identity.to_string();
    for _ in 0..turns {
        contestant = contestant.next();
        let grant = context
            .eventually(
                "a turn of one of many processes",
                context.patience(),
                async || contestant.try_held().await,
            )
            .await?;
        note(history, &format!("start {name} {}", grant.token))?;
        if turns == 1 {
            // To be killed; not for ever, should the killer die first.
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
struct History(PathBuf);

impl History {
    fn new() -> Self {
        let name = format!("tenure-contestants-{:016x}", fastrand::u64(..));
        Self(std::env::temp_dir().join(name))
    }

    fn read(&self) -> Vec<Entry> {
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

struct Entry {
    at: u64,
    start: bool,
    token: u64,
}

impl Entry {
    fn parse(line: &str) -> Option<Self> {
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
struct Running(Child);

impl Running {
    fn start(
        context: &CaseContext<'_>,
        lock: &LockName,
        history: &History,
        (name, turns, lease): (&str, u32, Duration),
    ) -> Result<Self, Stop> {
        let Some(mut command) = context.target.contestant() else {
            return Err(Stop::left_out("the target has no hook `contestant`"));
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

    /// Whether it has ended; how, if it was not well.
    fn ended(&mut self) -> Result<bool, Stop> {
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

/// Several processes take turns.
pub(crate) async fn compete(context: &CaseContext<'_>, lock: &LockName) -> Verdict {
    let history = History::new();
    let mut running = Vec::new();
    for number in 0..CONTENDERS {
        let name = format!("contestant-{number}");
        let part = (&*name, TURNS_EACH, context.long());
        running.push(Running::start(context, lock, &history, part)?);
    }
    context
        .eventually(
            "the end of the contestants",
            context.patience() * 2,
            async || {
                let mut all = true;
                for child in &mut running {
                    all &= child.ended()?;
                }
                Ok(all.then_some(()))
            },
        )
        .await?;
    judge(&history.read(), CONTENDERS * TURNS_EACH as usize)
}

/// No two terms at a time, and rising tokens.
fn judge(entries: &[Entry], terms: usize) -> Verdict {
    let mut stops = HashMap::new();
    for entry in entries.iter().filter(|entry| !entry.start) {
        stops.insert(entry.token, entry.at);
    }
    let mut starts: Vec<_> = entries.iter().filter(|entry| entry.start).collect();
    starts.sort_by_key(|start| start.at);
    ensure!(
        starts.len() == terms,
        "{terms} terms were to be had by processes, {} were",
        starts.len()
    );
    for pair in starts.windows(2) {
        ensure!(
            pair[0].token < pair[1].token,
            "among processes the token went from {} to {}",
            pair[0].token,
            pair[1].token
        );
        let stop = stops.get(&pair[0].token);
        ensure!(
            stop.is_some_and(|stop| *stop <= pair[1].at),
            "two processes hold one lock, with the tokens {} and {}",
            pair[0].token,
            pair[1].token
        );
    }
    Ok(())
}

/// A process is killed while it holds the lock, which somebody else gets when its lease is over.
pub(crate) async fn killed(context: &CaseContext<'_>, lock: &LockName) -> Verdict {
    let history = History::new();
    let lease = context.short();
    let mut process = Running::start(context, lock, &history, ("contestant", 1, lease))?;
    context
        .eventually(
            "a term of another process",
            context.patience(),
            async || {
                if process.ended()? {
                    fail!("a contestant ended before it was killed");
                }
                Ok(history.read().iter().any(|entry| entry.start).then_some(()))
            },
        )
        .await?;
    drop(process);
    let contestant = context.contestant(lock).await?;
    let within = context.until_free(lease);
    let grant = context
        .eventually("the lock of a killed process", within, async || {
            contestant.try_held().await
        })
        .await?;
    contestant.release(&grant).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(text: &str) -> Vec<Entry> {
        text.lines().filter_map(Entry::parse).collect()
    }

    #[test]
    fn terms_one_after_another_are_fine() {
        let good = entries("1 start a 5\n2 stop a 5\n3 start b 7\n4 stop b 7\n5 sta");
        assert_eq!(judge(&good, 2), Ok(()));
        assert!(judge(&good, 3).is_err());
    }

    #[test]
    fn terms_side_by_side_and_falling_tokens_are_found() {
        let both = entries("1 start a 5\n2 start b 7\n3 stop a 5\n4 stop b 7");
        assert!(judge(&both, 2).is_err());
        let falling = entries("1 start a 5\n2 stop a 5\n3 start b 4\n4 stop b 4");
        assert!(judge(&falling, 2).is_err());
    }
}
