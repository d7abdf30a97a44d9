//! Subcommands of cargo that no Python package carries: built once, for minutes, into the cache.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use super::cache_folder;
use crate::paths::Dirs;
use crate::shell::{is_executable, run_with_progress};

/// A subcommand, in one release.
#[derive(Debug)]
pub struct BuiltTool {
    name: &'static str,
    release: &'static str,
}

/// Lists a public interface.
pub const PUBLIC_API: BuiltTool = BuiltTool {
    name: "cargo-public-api",
    release: "0.52.0",
};

/// Compares two public interfaces.
pub const SEMVER_CHECKS: BuiltTool = BuiltTool {
    name: "cargo-semver-checks",
    release: "0.51.0",
};

impl BuiltTool {
    /// The program, built if it is not in the cache.
    pub fn provide(&self) -> Result<PathBuf> {
        let root = cache_folder()?.join(format!("{}-{}", self.name, self.release));
        let program = root.join("bin").join(self.name);
        if is_executable(&program) {
            return Ok(program);
        }
        let wanted = format!("{}@{}", self.name, self.release);
        // Away from this workspace, whose settings are not the tool's.
        let folder = tempfile::tempdir_in(cache_folder()?)?;
        let mut install = Command::new("cargo");
        install
            .args(["install", "--locked", &wanted, "--root"])
            .arg(&root)
            .current_dir(folder.path())
            .env("CARGO_TARGET_DIR", folder.path())
            // It runs for seconds: a quicker build is worth more.
            .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "1")
            .env("CARGO_PROFILE_RELEASE_LTO", "off")
            .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16");
        let log = Dirs::open()?.log(self.name);
        let title = format!("building {wanted}");
        run_with_progress(&mut install, &title, &log, |_, line| line.trim().to_owned())
            .with_context(|| format!("cargo install --locked {wanted}"))?;
        Ok(program)
    }
}
