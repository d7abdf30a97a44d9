//! What bears on locks in a directory, for an operator.

use std::path::Path;

use rustix::fs::{Access, access, statvfs};
use tenure_core::{Check, LockName, Operation};

use crate::directory::Directory;
use crate::errors::StoreError;
use crate::file_system;

/// What to do about an error that tells it.
pub(crate) const REMEDY: &str = "do what the message says; until then nobody is elected here";

/// Looks, and writes nothing.
pub(crate) fn all(directory: &Directory, lock: &LockName) -> Vec<Check> {
    let dir = directory.path();
    let own = dir.join(lock.as_str());
    let place = if own.is_dir() { own.as_path() } else { dir };
    vec![
        scope(dir),
        sharing(directory, lock),
        permissions(place),
        record(directory, lock),
        room(place),
    ]
}

fn scope(dir: &Path) -> Check {
    const NAME: &str = "scope";
    let shown = dir.display();
    match file_system::surprise(dir) {
        Some(surprise) => Check::warning(
            NAME,
            format!("{shown} {surprise}"),
            "mount a directory of the host that is on its disk, the same one for all candidates",
        ),
        None => Check::fine(
            NAME,
            format!("the processes of this host that use {shown}, on a local file system"),
        ),
    }
}

fn sharing(directory: &Directory, lock: &LockName) -> Check {
    const NAME: &str = "sharing";
    let dir = directory.path();
    match directory.judge(lock) {
        Ok(None) => Check::fine(
            NAME,
            format!("no other user can change what is in {}", dir.display()),
        ),
        Ok(Some(found)) => Check::warning(NAME, found.problem, &found.remedy),
        Err(StoreError::Untrusted(found)) => Check::unusable(NAME, found.problem, &found.remedy),
        Err(error) => {
            let error = error.into_error(Operation::Connect);
            Check::unusable(NAME, error.message(), REMEDY)
        }
    }
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

/// The record as a candidate reads it first of all.
fn record(directory: &Directory, lock: &LockName) -> Check {
    const NAME: &str = "record";
    match directory.get(lock) {
        Ok(None) => Check::fine(
            NAME,
            format!("{lock} has none yet; the first candidate makes it"),
        ),
        Ok(Some(_)) => Check::fine(NAME, format!("the record of {lock} can be read")),
        Err(error) => Check::unusable(NAME, error.message(), REMEDY),
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
    use std::fs;

    use tenure_core::Verdict;

    use super::*;
    use crate::config::FileConfig;

    #[test]
    fn a_directory_that_is_not_there_any_more_is_unusable() {
        let lock = LockName::new("job").unwrap();
        let place = tempfile::tempdir().unwrap();
        let dir = place.path().join("locks");
        let config = FileConfig::new(&dir).unwrap();
        let directory = Directory::prepare(&config, Operation::Connect).unwrap();
        let verdicts = || -> Vec<Verdict> {
            let checks = all(&directory, &lock);
            // The first one depends on where the test runs.
            checks[1..].iter().map(|check| check.verdict).collect()
        };
        assert_eq!(verdicts(), [Verdict::Fine; 4]);
        fs::remove_dir(&dir).unwrap();
        assert_eq!(verdicts()[..2], [Verdict::Unusable; 2]);
        assert!(!dir.exists());
    }
}
