//! Whether a directory is one that processes can share locks in.

use std::fs;
use std::io;
use std::path::Path;

#[cfg(target_os = "linux")]
use tenure_core::ErrorKind;
use tenure_core::{Error, Operation};

use crate::errors::{Action, During as _, StoreError};

/// Makes the directory, with its parents, if `create` says so; fails unless it can be read.
pub(crate) fn prepare(dir: &Path, create: bool) -> Result<(), StoreError> {
    if create && !dir.is_dir() {
        fs::create_dir_all(dir).during(Action::Create, dir)?;
    }
    fs::read_dir(dir).map(drop).during(Action::List, dir)?;
    // Listing needs no search permission, opening a file in it does.
    match fs::symlink_metadata(dir.join("tenure")) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).during(Action::Read, dir)
        }
        Ok(_) | Err(_) => Ok(()),
    }
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
    let found = rustix::fs::statfs(dir)
        .map_err(io::Error::from)
        .during(Action::Read, dir)
        .map_err(|error| error.into_error(operation))?;
    // The field's type differs between architectures; the magic number is its lower 32 bits.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let magic = u64::from(found.f_type as u32);
    refuse_if_not_local(dir, magic, operation)
}

#[cfg(target_os = "linux")]
fn refuse_if_not_local(dir: &Path, magic: u64, operation: Operation) -> Result<(), Error> {
    match NOT_LOCAL.iter().find(|(known, _)| *known == magic) {
        None => Ok(()),
        Some((_, name)) => Err(Error::new(
            ErrorKind::Unsupported,
            operation,
            format!(
                "{} is on {name}, where the death of a process need not be seen by all others; \
                 use a directory on a local file system such as ext4, XFS, Btrfs or tmpfs, or \
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
