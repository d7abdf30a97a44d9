//! The fenced register: the resource that candidates write to with their token.
//!
//! It listens on a Unix socket, takes one line `pid token` for each write, and answers
//! `when accepted seen`. With its fence on it refuses each token below the largest one that it has
//! seen. Its own history has every write, in the order in which they took effect.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::history::{Nanos, Writer, now};

/// A running register. Its threads last as long as the process.
#[derive(Debug)]
pub struct Register {
    path: PathBuf,
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    fenced: bool,
    seen: u64,
    last: Option<Write>,
    history: Writer,
}

/// A write that took effect.
#[derive(Clone, Copy, Debug)]
pub struct Write {
    /// When.
    pub at: Nanos,
    /// Whose.
    pub pid: u32,
    /// Under which token.
    pub token: u64,
}

impl Register {
    /// Starts one that writes its history into this directory.
    pub fn start(directory: &Path, history: &Path, fenced: bool) -> Result<Self> {
        let path = directory.join("register");
        let listener = UnixListener::bind(&path).with_context(|| path.display().to_string())?;
        let state = Arc::new(Mutex::new(State {
            fenced,
            seen: 0,
            last: None,
            history: Writer::create(history, "register")?,
        }));
        let shared = state.clone();
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let state = shared.clone();
                // A candidate that is killed ends its connection.
                thread::spawn(move || serve(&stream, &state));
            }
        });
        Ok(Self { path, state })
    }

    /// Its socket.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The last write that took effect, if it is not older than this.
    pub fn last_write(&self, within: Duration) -> Option<Write> {
        let last = lock(&self.state).last?;
        let age = Duration::from_nanos(now().saturating_sub(last.at));
        (age <= within).then_some(last)
    }

    /// Forgets what it has seen: the store's tokens begin again.
    pub fn forget(&self) {
        lock(&self.state).seen = 0;
    }
}

fn lock(state: &Mutex<State>) -> std::sync::MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn serve(stream: &UnixStream, state: &Mutex<State>) -> Result<()> {
    let mut writer = stream;
    for line in BufReader::new(stream).lines() {
        let line = line?;
        let (pid, token) = line.split_once(' ').context("no write")?;
        let answer = lock(state).write(pid.parse()?, token.parse()?)?;
        writeln!(writer, "{answer}")?;
    }
    Ok(())
}

impl State {
    fn write(&mut self, pid: u32, token: u64) -> Result<String> {
        let (at, seen) = (now(), self.seen);
        let accepted = !self.fenced || token >= seen;
        if accepted {
            self.last = Some(Write { at, pid, token });
        }
        self.seen = seen.max(token);
        let accepted = u8::from(accepted);
        let event = if accepted == 1 { "took" } else { "turned-away" };
        self.history
            .event_at(at, pid, event, token, &seen.to_string())?;
        Ok(format!("{at} {accepted} {seen}"))
    }
}
