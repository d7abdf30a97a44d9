//! What shows others that a leader lives, where the operating system shows it: held by everything
//! that works for the leader, and not by `tenure` alone.
//!
//! With `file:` URLs a leader keeps a file open and locked, and when that file is closed others
//! take over at once. The kernel closes the files of a killed process *before* it kills the
//! command that is to die with it, and on a busy host the command may go on for a while. So the
//! command and the guard inherit the open file: others see it closed only when all of them are
//! gone.
//!
//! With a store whose lock ends with a session, the connection is what others see: its server
//! frees the lock when the last process has closed it. So the subreaper and the guard hold it too,
//! until nothing of the command is left. The command itself does not get it. A session may move to
//! another connection in mid-term, so the helpers get those of the moment with each heartbeat.

use std::fs;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::sync::Once;

use rustix::io::{Errno, FdFlags};
use rustix::process::{PidfdFlags, PidfdGetfdFlags};
use tenure::LockName;

/// Where a process sees its own open files.
const OPEN_FILES: &str = "/proc/self/fd";

/// More connections than these are no leader's.
pub(crate) const MOST_SOCKETS: usize = 16;

/// The leader's open files, which the processes started from now on inherit, until this is
/// dropped, and its connections. Empty on stores that judge by leases alone.
#[derive(Debug)]
pub(crate) struct Witness {
    _files: Vec<OwnedFd>,
    /// Whether the lock ends with its session.
    by_session: bool,
    sockets: Vec<OwnedFd>,
}

impl Witness {
    /// `by_session` says that the lock ends with its session.
    pub(crate) fn of(lock: &LockName, by_session: bool) -> Self {
        let files = duplicates(|path| shows(path, lock), &[]);
        let files: Vec<OwnedFd> = files
            .filter(|file| rustix::io::fcntl_setfd(file, FdFlags::empty()).is_ok())
            .collect();
        let open = files.len();
        let mut witness = Self {
            _files: files,
            by_session,
            sockets: Vec::new(),
        };
        witness.look_again();
        tracing::debug!(
            files = open,
            sockets = witness.sockets.len(),
            "open files that show a living leader"
        );
        witness
    }

    /// Finds the connections of now: the session may have moved to another one.
    pub(crate) fn look_again(&mut self) {
        if !self.by_session {
            return;
        }
        // Our own of last time would keep open what the engine has closed since.
        let ours: Vec<RawFd> = self.sockets.iter().map(OwnedFd::as_raw_fd).collect();
        let sockets = duplicates(is_socket, &ours).filter(leads_to_server);
        let sockets: Vec<OwnedFd> = sockets.take(MOST_SOCKETS).collect();
        // Where they cannot be seen any longer, those seen before are better than none.
        if !sockets.is_empty() {
            self.sockets = sockets;
        }
    }

    /// The connections.
    pub(crate) fn sockets(&self) -> Vec<BorrowedFd<'_>> {
        self.sockets.iter().map(OwnedFd::as_fd).collect()
    }
}

/// Those of our open files, but for the standard streams and `except`, whose names `wanted` says.
fn duplicates(
    wanted: impl Fn(&Path) -> bool + Copy,
    except: &[RawFd],
) -> impl Iterator<Item = OwnedFd> {
    let open = fs::read_dir(OPEN_FILES).into_iter().flatten().flatten();
    let is_wanted = move |path: PathBuf| fs::read_link(path).is_ok_and(|path| wanted(&path));
    open.filter(move |entry| is_wanted(entry.path()))
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|number| *number > 2 && !except.contains(number))
        .filter_map(duplicate)
        // The engine goes on meanwhile: it may be another file by now.
        .filter(move |file| is_wanted(path_of(file)))
}

fn is_socket(path: &Path) -> bool {
    path.to_str()
        .is_some_and(|name| name.starts_with("socket:"))
}

/// Not one of those between processes of ours, which have no names.
fn leads_to_server(socket: &OwnedFd) -> bool {
    let Ok(Some(peer)) = rustix::net::getpeername(socket) else {
        return false;
    };
    peer.address_family() != rustix::net::AddressFamily::UNIX
        || rustix::net::SocketAddrUnix::try_from(peer).is_ok_and(|peer| peer.path_bytes().is_some())
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
            // We look again with each heartbeat.
            static WARNED: Once = Once::new();
            WARNED.call_once(|| {
                tracing::warn!(
                    %error,
                    "if tenure is killed, another may lead a moment before the command is dead: \
                     pidfd_getfd fails, as it does in Docker without --cap-add SYS_PTRACE"
                );
            });
            None
        }
    }
}

fn path_of(file: &OwnedFd) -> PathBuf {
    Path::new(OPEN_FILES).join(file.as_raw_fd().to_string())
}
