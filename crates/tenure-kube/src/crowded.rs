//! [`Crowded`]: objects that other programs write more often than we can.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tenure_core::LockName;
use tenure_core::record::Version;

/// The version at which the last write of a lock has failed, until one succeeds. One entry for each
/// lock at most.
#[derive(Debug, Default)]
pub(crate) struct Crowded(Mutex<HashMap<LockName, Version>>);

impl Crowded {
    /// Notes that a write on this version has failed. Whether one on another version had failed
    /// before: then others write the object all the time.
    pub(crate) fn write_failed(&self, lock: &LockName, version: &Version) -> bool {
        let before = self.hold().insert(lock.clone(), version.clone());
        before.is_some_and(|before| before != *version)
    }

    pub(crate) fn write_succeeded(&self, lock: &LockName) {
        self.hold().remove(lock);
    }

    fn hold(&self) -> MutexGuard<'_, HashMap<LockName, Version>> {
        // Whole at every step.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_versions_under_us_tell_of_another_writer() {
        let (crowded, lock) = (Crowded::default(), LockName::new("x").unwrap());
        let failed = |version: u64| crowded.write_failed(&lock, &Version::from(version));
        assert!(!failed(7));
        assert!(
            !failed(7),
            "the API server may say so for reasons of its own"
        );
        assert!(failed(9));
        crowded.write_succeeded(&lock);
        assert!(!failed(11));
    }
}
