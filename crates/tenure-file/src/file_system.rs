//! Whether a directory is one that processes can share locks in.

use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime};

use rustix::fs::Mode;
use rustix::io::Errno;
#[cfg(target_os = "linux")]
use tenure_core::ErrorKind;
use tenure_core::{Error, Operation, random_u64};

use crate::errors::{Action, During as _, StoreError};
use crate::open_dir::OpenDir;
use crate::trust::Sharing;

/// What a directory is called until it has its owner, group and mode. No lock has such a name.
const UNFINISHED: &str = ".new-";

/// Nobody takes so long to give it its name, unless it was killed. Only directories are removed
/// after that, and only empty ones, so a clock that jumps makes a process try again.
const TIME_TO_NAME: Duration = Duration::from_secs(3600);

/// Makes the directory, with its parents, if `create` says so; fails unless it can be read and
/// searched.
pub(crate) fn prepare(path: &Path, create: bool, sharing: &Sharing) -> Result<OpenDir, StoreError> {
    let dir = match OpenDir::open(path) {
        Err(error) if create && error.is_missing() => make(path, sharing)?,
        opened => opened?,
    };
    dir.names().during(Action::List, path)?;
    // Listing needs no search permission, opening a file in it does.
    match dir.stat_of("tenure") {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).during(Action::Read, path)
        }
        Ok(_) | Err(_) => Ok(dir),
    }
}

fn make(path: &Path, sharing: &Sharing) -> Result<OpenDir, StoreError> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        // The root, or a path that ends with "..".
        fs::create_dir_all(path).during(Action::Create, path)?;
        return OpenDir::open(path);
    };
    fs::create_dir_all(parent).during(Action::Create, parent)?;
    match name.to_str() {
        Some(name) => make_in(&OpenDir::open(parent)?, name, sharing),
        None => make_here(path, sharing),
    }
}

/// Makes a directory whose name is no text: its owner's alone, until it is shared.
fn make_here(path: &Path, sharing: &Sharing) -> Result<OpenDir, StoreError> {
    match rustix::fs::mkdir(path, Mode::RWXU) {
        // Another process made it, and shares it.
        Err(Errno::EXIST) => return OpenDir::open(path),
        made => made.map_err(io::Error::from).during(Action::Create, path)?,
    }
    let dir = OpenDir::open(path)?;
    dir.share(sharing.group_id(), sharing.mode())
        .during(Action::Share, path)?;
    // As it is now.
    OpenDir::open(path)
}

/// Makes a directory in another one, unless another does at the same time. Its owner, group
/// and mode are right from the moment at which it has its name.
pub(crate) fn make_in(
    parent: &OpenDir,
    name: &str,
    sharing: &Sharing,
) -> Result<OpenDir, StoreError> {
    let path = parent.path(name);
    let number = random_u64().map_err(StoreError::NoNumber)?;
    remove_unfinished(parent);
    let temporary = format!("{UNFINISHED}{number:016x}");
    parent
        .make(&temporary, Mode::RWXU)
        .during(Action::Create, &path)?;
    let named = name_it(parent, &temporary, name, sharing);
    if named.is_err() {
        let _gone = parent.remove_directory(&temporary);
    }
    match (named, parent.directory(name)) {
        (Err(error), Err(_)) => Err(error),
        (_, opened) => opened,
    }
}

/// Removes what processes left that were killed while they made a directory: they are empty.
fn remove_unfinished(parent: &OpenDir) {
    let names = parent.names().unwrap_or_default();
    for name in names.iter().filter(|name| is_unfinished(name)) {
        let made = parent.stat_of(name).map(|stat| stat.st_mtime);
        let made = made.ok().and_then(|at| u64::try_from(at).ok());
        let made = made.map(|at| SystemTime::UNIX_EPOCH + Duration::from_secs(at));
        let age = made.and_then(|made| made.elapsed().ok());
        if age.is_some_and(|age| age > TIME_TO_NAME) {
            let _in_use = parent.remove_directory(name);
        }
    }
}

