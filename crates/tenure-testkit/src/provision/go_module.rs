//! Programs that no package carries in the release that is wanted: built from the Go modules of
//! their projects, and kept in the cache.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::bound;
use crate::environment::find;
use crate::paths::{self, Dirs};
use crate::shell::{capture, run_with_progress};

/// A Go module in this workspace, whose `go.mod` pins the release.
#[derive(Debug, Clone, Copy)]
pub(super) struct GoModule {
    /// Its folder in the workspace.
    pub(super) folder: &'static str,
    /// What is built, as tables and logs say it.
    pub(super) name: &'static str,
    /// The module that `go.mod` requires in the release that is wanted.
    pub(super) pinned: &'static str,
}

impl GoModule {
    fn path(&self) -> PathBuf {
        paths::workspace().join(self.folder)
    }

    /// Its `go.mod`.
    pub(super) fn text(&self) -> Result<String> {
        let file = self.path().join("go.mod");
        fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))
    }

    /// The release that is wanted: `v1.35.4`.
    pub(super) fn release(&self) -> Result<String> {
        let wanted = format!("{} ", self.pinned);
        let text = self.text()?;
        let version = text
            .lines()
            .find_map(|line| line.trim().strip_prefix(&wanted)?.split_whitespace().next());
        let version =
            version.with_context(|| format!("{}/go.mod requires no {wanted}", self.folder))?;
        Ok(version.to_owned())
    }

    /// The machine's Go, if it is new enough for the module: no other is fetched.
    fn suitable_go(&self) -> Result<PathBuf> {
        let go = find("go").context("there is no go on PATH")?;
        // Go itself compares its version with the one that go.mod asks for.
        capture(
            Command::new(&go)
                .args(["list", "-m"])
                .env("GOTOOLCHAIN", "local")
                .env("GOFLAGS", "-mod=mod")
                .current_dir(self.path()),
        )?;
        Ok(go)
    }

    /// Builds one of the module's packages as the program `target`, with these linker flags beside
    /// the usual ones.
    pub(super) fn build(&self, package: &str, linker: &str, target: &Path) -> Result<()> {
        let go = self.suitable_go()?;
        let program = target.file_name().unwrap_or(OsStr::new(self.name));
        let title = format!(
            "building {} of {} {}",
            program.to_string_lossy(),
            self.name,
            self.release()?
        );
        let dirs = Dirs::open()?;
        let command = |arguments: &[&str]| {
            let mut command = bound::watched(&go)?;
            command
                .args(arguments)
                .current_dir(self.path())
                // Static, so that a cached build runs wherever the cache is.
                .env("CGO_ENABLED", "0")
                .env("GOTOOLCHAIN", "local")
                .env("GOWORK", "off")
                .env_remove("GOFLAGS");
            Ok::<_, anyhow::Error>(command)
        };
        run_with_progress(
            &mut command(&["mod", "download", "-x"])?,
            &format!("fetching the sources for it: {title}"),
            &dirs.log(&format!("{}-sources", self.name)),
            |lines, _| format!("{lines} steps"),
        )?;
        let packages = capture(&mut command(&["list", "-deps", package])?)?;
        let packages = packages.lines().count();
        let linker = format!("-ldflags=-s -w {linker}");
        let part = target.with_extension(format!("part-{}", std::process::id()));
        let output = part.to_string_lossy().into_owned();
        let flags = ["build", "-v", "-trimpath", "-buildvcs=false"];
        let what = [linker.as_str(), "-o", output.as_str(), package];
        let built = run_with_progress(
            &mut command(&[&flags[..], &what[..]].concat())?,
            &title,
            &dirs.log(&format!("{}-build", self.name)),
            |lines, last| format!("{lines} of at most {packages} packages compiled, now {last}"),
        );
        finish(built, &part, target)
    }
}

/// Moves a finished build into its place at once: nobody ever finds half a program.
fn finish(built: Result<()>, part: &Path, target: &Path) -> Result<()> {
    if built.is_err() {
        let _ = fs::remove_file(part);
        return built;
    }
    fs::set_permissions(part, fs::Permissions::from_mode(0o755))
        .and_then(|()| fs::rename(part, target))
        .with_context(|| format!("cannot put the build in place at {}", target.display()))
}
