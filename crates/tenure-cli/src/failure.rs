//! What ends the program early: one sentence, and an exit code.

use std::fmt;

use rustix::process::Signal;
use tenure::{Error, ErrorKind};

/// Exit codes besides those of CMD.
pub(crate) mod exit {
    /// Nobody leads.
    pub(crate) const NO_LEADER: u8 = 1;
    /// `doctor` has found something to look at.
    pub(crate) const WARNINGS: u8 = 1;
    /// Something is wrong: the message says what to do.
    pub(crate) const ERROR: u8 = 2;
    /// Not elected within the time given (`EX_UNAVAILABLE`).
    pub(crate) const NOT_ELECTED: u8 = 69;
    /// Leadership was lost (`EX_TEMPFAIL`: trying again may help).
    pub(crate) const LOST: u8 = 75;
    /// A leader that was asked to resign still leads.
    pub(crate) const STILL_LEADS: u8 = 76;
    /// CMD cannot be executed, as a shell has it.
    pub(crate) const NOT_EXECUTABLE: u8 = 126;
    /// CMD cannot be found, as a shell has it.
    pub(crate) const NOT_FOUND: u8 = 127;
    /// Killed by signal N is this plus N, as a shell has it.
    pub(crate) const SIGNALLED: u8 = 128;
}

/// The exit code of a process that ends because of `signal`.
pub(crate) fn signalled(signal: Signal) -> u8 {
    // Signals are numbered up to 64.
    exit::SIGNALLED.saturating_add(u8::try_from(signal.as_raw()).unwrap_or_default())
}

/// A sentence for standard error, without any password, and the exit code.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) code: u8,
    message: String,
}

impl Failure {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self {
            code: exit::ERROR,
            message: message.into(),
        }
    }

    pub(crate) fn with_code(mut self, code: u8) -> Self {
        self.code = code;
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&tenure::redact(&self.message))
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let message = match error.kind() {
            // These say themselves what is wrong with which setting.
            ErrorKind::InvalidInput | ErrorKind::Misconfigured | ErrorKind::Unsupported => {
                error.message().to_owned()
            }
            _ => error.to_string(),
        };
        Self::new(message)
    }
}
