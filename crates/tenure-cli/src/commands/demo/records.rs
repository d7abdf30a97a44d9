//! What the commands of the demo wrote down themselves about the work they did.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tenure::{BootClock, Clock as _, Time};
use tokio::signal::unix::SignalKind;

use crate::failure::Failure;
use crate::options;
use crate::supervisor::signals;

/// How often a command does a piece of work.
const PACE: Duration = Duration::from_millis(10);

/// `tenure __work`: the command that candidates of the demo run. Writes a line whenever it does
/// something, at the very moment it does it: nobody else vouches for it.
pub(crate) fn work(path: &Path) -> Result<u8, Failure> {
    let token = std::env::var("TENURE_TOKEN").unwrap_or_default();
    let token: u64 = token
        .parse()
        .map_err(|_| Failure::new("TENURE_TOKEN is not set; this is started by tenure demo"))?;
    let cannot_write =
        |error: io::Error| Failure::new(format!("cannot write {}: {error}", path.display()));
    let mut file = OpenOptions::new()
        .append(true)
        .create(true)
        .open(path)
        .map_err(cannot_write)?;
    let mut note = |deed: &str| {
        let line = format!(
            "{} {} {token} {deed}\n",
            BootClock.now().as_nanos(),
            std::process::id()
        );
        file.write_all(line.as_bytes()).map_err(cannot_write)
    };
    options::runtime()?.block_on(async {
        let mut stop = signals::stream(SignalKind::terminate())?;
        note("start")?;
        loop {
            tokio::select! {
                biased;
                _ = stop.recv() => break,
                () = tokio::time::sleep(PACE) => note("work")?,
            }
        }
        note("stop")?;
        Ok(0)
    })
}

/// One term as its command recorded it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RecordedTerm {
    /// Whose it was, as an index.
    pub(super) candidate: usize,
    /// The command's process.
    pub(super) pid: i32,
    pub(super) token: u64,
    /// The first and the last moment at which it worked.
    pub(super) first: Time,
    pub(super) last: Time,
    /// How many pieces of work it did.
    pub(super) pieces: u64,
    /// Whether it stopped by itself.
    pub(super) stopped: bool,
}

/// All terms so far, in the order in which they began.
#[derive(Debug, Default)]
pub(super) struct RecordedTerms(Vec<RecordedTerm>);

impl RecordedTerms {
    pub(super) fn all(&self) -> &[RecordedTerm] {
        &self.0
    }

    pub(super) fn latest(&self) -> Option<&RecordedTerm> {
        self.0.last()
    }

    /// How long nobody worked before the term at `index`; `None` before the first, or when another
    /// term was not over.
    pub(super) fn leaderless_before(&self, index: usize) -> Option<Duration> {
        let (earlier, later) = self.0.split_at_checked(index)?;
        let over = earlier.iter().map(|term| term.last).max()?;
        let first = later.first()?.first;
        (first > over).then(|| first.since(over))
    }

    /// The pairs of terms that worked at the same time.
    pub(super) fn overlapping(&self) -> Vec<(&RecordedTerm, &RecordedTerm)> {
        let mut found = Vec::new();
        for (index, term) in self.0.iter().enumerate() {
            let before = self.0.iter().take(index);
            found.extend(
                before
                    .filter(|earlier| earlier.last >= term.first)
                    .map(|earlier| (earlier, term)),
            );
        }
        found
    }

    /// Whether each term's token is above those of all terms that began earlier.
    pub(super) fn tokens_rise(&self) -> bool {
        self.0.windows(2).all(|pair| pair[0].token < pair[1].token)
    }

    fn add(&mut self, candidate: usize, line: &str) -> Option<()> {
        let mut words = line.split(' ');
        let at = Time::from_nanos(words.next()?.parse().ok()?);
        let pid = words.next()?.parse().ok()?;
        let token = words.next()?.parse().ok()?;
        let deed = words.next()?;
        let known = |term: &&mut RecordedTerm| (term.candidate, term.pid) == (candidate, pid);
        if let Some(term) = self.0.iter_mut().find(known) {
            term.last = at;
            term.pieces += u64::from(deed == "work");
            term.stopped |= deed == "stop";
        } else {
            self.0.push(RecordedTerm {
                candidate,
                pid,
                token,
                first: at,
                last: at,
                pieces: 0,
                stopped: false,
            });
            // A leader's first line may be seen before an earlier one's.
            self.0.sort_by_key(|term| term.first);
        }
        Some(())
    }
}

/// A candidate's record, read as it grows.
#[derive(Debug)]
pub(super) struct RecordReader {
    candidate: usize,
    path: PathBuf,
    file: Option<File>,
    partial: String,
}

impl RecordReader {
    pub(super) fn new(candidate: usize, path: PathBuf) -> Self {
        Self {
            candidate,
            path,
            file: None,
            partial: String::new(),
        }
    }

    /// Adds what was written since the last time.
    pub(super) fn read_into(&mut self, terms: &mut RecordedTerms) -> io::Result<()> {
        if self.file.is_none() {
            match File::open(&self.path) {
                Ok(file) => self.file = Some(file),
                // It has not led yet.
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        if let Some(file) = &mut self.file {
            file.read_to_string(&mut self.partial)?;
        }
        while let Some((line, rest)) = self.partial.split_once('\n') {
            if terms.add(self.candidate, line).is_none() {
                let problem = format!("{} holds {line:?}", self.path.display());
                return Err(io::Error::new(io::ErrorKind::InvalidData, problem));
            }
            self.partial = rest.to_owned();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn terms(lines: &[(usize, &str)]) -> RecordedTerms {
        let mut terms = RecordedTerms::default();
        for (candidate, line) in lines {
            terms.add(*candidate, line).unwrap();
        }
        terms
    }

    #[test]
    fn terms_one_after_the_other_with_rising_tokens_are_fine() {
        let terms = terms(&[
            (0, "100 7 1 start"),
            (0, "150 7 1 work"),
            (0, "200 7 1 stop"),
            (1, "230 8 4 start"),
        ]);
        assert!(terms.overlapping().is_empty());
        assert!(terms.tokens_rise());
        assert_eq!(terms.leaderless_before(0), None);
        assert_eq!(terms.leaderless_before(1), Some(Duration::from_nanos(30)));
        assert!(terms.all()[0].stopped && terms.all()[0].pieces == 1);
    }

    #[test]
    fn one_piece_of_work_after_the_next_leader_began_is_an_overlap() {
        let terms = terms(&[
            (0, "100 7 1 start"),
            (1, "230 8 4 start"),
            (0, "240 7 1 work"),
            (1, "250 8 4 work"),
        ]);
        assert_eq!(terms.overlapping().len(), 1);
        assert_eq!(terms.leaderless_before(1), None);
    }

    #[test]
    fn a_token_that_does_not_rise_is_seen() {
        let same = terms(&[(0, "100 7 4 start"), (1, "230 8 4 start")]);
        assert!(!same.tokens_rise());
        // Also when the earlier term's first line is read last.
        let fallen = terms(&[(1, "230 8 3 start"), (0, "100 7 4 start")]);
        assert!(!fallen.tokens_rise());
    }

    #[test]
    fn damaged_lines_are_refused() {
        let mut terms = RecordedTerms::default();
        for line in ["", "1 2 3", "x 2 3 work", "1 2 x work"] {
            assert!(terms.add(0, line).is_none(), "{line:?}");
        }
    }
}
