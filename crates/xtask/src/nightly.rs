//! The nightly compiler that `api/nightly` names: its rustdoc writes the public interface as JSON, and
//! the documentation as docs.rs does.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use tenure_testkit::paths;
use tenure_testkit::shell::capture;

use crate::steps::Environment;

/// Two lines: as rustup names it, and what its rustc says of itself.
const PINNED: &str = include_str!("../../../api/nightly");

/// A toolchain that is installed.
#[derive(Debug)]
pub(crate) struct Nightly {
    toolchain: String,
    /// What it builds is of no use to another compiler.
    folder: PathBuf,
}

impl Nightly {
    /// The pinned one, under its own name or as `nightly`. Another one would give other files.
    pub(crate) fn find() -> Result<Self> {
        let (name, version) = pinned()?;
        let installed = capture(Command::new("rustup").args(["toolchain", "list"]))?;
        let is_installed = |name: &&str| installed.lines().any(|line| line.starts_with(name));
        let is_pinned = |name: &&str| {
            let mut rustc = Command::new("rustup");
            rustc.args(["run", name, "rustc", "--version"]);
            capture(&mut rustc).is_ok_and(|said| said.trim() == version)
        };
        let mut candidates = [name, "nightly"].into_iter().filter(is_installed);
        let found = candidates.find(is_pinned);
        let found = found.with_context(|| {
            format!("{version} is not installed: rustup toolchain install {name} --profile minimal")
        })?;
        Ok(Self {
            toolchain: found.to_owned(),
            folder: paths::workspace().join("target").join("nightly"),
        })
    }

    /// The arguments of rustup that run its cargo.
    pub(crate) fn cargo_arguments(&self) -> Vec<&str> {
        vec!["run", &self.toolchain, "cargo"]
    }

    /// The folders of one run: what is compiled is shared by all, what rustdoc writes is not.
    pub(crate) fn folders(&self, name: &str) -> Environment {
        let build = self.folder.join("build");
        vec![
            ("CARGO_BUILD_BUILD_DIR".into(), build.into()),
            ("CARGO_TARGET_DIR".into(), self.folder.join(name).into()),
            ("CARGO_INCREMENTAL".into(), "0".into()),
        ]
    }

    /// Where rustdoc writes in that run.
    pub(crate) fn documents(&self, name: &str) -> PathBuf {
        self.folder.join(name).join("doc")
    }
}

fn pinned() -> Result<(&'static str, &'static str)> {
    let (name, version) = PINNED.trim().split_once('\n').unwrap_or_default();
    ensure!(
        name.starts_with("nightly-") && version.starts_with("rustc "),
        "api/nightly holds a toolchain and the version of its rustc, a line each"
    );
    Ok((name, version))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_names_a_toolchain_and_its_version() {
        let (name, version) = pinned().unwrap();
        assert!(version.contains("-nightly ("), "{name}: {version}");
    }
}
