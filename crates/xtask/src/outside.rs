//! `cargo xtask outside`: the worked example as a crate of its own, outside the workspace.

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result, ensure};
use tenure_testkit::paths;
use tenure_testkit::shell::run_shown;

use crate::steps::{cargo, forget_this_package};

/// The crate that is copied.
const EXAMPLE: &str = "examples/sqlite-backend";

/// The crates of the workspace that it names, in whatever section.
const OURS: [&str; 5] = [
    "tenure",
    "tenure-cli",
    "tenure-conformance",
    "tenure-core",
    "tenure-kit",
];

/// Copies the example out of the workspace, and runs its tests there: what inherits from the
/// workspace, or reaches into it, does not build.
pub(crate) fn test() -> Result<ExitCode> {
    let workspace = paths::workspace();
    let outside = tempfile::tempdir()?;
    for folder in ["src", "tests"] {
        copy(
            &workspace.join(EXAMPLE).join(folder),
            &outside.path().join(folder),
        )?;
    }
    // The same versions as inside, so that nothing new is fetched.
    fs::copy(
        workspace.join("Cargo.lock"),
        outside.path().join("Cargo.lock"),
    )?;
    fs::write(outside.path().join("Cargo.toml"), manifest(&workspace))?;
    let mut test = std::process::Command::new(cargo());
    test.arg("test")
        .current_dir(outside.path())
        .env("CARGO_TARGET_DIR", workspace.join("target").join("outside"));
    forget_this_package(&mut test);
    let status = run_shown(&mut test, || {})?;
    ensure!(status.success(), "the example fails outside: {status}");
    Ok(ExitCode::SUCCESS)
}

fn manifest(workspace: &Path) -> String {
    let ours: Vec<String> = OURS
        .iter()
        .map(|name| {
            let path = workspace.join("crates").join(name);
            format!("{name} = {{ path = {:?} }}\n", path.display().to_string())
        })
        .collect();
    format!(
        "[package]\nname = \"tenure-example-sqlite\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\n\
         [[bin]]\nname = \"tenure-sqlite\"\npath = \"src/main.rs\"\n\n\
         [dependencies]\nasync-trait = \"0.1\"\nfutures-util = \"0.3\"\n\
         rusqlite = {{ version = \"0.41\", features = [\"bundled\"] }}\n\
         serde_json = \"1\"\ntempfile = \"3\"\n\
         tokio = {{ version = \"1\", features = [\"macros\", \"rt-multi-thread\"] }}\n{}\n\
         [workspace]\n",
        ours.concat()
    )
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir(to)?;
    for entry in fs::read_dir(from).with_context(|| from.display().to_string())? {
        let entry = entry?;
        fs::copy(entry.path(), to.join(entry.file_name()))?;
    }
    Ok(())
}
