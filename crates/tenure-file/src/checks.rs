//! What bears on locks in a directory, for an operator.

use std::path::Path;

use rustix::fs::{Access, access, statvfs};
use tenure_core::{Check, LockName};

/// Looks, and writes nothing.
pub(crate) fn all(dir: &Path, lock: &LockName) -> Vec<Check> {
    let own = dir.join(lock.as_str());
    let place = if own.is_dir() { own.as_path() } else { dir };
    let shown = dir.display();
    let scope = format!("the processes of this host that use {shown}, on a local file system");
    vec![Check::fine("scope", scope), permissions(place), room(place)]
}

fn permissions(place: &Path) -> Check {
    const NAME: &str = "permissions";
    let shown = place.display();
    match access(place, Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK) {
        Ok(()) => Check::fine(NAME, format!("{shown} can be read and written")),
        Err(error) => Check::unusable(
            NAME,
            format!("{shown} cannot be written: {error}"),
            "let the candidates' user or group read, write and enter it, on a file system that is \
             mounted for writing; an observer needs no more than to read it",
        ),
    }
}

fn room(place: &Path) -> Check {
    const NAME: &str = "space";
    let shown = place.display();
    match statvfs(place) {
        // Some file systems count no files at all.
        Ok(room) if room.f_bavail == 0 || (room.f_files > 0 && room.f_favail == 0) => {
            Check::unusable(
                NAME,
                format!("the file system of {shown} is full"),
                "make room: each heartbeat writes a small file",
            )
        }
        Ok(_) => Check::fine(NAME, format!("there is room on the file system of {shown}")),
        Err(error) => Check::warning(
            NAME,
            format!("cannot tell how full the file system of {shown} is: {error}"),
            "see whether the disk works",
        ),
    }
}

#[cfg(test)]
mod tests {
    use tenure_core::Verdict;

    use super::*;

    #[test]
    fn a_directory_that_is_not_there_is_unusable() {
        let lock = LockName::new("job").unwrap();
        let dir = tempfile::tempdir().unwrap();
        let verdicts = |path: &Path| -> Vec<Verdict> {
            let checks = all(path, &lock);
            checks.iter().map(|check| check.verdict).collect()
        };
        assert_eq!(verdicts(dir.path()), [Verdict::Fine; 3]);
        let gone = dir.path().join("gone");
        assert_eq!(verdicts(&gone)[1], Verdict::Unusable);
        assert!(!gone.exists());
    }
}
