//! `cargo xtask outside`: crates outside the workspace on the packages as a registry would serve
//! them: a service, and the worked example of a backend with its own `tenure`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use tempfile::TempDir;
use tenure_testkit::backends::BACKENDS;
use tenure_testkit::paths::{self, Dirs};
use tenure_testkit::shell::{capture, run_shown};
use tenure_testkit::stores::kind::Kind;
use tenure_testkit::stores::process::Hold;
use tenure_testkit::stores::session::{self, Session};

use crate::packages::published;
use crate::report::{Outcome, report};
use crate::steps::{cargo, forget_this_package, row};

/// A program that depends on the facade by its version alone.
const SERVICE: &str = include_str!("outside/service.rs");

const SERVICE_MANIFEST: &str = r#"[package]
name = "service"
version = "0.0.0"
edition = "2024"

[dependencies]
tenure = { version = "0.1", features = ["redis"] }
tokio = { version = "1", features = ["macros", "rt"] }
"#;

/// The crate that is copied.
const EXAMPLE: &str = "examples/sqlite-backend";

/// Its manifest, as another author would write it.
const EXAMPLE_MANIFEST: &str = r#"[package]
name = "tenure-example-sqlite"
version = "0.0.0"
edition = "2024"

[[bin]]
name = "tenure-sqlite"
path = "src/main.rs"

[dependencies]
async-trait = "0.1"
futures-util = "0.3"
rusqlite = { version = "0.41", features = ["bundled"] }
tenure = "0.1"
tenure-cli = { version = "0.1", default-features = false, features = ["file", "memory"] }
tenure-core = "0.1"
tenure-kit = "0.1"

[dev-dependencies]
serde_json = "1"
tempfile = "3"
tenure-conformance = "0.1"
tokio = { version = "1", features = ["macros", "rt-multi-thread"] }
"#;

/// Packs all packages, and builds the crates outside on them: each names versions alone, and cargo
/// has nothing but the packages. A path into the workspace, or a file that a package lacks, fails.
pub(crate) fn test(stores: &[String]) -> Result<ExitCode> {
    let begin = Instant::now();
    let outside = Outside::new()?;
    let registry = row("the packages as a registry", || outside.registry())?;
    let is_ready = matches!(registry.outcome, Outcome::Passed(_));
    let mut rows = vec![registry];
    if is_ready {
        rows.push(row("a service on the packages", || {
            outside.service(stores)
        })?);
        rows.push(row("a backend of another author", || outside.example())?);
    }
    Ok(report(&rows, begin.elapsed()))
}

/// A folder that no workspace contains.
struct Outside {
    folder: TempDir,
    /// What is built is kept from one run to the next.
    target: PathBuf,
}

impl Outside {
    fn new() -> Result<Self> {
        Ok(Self {
            folder: tempfile::tempdir()?,
            target: paths::workspace().join("target").join("outside"),
        })
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    /// A directory with the packages and all that they depend on, which stands for the registry.
    fn registry(&self) -> Result<String> {
        let packages = published()?;
        let begin = Instant::now();
        let mut pack = self.cargo(&paths::workspace());
        pack.args(["publish", "--workspace", "--dry-run", "--no-verify"])
            .args(["--allow-dirty", "--quiet", "--target-dir"])
            .arg(&self.target);
        capture(&mut pack)?;
        let vendor = self.path().join("registry");
        let mut others = self.cargo(&paths::workspace());
        others
            .args(["vendor", "--locked", "--versioned-dirs", "--quiet"])
            .arg(&vendor);
        capture(&mut others)?;
        let mut size = 0;
        for package in &packages {
            let name = format!("{}-{}", package.name, package.version);
            let packed = self.target.join("package/tmp-registry");
            let packed = packed.join(format!("{name}.crate"));
            size += fs::metadata(&packed)
                .with_context(|| format!("no package {}", packed.display()))?
                .len();
            let mut unpack = Command::new("tar");
            unpack.arg("-xzf").arg(&packed).arg("-C").arg(&vendor);
            capture(&mut unpack)?;
            // What makes a folder a package of such a directory.
            let checksums = vendor.join(name).join(".cargo-checksum.json");
            fs::write(checksums, r#"{"files":{}}"#)?;
        }
        fs::create_dir(self.path().join(".cargo"))?;
        let source = format!(
            "[source.crates-io]\nreplace-with = \"packages\"\n\
             [source.packages]\ndirectory = {:?}\n",
            vendor.display().to_string()
        );
        fs::write(self.path().join(".cargo/config.toml"), source)?;
        Ok(format!(
            "{} packages, {} KiB, packed in {} s",
            packages.len(),
            size / 1024,
            begin.elapsed().as_secs()
        ))
    }

    /// Elects on a directory, on Redis and on `stores`.
    fn service(&self, stores: &[String]) -> Result<String> {
        let service = self.path().join("service");
        fs::create_dir_all(service.join("src"))?;
        fs::write(service.join("src/main.rs"), SERVICE)?;
        fs::write(service.join("Cargo.toml"), SERVICE_MANIFEST)?;
        lock(&service)?;
        let directory = format!("file://{}", self.path().join("store").display());
        let built = run_shown(self.cargo(&service).arg("build"), || {})?;
        ensure!(built.success(), "it does not build: {built}");
        let (mut session, redis) = redis()?;
        let mut run = self.cargo(&service);
        run.args(["run", "--quiet", "--"])
            .args([directory, redis])
            .args(stores);
        let said = capture(&mut run);
        session.stop()?;
        Ok(said?.trim().replace('\n', "; "))
    }

    /// The tests of the example: the conformance suite, and the commands of its own `tenure`.
    fn example(&self) -> Result<String> {
        let example = self.path().join("example");
        fs::create_dir(&example)?;
        for folder in ["src", "tests"] {
            let from = paths::workspace().join(EXAMPLE).join(folder);
            copy(&from, &example.join(folder))?;
        }
        fs::write(example.join("Cargo.toml"), EXAMPLE_MANIFEST)?;
        lock(&example)?;
        let mut test = self.cargo(&example);
        test.arg("test");
        let status = run_shown(&mut test, || {})?;
        ensure!(status.success(), "its tests fail: {status}");
        let main = fs::read_to_string(example.join("src/main.rs"))?;
        let lines = main.lines().count();
        Ok(format!("its tests pass; a `tenure` of {lines} lines"))
    }

    fn cargo(&self, folder: &Path) -> Command {
        let mut command = Command::new(cargo());
        command
            .current_dir(folder)
            .env("CARGO_TARGET_DIR", &self.target);
        forget_this_package(&mut command);
        command
    }
}

/// A Redis server and its URL.
fn redis() -> Result<(Session, String)> {
    let backend = BACKENDS.iter().find(|backend| backend.name == "redis");
    let variable = backend.and_then(|backend| backend.variable);
    let variable = variable.context("no backend redis")?;
    let session = session::up(&Dirs::open()?, &[Kind::Redis].into(), Hold::Held)?;
    let url = session.state()?.env().remove(variable);
    Ok((session, url.context("Redis is not up")?))
}

/// The versions that the workspace is tested with.
fn lock(folder: &Path) -> Result<()> {
    let lock = paths::workspace().join("Cargo.lock");
    fs::copy(lock, folder.join("Cargo.lock"))?;
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir(to)?;
    for entry in fs::read_dir(from).with_context(|| from.display().to_string())? {
        let entry = entry?;
        fs::copy(entry.path(), to.join(entry.file_name()))?;
    }
    Ok(())
}
