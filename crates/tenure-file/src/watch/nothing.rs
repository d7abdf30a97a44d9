//! Where the kernel's events are not inotify's: nothing can be watched.

use std::io;
use std::path::Path;
use std::sync::Arc;

use crate::watch::topics::Topics;

/// There is none.
#[derive(Debug)]
pub(super) struct Notifier;

impl Notifier {
    pub(super) fn start(_topics: Arc<Topics>) -> io::Result<Self> {
        let message = "directories are watched on Linux only";
        Err(io::Error::new(io::ErrorKind::Unsupported, message))
    }

    pub(super) fn watch(&self, _dir: &Path) -> io::Result<i32> {
        Err(io::Error::from(io::ErrorKind::Unsupported))
    }

    pub(super) fn has_ended(&self) -> bool {
        false
    }

    pub(super) fn unwatch(&self, _topic: i32) {}
}
