//! What each process writes down: one line for each event, in a file of its own.
//!
//! ```text
//! 81234567890 4711 elected 17 84219567890
//! boot clock   pid  event   token, and what belongs to the event
//! ```
//!
//! The boot clock is one for all processes of a host, so it orders the lines of all files. A process
//! that is killed can leave half a line behind: a file is read up to its last whole line.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use anyhow::{Context as _, Result};
use tenure::{BootClock, Clock as _};

/// Nanoseconds of the boot clock.
pub type Nanos = u64;

/// The boot clock now.
pub fn now() -> Nanos {
    BootClock.now().as_nanos()
}

/// Appends the events of this process.
#[derive(Debug)]
pub struct Writer {
    file: Mutex<File>,
    path: PathBuf,
}

impl Writer {
    /// Makes the file of this process, or one with another name for a process with several.
    pub fn create(directory: &Path, name: &str) -> Result<Self> {
        let path = directory.join(name);
        let file = OpenOptions::new().create(true).append(true).open(&path);
        Ok(Self {
            file: Mutex::new(file.with_context(|| path.display().to_string())?),
            path,
        })
    }

    /// Appends an event that happens now. One call of the system writes the whole line.
    pub fn event(&self, event: &str, token: u64, rest: &str) -> io::Result<()> {
        self.event_at(now(), std::process::id(), event, token, rest)
    }

    /// The same for an event of another process, or of an earlier moment.
    pub fn event_at(
        &self,
        at: Nanos,
        pid: u32,
        event: &str,
        token: u64,
        rest: &str,
    ) -> io::Result<()> {
        let rest = rest.replace('\n', " ");
        let line = format!("{at} {pid} {event} {token} {rest}\n");
        let file = self.file.lock();
        let mut file = file.map_err(|_| io::Error::other(self.path.display().to_string()))?;
        file.write_all(line.as_bytes())
    }
}

/// One line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// When it happened.
    pub at: Nanos,
    /// The process that it is about.
    pub pid: u32,
    /// What happened.
    pub event: String,
    /// The term's token; 0 where there is none.
    pub token: u64,
    /// What belongs to the event.
    pub rest: String,
}

impl Line {
    /// The number at this position of the rest.
    pub fn number(&self, position: usize) -> Option<u64> {
        self.rest.split_whitespace().nth(position)?.parse().ok()
    }

    fn parse(line: &str) -> Option<Self> {
        let mut parts = line.splitn(5, ' ');
        Some(Self {
            at: parts.next()?.parse().ok()?,
            pid: parts.next()?.parse().ok()?,
            event: parts.next()?.to_owned(),
            token: parts.next()?.parse().ok()?,
            rest: parts.next().unwrap_or_default().to_owned(),
        })
    }
}

/// The lines of a text up to its last whole one. A whole line that is no event is an error.
pub fn parse(text: &str) -> Result<Vec<Line>> {
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    let lines = whole.lines().filter(|line| !line.is_empty());
    lines
        .map(|line| Line::parse(line).with_context(|| format!("no event: {line:?}")))
        .collect()
}

/// The lines of all files in a directory, in the order of the boot clock.
pub fn read_all(directory: &Path) -> Result<Vec<Line>> {
    let mut all = Vec::new();
    for entry in fs::read_dir(directory).with_context(|| directory.display().to_string())? {
        let path = entry?.path();
        let bytes = fs::read(&path).with_context(|| path.display().to_string())?;
        let text = String::from_utf8_lossy(&bytes);
        all.extend(parse(&text).with_context(|| path.display().to_string())?);
    }
    // Stable: two lines of one process at one moment stay as they were written.
    all.sort_by_key(|line| line.at);
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_history_that_was_cut_short_is_read_up_to_its_last_whole_line() {
        let lines = parse("5 7 elected 3 99\n6 7 valid 3 100\n7 7 val").unwrap();
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[1].number(0), Some(100));
        assert!(parse("5 7 ele").unwrap().is_empty());
        assert!(parse("what\n").is_err());
    }
}
