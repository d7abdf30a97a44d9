//! What comes of a case.

use std::fmt;

/// The end of a case: `Ok` when the backend kept the contract.
pub type Verdict = Result<(), Stop>;

/// Why a case ended before it had passed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The backend broke the contract; the text says how.
    Failed(String),
    /// The case does not apply; the text names the capability or the hook that is the reason.
    LeftOut(String),
    /// The case does not apply, because the target lacks this hook; the text says so.
    MissingHook(&'static str, String),
}

impl Stop {
    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Self::Failed(message.into())
    }

    pub(crate) fn left_out(reason: impl Into<String>) -> Self {
        Self::LeftOut(reason.into())
    }

    pub(crate) fn missing_hook(hook: &'static str) -> Self {
        Self::MissingHook(hook, format!("the target has no hook `{hook}`"))
    }
}

/// What became of a case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The backend kept the contract.
    Passed,
    /// The backend broke the contract; the text says how.
    Failed(String),
    /// The case does not apply; the text names the capability or the hook that is the reason.
    LeftOut(String),
}

impl From<Verdict> for Outcome {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Ok(()) => Self::Passed,
            Err(Stop::Failed(message)) => Self::Failed(message),
            Err(Stop::LeftOut(reason) | Stop::MissingHook(_, reason)) => Self::LeftOut(reason),
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Passed => f.write_str("passed"),
            Self::Failed(message) => write!(f, "failed: {message}"),
            Self::LeftOut(reason) => write!(f, "left out: {reason}"),
        }
    }
}

/// Ends the case as failed unless the condition holds.
macro_rules! ensure {
    ($condition:expr, $($message:tt)+) => {
        if !$condition {
            return Err($crate::verdict::Stop::failed(format!($($message)+)));
        }
    };
}

/// Ends the case as failed.
macro_rules! fail {
    ($($message:tt)+) => {
        return Err($crate::verdict::Stop::failed(format!($($message)+)))
    };
}

pub(crate) use {ensure, fail};
