//! What every store is asked, and what each needs for its answers.

use std::fs::File;
use std::io::Read;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::interrupt;

/// Variables for the tests, in the order they are shown.
pub(super) type Env = Vec<(&'static str, String)>;

/// What every store can do once it is started.
pub(super) trait Server {
    /// Asks it once whether it serves; the answer is its version.
    fn probe(&self) -> Result<String>;

    /// What remains to be set up, once, when it serves.
    fn settle(&self) -> Result<()> {
        Ok(())
    }

    /// Writes and reads back, and says what it did.
    fn round_trip(&self) -> Result<String>;

    /// What the tests need to know.
    fn env(&self) -> Result<Env>;
}

/// Tries until it works; gives up with the last error after a generous while.
pub(super) fn eventually(what: &str, mut attempt: impl FnMut() -> Result<()>) -> Result<()> {
    const LIMIT: Duration = Duration::from_secs(60);
    let begin = Instant::now();
    loop {
        interrupt::check()?;
        match attempt() {
            Ok(()) => return Ok(()),
            Err(error) if begin.elapsed() > LIMIT => {
                return Err(error)
                    .with_context(|| format!("waited {} s until {what}", LIMIT.as_secs()));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}

/// Secrets and names that nobody else has, from the system's own source.
pub(super) fn random_hex(bytes: usize) -> Result<String> {
    let mut buffer = vec![0; bytes];
    File::open("/dev/urandom")
        .and_then(|mut source| source.read_exact(&mut buffer))
        .context("no random bytes from the system")?;
    let digits = buffer.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    Ok(digits
        .filter_map(|digit| char::from_digit(digit.into(), 16))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_names_differ() {
        let one = random_hex(16).unwrap();
        assert_eq!(one.len(), 32);
        assert_ne!(one, random_hex(16).unwrap());
    }
}
