//! A candidate of today's suite on the library of an older commit, to compete beside today's.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use tenure_sim::mutants::root;

/// What the candidate is made of.
const SOURCES: [&str; 4] = [
    "src/candidate.rs",
    "src/candidate/starve.rs",
    "src/history.rs",
    "src/bin/chaos-candidate.rs",
];

const MANIFEST: &str = r#"[package]
name = "tenure-chaos"
version = "0.1.0"
edition = "2024"

[dependencies]
anyhow.workspace = true
clap.workspace = true
tenure = { workspace = true, features = ["file", "redis", "ring"] }
tokio = { workspace = true, features = ["io-util", "macros", "net", "rt-multi-thread", "signal", "time"] }
"#;

const LIBRARY: &str = "pub mod candidate;\npub mod history;\n";

/// Builds a candidate for directories and Redis from a commit; the program's file.
pub fn build(commit: &str) -> Result<PathBuf> {
    let folder = root().join("target/chaos-older");
    let named = folder.join(format!("candidate-{commit}"));
    if is_newer_than_its_sources(&named) {
        return Ok(named);
    }
    let work = folder.join("work");
    if work.exists() {
        fs::remove_dir_all(&work)?;
    }
    fs::create_dir_all(&work)?;
    unpack(commit, &work)?;
    let manifest = work.join("Cargo.toml");
    let text = fs::read_to_string(&manifest)?;
    let with_member = text.replacen("members = [", "members = [\"crates/tenure-chaos\", ", 1);
    fs::write(&manifest, with_member)?;
    let own = work.join("crates/tenure-chaos");
    for folder in ["src/bin", "src/candidate"] {
        fs::create_dir_all(own.join(folder))?;
    }
    fs::write(own.join("Cargo.toml"), MANIFEST)?;
    fs::write(own.join("src/lib.rs"), LIBRARY)?;
    for source in SOURCES {
        let from = root().join("crates/tenure-chaos").join(source);
        fs::copy(from, own.join(source)).context(source)?;
    }
    let target = folder.join("target");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args([
            "build",
            "--quiet",
            "-p",
            "tenure-chaos",
            "--bin",
            "chaos-candidate",
        ])
        .current_dir(&work)
        .env("CARGO_TARGET_DIR", &target)
        .env("CARGO_PROFILE_DEV_DEBUG", "0")
        .status()
        .context("cargo build")?;
    ensure!(status.success(), "a candidate of {commit} does not build");
    fs::copy(target.join("debug/chaos-candidate"), &named)?;
    Ok(named)
}

/// A commit does not change, and the suite's part of the candidate seldom does.
fn is_newer_than_its_sources(program: &Path) -> bool {
    let time = |path: &Path| fs::metadata(path).and_then(|found| found.modified()).ok();
    let own = root().join("crates/tenure-chaos");
    let built = time(program);
    built.is_some() && SOURCES.iter().all(|source| time(&own.join(source)) < built)
}

/// The files of a commit.
fn unpack(commit: &str, into: &Path) -> Result<()> {
    let mut archive = Command::new("git")
        .args(["archive", "--format=tar", commit])
        .current_dir(root())
        .stdout(Stdio::piped())
        .spawn()
        .context("git archive")?;
    let tar = archive.stdout.take().context("no archive")?;
    let unpacked = Command::new("tar")
        .args(["-x", "-C"])
        .arg(into)
        .stdin(tar)
        .status()
        .context("tar")?;
    ensure!(
        archive.wait()?.success() && unpacked.success(),
        "no files of {commit}"
    );
    Ok(())
}
