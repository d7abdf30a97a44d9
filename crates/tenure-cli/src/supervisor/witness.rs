//! What shows others that a leader lives, where the operating system shows it: held by everything
//! that works for the leader, and not by `tenure` alone.
//!
//! With `file:` URLs a leader keeps a file open and locked, and when that file is closed others
//! take over at once. The kernel closes the files of a killed process *before* it kills the
//! command that is to die with it, and on a busy host the command may go on for a while. So the
//! command and the guard inherit the open file: others see it closed only when all of them are
//! gone.

use std::fs;
use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};
use std::path::{Path, PathBuf};

use rustix::io::{Errno, FdFlags};
use rustix::process::{PidfdFlags, PidfdGetfdFlags};
use tenure::LockName;

/// Where a process sees its own open files.
const OPEN_FILES: &str = "/proc/self/fd";

/// The leader's open files, which the processes started from now on inherit, until this is
/// dropped. Empty on stores that judge by leases alone.
#[derive(Debug)]
pub(crate) struct Witness {
    _open: Vec<OwnedFd>,
}

impl Witness {
    pub(crate) fn of(lock: &LockName) -> Self {
        let open = fs::read_dir(OPEN_FILES).into_iter().flatten().flatten();
        let witnesses: Vec<OwnedFd> = open
            .filter(|entry| fs::read_link(entry.path()).is_ok_and(|path| shows(&path, lock)))
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .filter_map(duplicate)
            // The engine goes on meanwhile: it may be another file by now.
            .filter(|file| fs::read_link(path_of(file)).is_ok_and(|path| shows(&path, lock)))
            .filter(|file| rustix::io::fcntl_setfd(file, FdFlags::empty()).is_ok())
            .collect();
        tracing::debug!(
            count = witnesses.len(),
            "open files that show a living leader"
        );
        Self { _open: witnesses }
    }
}

/// Whether this is the file that the leader of `lock` keeps open: see the documentation of
/// `tenure-file`.
fn shows(path: &Path, lock: &LockName) -> bool {
    let name = |path: &Path| Some(path.file_name()?.to_str()?.to_owned());
    name(path).is_some_and(|name| name.starts_with("alive-"))
        && path.parent().and_then(name).as_deref() == Some(lock.as_str())
}

/// The open file behind a number, which may be anybody's in this process.
fn duplicate(number: RawFd) -> Option<OwnedFd> {
    let this_process = rustix::process::getpid();
    let duplicated =
        rustix::process::pidfd_open(this_process, PidfdFlags::empty()).and_then(|process| {
            rustix::process::pidfd_getfd(process, number, PidfdGetfdFlags::empty())
        });
    match duplicated {
        Ok(file) => Some(file),
        // The engine goes on meanwhile, and has closed it.
        Err(Errno::BADF) => None,
        Err(error) => {
            tracing::warn!(
                %error,
                "if tenure is killed, another may lead a moment before the command is dead: \
                 pidfd_getfd fails, as it does in Docker without --cap-add SYS_PTRACE"
            );
            None
        }
    }
}

fn path_of(file: &OwnedFd) -> PathBuf {
    Path::new(OPEN_FILES).join(file.as_raw_fd().to_string())
}
