//! What is looked at to tell whether a store is fit to hold locks.

use std::fmt;

/// What one look at a store has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "lowercase"))]
#[non_exhaustive]
pub enum Verdict {
    /// As it should be.
    Fine,
    /// Locks can be taken, but something weakens what is promised of them, or was not seen.
    Warning,
    /// No candidate can be elected, or the lock must not be relied on.
    Unusable,
}

impl Verdict {
    /// The verdict's name, as commands print it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fine => "fine",
            Self::Warning => "warning",
            Self::Unusable => "unusable",
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// One look at a store, see [`LockBackend::checks`](crate::LockBackend::checks).
///
/// Neither text holds a password.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Check {
    /// What was looked at, in one or two words that stay the same: `eviction`, `server version`.
    pub name: &'static str,
    /// What it has come to.
    pub verdict: Verdict,
    /// What was seen.
    pub reason: String,
    /// What to do; nothing when it is fine.
    pub remedy: Option<String>,
}

impl Check {
    /// All is well.
    pub fn fine(name: &'static str, reason: impl Into<String>) -> Self {
        Self {
            name,
            verdict: Verdict::Fine,
            reason: reason.into(),
            remedy: None,
        }
    }

    /// Something weakens what is promised, or could not be seen.
    pub fn warning(
        name: &'static str,
        reason: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            verdict: Verdict::Warning,
            remedy: Some(remedy.into()),
            ..Self::fine(name, reason)
        }
    }

    /// It cannot be relied on.
    pub fn unusable(
        name: &'static str,
        reason: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            verdict: Verdict::Unusable,
            ..Self::warning(name, reason, remedy)
        }
    }
}
