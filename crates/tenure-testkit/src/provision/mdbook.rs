//! mdBook, which builds the book: a crate that is built once, and kept in the cache.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::cache_folder;
use crate::bound;
use crate::environment::find;
use crate::paths::Dirs;
use crate::shell::{is_executable, run_with_progress};

/// The release; the pages `docs/README.md` and `docs/book.toml` are written for it.
const RELEASE: &str = "0.4.52";

/// The variable that names the program to the tests.
pub const PROGRAM: &str = "TENURE_TEST_MDBOOK";

/// The program: from the cache, or else built, which takes some minutes.
pub fn provide() -> Result<PathBuf> {
    let folder = cache_folder()?.join(format!("mdbook-{RELEASE}"));
    let program = folder.join("bin/mdbook");
    if is_executable(&program) {
        return Ok(program);
    }
    let part = folder.with_extension(format!("part-{}", std::process::id()));
    let built = build(&part);
    if built.is_ok() && !folder.exists() {
        fs::rename(&part, &folder)
            .with_context(|| format!("cannot put mdbook in place at {}", folder.display()))?;
    }
    let _none_there = fs::remove_dir_all(&part);
    built.context("mdbook could not be built")?;
    Ok(program)
}

fn build(root: &Path) -> Result<()> {
    let cargo = find("cargo").context("there is no cargo on PATH")?;
    let dirs = Dirs::open()?;
    let mut command = bound::watched(&cargo)?;
    command
        .args(["install", "mdbook", "--version", RELEASE])
        .args(["--locked", "--no-default-features", "--root"])
        .arg(root)
        .env("CARGO_TARGET_DIR", root.join("target"));
    let title = format!("building mdbook {RELEASE}");
    let log = dirs.log("mdbook-build");
    run_with_progress(&mut command, &title, &log, |lines, last| {
        format!("{lines} steps, now {last}")
    })?;
    fs::remove_dir_all(root.join("target")).context("cannot remove the build of mdbook")
}
