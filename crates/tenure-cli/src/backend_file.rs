//! Where the store's URL comes from, when it holds a password.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use rustix::fs::{Mode, OFlags};

use crate::failure::Failure;

/// Others may not read or write the file, and its group may not write it. The group may read it:
/// Kubernetes mounts secrets with `fsGroup` as 0640.
const FORBIDDEN: u32 = 0o026;

/// No URL is longer.
const LONGEST: u64 = 64 * 1024;

/// The URL in a file.
pub(crate) fn read(path: &Path) -> Result<String, Failure> {
    let shown = path.display().to_string();
    let shown = shown.escape_debug();
    let cannot = |error: io::Error| {
        Failure::new(format!("cannot read the backend file \"{shown}\": {error}"))
    };
    // A pipe would block us here until another process writes to it.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = rustix::fs::open(path, flags, Mode::empty());
    let file = File::from(file.map_err(|error| cannot(error.into()))?);
    // Of the open file, so that it is the one that is read.
    let seen = file.metadata().map_err(cannot)?;
    if !seen.is_file() {
        return Err(Failure::new(format!(
            "the backend file \"{shown}\" is no regular file; name one, or use TENURE_BACKEND"
        )));
    }
    if seen.mode() & FORBIDDEN != 0 {
        return Err(Failure::new(format!(
            "other users may read or write the backend file \"{shown}\"; forbid it: chmod g-w,o= \
             FILE"
        )));
    }
    let mut text = String::new();
    file.take(LONGEST)
        .read_to_string(&mut text)
        .map_err(cannot)?;
    // Editors of Windows put a mark before the text.
    let url = text.trim_start_matches('\u{feff}').trim();
    if url.is_empty() || url.contains(char::is_whitespace) {
        return Err(Failure::new(format!(
            "the backend file \"{shown}\" must hold one URL and nothing else"
        )));
    }
    Ok(url.to_owned())
}

/// Every user of the host sees the arguments of every process.
pub(crate) fn warn_of_password_in_arguments(url: &str) {
    if tenure::redact(url) == url {
        return;
    }
    let holds_url = |argument: std::ffi::OsString| argument.to_string_lossy().contains(url);
    if std::env::args_os().any(holds_url) {
        tracing::warn!(
            "every user of this host can see the password in --backend, as an argument of this \
             process; use TENURE_BACKEND or --backend-file"
        );
    }
}
