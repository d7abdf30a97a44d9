//! Failed file operations, and what they mean for the caller.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use tenure_core::{Error, ErrorKind, Operation};

/// Why a step could not be done.
#[derive(Debug)]
pub(crate) enum StoreError {
    /// A file operation failed.
    File(FileError),
    /// The operating system gave no random number for a name.
    NoNumber(Error),
    /// Another user could change what is in the directory.
    Untrusted(Unsafe),
}

/// Why a directory is not safe to use, and the command that fixes it.
#[derive(Clone, Debug)]
pub(crate) struct Unsafe {
    pub(crate) problem: String,
    pub(crate) remedy: String,
}

impl fmt::Display for Unsafe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.problem, self.remedy)
    }
}

/// A failed file operation: what was tried, and on which path.
#[derive(Debug)]
pub(crate) struct FileError {
    action: Action,
    path: PathBuf,
    error: io::Error,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Create,
    List,
    Read,
    Write,
    Lock,
    Link,
    Sync,
    /// Give to a group.
    Share,
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Create => "create",
            Self::List => "list",
            Self::Read => "read",
            Self::Write => "write",
            Self::Lock => "lock",
            Self::Link => "link",
            Self::Sync => "sync",
            Self::Share => "share with its group",
        })
    }
}

/// Says what was being done when an I/O error arose.
pub(crate) trait During<T> {
    fn during(self, action: Action, path: &Path) -> Result<T, StoreError>;
}

impl<T> During<T> for io::Result<T> {
    fn during(self, action: Action, path: &Path) -> Result<T, StoreError> {
        self.map_err(|error| {
            StoreError::File(FileError {
                action,
                path: path.to_owned(),
                error,
            })
        })
    }
}

impl StoreError {
    /// Whether a file or directory was not there.
    pub(crate) fn is_missing(&self) -> bool {
        self.is_a(&[io::ErrorKind::NotFound])
    }

    /// Whether this process may not do it, or nobody can.
    pub(crate) fn is_refused(&self) -> bool {
        self.is_a(&[
            io::ErrorKind::PermissionDenied,
            io::ErrorKind::ReadOnlyFilesystem,
        ])
    }

    fn is_a(&self, kinds: &[io::ErrorKind]) -> bool {
        matches!(self, Self::File(file) if kinds.contains(&file.error.kind()))
    }

    /// What it means, with what to do about it.
    pub(crate) fn into_error(self, operation: Operation) -> Error {
        match self {
            Self::File(file) => file.into_error(operation),
            Self::Untrusted(found) => {
                Error::new(ErrorKind::Misconfigured, operation, found.to_string())
            }
            Self::NoNumber(error) => {
                let (kind, message) = (error.kind(), error.message().to_owned());
                Error::new(kind, operation, message).with_source(error)
            }
        }
    }
}

impl FileError {
    fn into_error(self, operation: Operation) -> Error {
        let (kind, advice) = self.meaning();
        let message = format!(
            "cannot {} {}: {}; {advice}",
            self.action,
            self.path.display(),
            self.error
        );
        Error::new(kind, operation, message).with_source(self.error)
    }

    fn meaning(&self) -> (ErrorKind, &'static str) {
        let code = self.error.raw_os_error();
        let is = |errno: rustix::io::Errno| code == Some(errno.raw_os_error());
        if self.action == Action::Link && (is(rustix::io::Errno::PERM) || self.is_unsupported()) {
            return (
                ErrorKind::Unsupported,
                "this file system has no hard links; use a directory on ext4, XFS or Btrfs",
            );
        }
        if self.action == Action::Lock && self.is_unsupported() {
            return (
                ErrorKind::Unsupported,
                "this file system has no file locks; use a directory on ext4, XFS or Btrfs",
            );
        }
        if is(rustix::io::Errno::MFILE) || is(rustix::io::Errno::NFILE) {
            return (
                ErrorKind::Unavailable,
                "no file descriptors are left: raise the limit (ulimit -n); each term needs one",
            );
        }
        if is(rustix::io::Errno::LOOP) {
            return (
                ErrorKind::Misconfigured,
                "a symbolic link stands in its place, which is never followed; remove it",
            );
        }
        match self.error.kind() {
            io::ErrorKind::PermissionDenied => (ErrorKind::Forbidden, self.permission()),
            io::ErrorKind::ReadOnlyFilesystem => (
                ErrorKind::Misconfigured,
                "a candidate must be able to write; remount the file system read-write or use \
                 another directory",
            ),
            io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => (
                ErrorKind::Misconfigured,
                "something that is no directory is in the way; use another directory",
            ),
            io::ErrorKind::NotFound => (
                ErrorKind::Misconfigured,
                "the directory does not exist; create it, or correct the path",
            ),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => (
                ErrorKind::Unavailable,
                "free some space; until then nobody can be elected here and a leader cannot \
                 extend its term",
            ),
            io::ErrorKind::FileTooLarge => (
                ErrorKind::Unavailable,
                "raise the limit of file sizes (ulimit -f); until then a leader cannot extend its \
                 term",
            ),
            _ => (
                ErrorKind::Unavailable,
                "it is tried again; if it stays, check the disk",
            ),
        }
    }

    fn is_unsupported(&self) -> bool {
        self.error.kind() == io::ErrorKind::Unsupported
    }

    fn permission(&self) -> &'static str {
        match self.action {
            Action::Share => {
                "only a member of the group or root can: add this user to it (usermod -aG)"
            }
            Action::Create | Action::Write | Action::Link | Action::Lock | Action::Sync => {
                "a candidate needs read, write and search permission on the directory: run it as \
                 the directory's owner, or share the directory with a group (?group=NAME in the \
                 URL; tenure doctor tells the command)"
            }
            Action::List | Action::Read => {
                "read and search permission on the directory and its files is needed: run it as \
                 the directory's owner, or share the directory with a group (?group=NAME in the \
                 URL; tenure doctor tells the command)"
            }
        }
    }
}