/// Whether it is called as we call them.
fn is_unfinished(name: &str) -> bool {
    let number = name.strip_prefix(UNFINISHED).unwrap_or_default();
    number.len() == 16 && number.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn name_it(
    parent: &OpenDir,
    temporary: &str,
    name: &str,
    sharing: &Sharing,
) -> Result<(), StoreError> {
    let path = parent.path(name);
    let dir = parent.directory(temporary)?;
    dir.share(sharing.group_id(), sharing.mode())
        .during(Action::Share, &path)?;
    parent
        .rename_new(temporary, name)
        .during(Action::Create, &path)
}

/// The file systems that several hosts or a user's process can serve, by their magic numbers. On
/// these a lock or a notification need not reach every process.
#[cfg(target_os = "linux")]
const NOT_LOCAL: [(u64, &str); 23] = [
    (0x6969, "NFS"),
    (0x517b, "SMB"),
    (0xff53_4d42, "CIFS"),
    (0xfe53_4d42, "SMB"),
    (0x564c, "NCP"),
    (0x0102_1997, "9p"),
    (0x5346_414f, "AFS"),
    (0x6b41_4653, "AFS"),
    (0x7375_7245, "Coda"),
    (0x00c3_6400, "Ceph"),
    (0x6573_5546, "FUSE"),
    (0x0bd0_0bd0, "Lustre"),
    (0x0116_1970, "GFS2"),
    (0x7461_636f, "OCFS2"),
    (0x4750_4653, "GPFS"),
    (0xaad7_aaea, "PanFS"),
    (0x1983_0326, "BeeGFS"),
    (0x2003_0528, "OrangeFS"),
    (0x013a_51d0, "VMware HGFS"),
    (0xbacb_acbc, "VMware HGFS"),
    (0x786f_4256, "VirtualBox shared folders"),
    (0x7c7c_6673, "Parallels shared folders"),
    (0x4750_4446, "GPFS"),
];

#[cfg(target_os = "linux")]
pub(crate) fn check(dir: &Path, operation: Operation) -> Result<(), Error> {
    let magic = magic(dir).map_err(|error| error.into_error(operation))?;
    refuse_if_not_local(dir, magic, operation)
}

#[cfg(target_os = "linux")]
fn magic(dir: &Path) -> Result<u64, StoreError> {
    let found = rustix::fs::statfs(dir).map_err(io::Error::from);
    let found = found.during(Action::Read, dir)?;
    // The field's type differs between architectures; the magic number is its lower 32 bits.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    Ok(u64::from(found.f_type as u32))
}

/// Why a directory is not where an operator may believe it to be, if so.
#[cfg(target_os = "linux")]
pub(crate) fn surprise(dir: &Path) -> Option<&'static str> {
    match magic(dir).ok()? {
        OVERLAY => Some(
            "is in a container's own layer: no other container sees it, and it is gone with the \
             container",
        ),
        TMPFS | RAMFS => Some(
            "is in memory: a restart of the host, or of the pod, empties it, and fencing tokens \
             begin again",
        ),
        _ => None,
    }
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn surprise(_dir: &Path) -> Option<&'static str> {
    None
}

#[cfg(target_os = "linux")]
const OVERLAY: u64 = 0x794c_7630;
#[cfg(target_os = "linux")]
const TMPFS: u64 = 0x0102_1994;
#[cfg(target_os = "linux")]
const RAMFS: u64 = 0x8584_58f6;

#[cfg(target_os = "linux")]
fn refuse_if_not_local(dir: &Path, magic: u64, operation: Operation) -> Result<(), Error> {
    match NOT_LOCAL.iter().find(|(known, _)| *known == magic) {
        None => Ok(()),
        Some((_, name)) => Err(Error::new(
            ErrorKind::Unsupported,
            operation,
            format!(
                "{} is on {name}, where the death of a process need not be seen by all others; \
                 use a directory on a local file system such as ext4, XFS or Btrfs, or \
                 another backend for several hosts",
                dir.display()
            ),
        )),
    }
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn check(_dir: &Path, _operation: Operation) -> Result<(), Error> {
    Ok(())
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_private_also_when_its_name_is_no_text() {
        use std::os::unix::ffi::OsStrExt as _;
        use std::os::unix::fs::MetadataExt as _;

        let parent = tempfile::TempDir::new().unwrap();
        let sharing = Sharing::new(None);
        for name in [b"text".as_slice(), b"no-\xff-text"] {
            let path = parent.path().join(std::ffi::OsStr::from_bytes(name));
            prepare(&path, true, &sharing).unwrap();
            let mode = fs::metadata(&path).unwrap().mode();
            assert_eq!(mode & 0o777, 0o700, "{}", path.display());
        }
    }

    #[test]
    fn what_a_killed_process_left_unfinished_is_removed_later() {
        let parent = tempfile::TempDir::new().unwrap();
        let (old, young) = (
            parent.path().join(".new-0000000000000001"),
            parent.path().join(".new-0000000000000002"),
        );
        for path in [&old, &young] {
            fs::create_dir(path).unwrap();
        }
        let opened = fs::File::open(&old).unwrap();
        opened
            .set_modified(SystemTime::now() - 2 * TIME_TO_NAME)
            .unwrap();
        let dir = OpenDir::open(parent.path()).unwrap();
        make_in(&dir, "job", &Sharing::new(None)).unwrap();
        assert!(!old.exists());
        assert!(young.exists(), "it may get its name yet");
    }

    #[test]
    fn file_systems_that_are_not_local_are_refused() {
        let dir = Path::new("/mnt/share");
        for magic in [0x6969, 0xff53_4d42, 0x0102_1997, 0x6573_5546, 0x00c3_6400] {
            let error = refuse_if_not_local(dir, magic, Operation::Connect).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported);
            assert!(error.message().contains("/mnt/share"), "{error}");
        }
        for ext4_or_tmpfs in [0xef53, 0x0102_1994] {
            let refused = refuse_if_not_local(dir, ext4_or_tmpfs, Operation::Connect);
            assert!(refused.is_ok());
        }
    }
}
