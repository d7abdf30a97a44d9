//! Leader election among the processes of one host, in a directory that they share.
//!
//! No server and no set-up: every candidate uses the same directory. What it promises:
//!
//! - **A leader that dies is noticed at once.** It keeps a file open and locked for as long as it
//!   leads; when its process ends, in whatever way, the operating system unlocks the file and
//!   wakes the other candidates.
//! - **A leader that hangs loses the lock when its lease ends**, judged on the host's boot clock,
//!   which all processes share and which runs on during suspend. A reboot ends every term.
//! - **No process can block the others.** The directory is changed without any lock of its own,
//!   so a process that is stopped between any two steps holds nobody up.
//! - **Fencing tokens rise** over crashes of processes and of the host: the counter is part of
//!   the record, which is written to disk before any process learns it. Only removing the lock's
//!   directory, or restoring it from a backup, sets it back.
//!
//! ```
//! use std::sync::Arc;
//! use std::time::Duration;
//!
//! use tenure_core::{Election, LockName};
//! use tenure_file::FileConfig;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), tenure_core::Error> {
//! # let temporary = tempfile::tempdir().unwrap();
//! # let directory = temporary.path();
//! // Or `FileConfig::from_url("file:///var/lib/my-service/locks")?`.
//! let backend = tenure_file::connect(FileConfig::new(directory)?).await?;
//! let election = Election::builder(Arc::new(backend), LockName::new("nightly-batch")?).build()?;
//!
//! let leadership = election.campaign().await?;
//! if let Ok(permit) = leadership.permit(Duration::from_secs(1)) {
//!     println!("leading with fencing token {}", permit.token);
//! }
//! leadership.resign().await?;
//! # Ok(())
//! # }
//! ```
//!
//! # What the directory must be
//!
//! A directory on the disk of one host (ext4, XFS, Btrfs, ZFS and the like), used by processes
//! under one kernel. Containers may share it when they share the kernel and the directory is
//! mounted into each of them. A container's own layer is seen by that container only, and what is
//! in memory (tmpfs) is empty after a restart. `doctor` warns of both.
//!
//! Network, cluster and FUSE file systems are refused with
//! [`Unsupported`](tenure_core::ErrorKind::Unsupported): neither their locks nor their
//! notifications tell of a process that died elsewhere, and every host has a boot clock of its
//! own. The check is made on Linux only. File systems without hard links (FAT) are refused at the
//! first attempt to acquire. Sandboxes that keep file locks to themselves (gVisor) must not share
//! a directory.
//!
//! What is made there is its owner's alone (0700 and 0600, whatever the umask). Candidates of
//! several users [name a group](FileConfig::group); observers of another user belong to it too.
//! A directory that another user made, or could lead elsewhere by a link, is refused with
//! [`Misconfigured`](tenure_core::ErrorKind::Misconfigured); the message has the command that
//! fixes it. One of one's own that others may read or change goes on with a warning.
//!
//! # What is in it
//!
//! `<directory>/<lock name>/` holds
//!
//! - `record-<version>.json`: the record, a new file for each write; the highest version counts,
//!   the one before it is kept for readers that are late. Its format carries a version; a record
//!   of a newer format is an [`Unsupported`](tenure_core::ErrorKind::Unsupported) error.
//! - `alive-<campaign>-<number>`: the file a leader keeps locked. Left over ones are removed when
//!   the next leader is elected.
//! - `tmp-<number>`: a file that is being written.
//!
//! A term is a file descriptor, and each lock that is waited for is an inotify watch: raise
//! `ulimit -n` and `fs.inotify.max_user_watches` for thousands of elections in one process. Where
//! no watch can be had, a warning is logged and candidates look at the directory every retry
//! interval.
//!
//! # When something is damaged
//!
//! - **An unreadable record** (cut off, not JSON, a lease that is zero or negative). If no process
//!   locks an alive file of the lock, there is no leader, and the next candidate takes over
//!   at once. Else a candidate may lead, and the lock counts as held until the record has stood there
//!   unchanged for as long as the longest lease among those alive files, an hour at most. A leader
//!   that is alive repairs the record with its next heartbeat. Tokens go on rising either way.
//! - **A lease of many years** in a record is believed for an hour at most.
//! - **A version beyond the 48 bits of a token** is a
//!   [`Corrupted`](tenure_core::ErrorKind::Corrupted) error that names the file to remove.
//! - **A full disk** is [`Unavailable`](tenure_core::ErrorKind::Unavailable): no heartbeat can be
//!   written, so the leader steps down in time, and nobody is elected until there is space.
//! - **The lock's directory is removed**: the leader's next heartbeat finds it lost; the next
//!   leader starts with token 1. Never remove it while a process campaigns.

mod alive;
mod backend;
mod checks;
mod config;
mod directory;
mod disk;
mod errors;
mod events;
mod file_system;
mod format;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod listing;
mod open_dir;
mod record_file;
mod trust;
mod watch;
mod wish;

pub use backend::{FileBackend, FileStore, connect, lazy};
pub use config::FileConfig;
