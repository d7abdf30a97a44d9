//! `cargo xtask package`, `deny` and `api`: what has to be green before a release.

use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tenure_testkit::paths;
use tenure_testkit::provision::tools::DENY;
use tenure_testkit::shell::capture;

use crate::report::{Row, report};
use crate::steps::{Environment, cargo, cargo_step, forget_this_package, row, step, words};

/// Libraries leave the version of the Kubernetes API to the program. The check of a package builds
/// it without one.
const KUBERNETES: (&str, &str) = ("K8S_OPENAPI_ENABLED_VERSION", "1.37");

/// A program that depends on the facade by its version alone.
const SERVICE: &str = include_str!("packages/service.rs");

/// A package that is published.
#[derive(Debug)]
struct Package {
    name: String,
    version: String,
    is_library: bool,
    /// Of `[package.metadata.docs.rs]`.
    docs: Value,
    manifest: Value,
}

/// `cargo xtask package`
pub(crate) fn package(stores: &[String]) -> Result<ExitCode> {
    let begin = Instant::now();
    let packages = published()?;
    let environment: Environment = vec![(KUBERNETES.0.into(), KUBERNETES.1.into())];
    let dry_run = words("publish --workspace --dry-run --allow-dirty");
    let mut rows = vec![
        row("manifests", || complete(&packages))?,
        cargo_step("verified dry run", &dry_run, &environment)?,
    ];
    for package in packages.iter().filter(|package| package.is_library) {
        rows.push(documentation(package)?);
    }
    rows.push(row("a service on the packages", || {
        service(&packages, stores)
    })?);
    Ok(report(&rows, begin.elapsed()))
}

/// `cargo xtask deny`
pub(crate) fn deny() -> Result<ExitCode> {
    let begin = Instant::now();
    let program = DENY.provide()?;
    let check = words("--all-features check licenses bans sources");
    let row = step("deny", program.as_os_str(), &check, &[], None)?;
    Ok(report(&[row], begin.elapsed()))
}

/// `cargo xtask api`: compares the public interface of each library with its file in `api/`, or
/// writes the file.
pub(crate) fn api(toolchain: &str, update: bool) -> Result<ExitCode> {
    let begin = Instant::now();
    let mut rows = Vec::new();
    let packages = published()?;
    for package in packages.iter().filter(|package| package.is_library) {
        let name = format!("interface of {}", package.name);
        rows.push(row(&name, || interface(&package.name, toolchain, update))?);
    }
    Ok(report(&rows, begin.elapsed()))
}

fn interface(package: &str, toolchain: &str, update: bool) -> Result<String> {
    let file = paths::workspace()
        .join("api")
        .join(format!("{package}.txt"));
    let mut command = Command::new("cargo-public-api");
    command
        .args(["public-api", "--all-features", "--package", package])
        .args([
            "--omit",
            "blanket-impls,auto-trait-impls,auto-derived-impls",
        ])
        .args(["--target-dir", "target/api"])
        .env("RUSTUP_TOOLCHAIN", toolchain)
        .env(KUBERNETES.0, KUBERNETES.1)
        .current_dir(paths::workspace());
    forget_this_package(&mut command);
    let now = capture(&mut command)
        .context("cargo-public-api: cargo install --locked cargo-public-api@0.52.0")?;
    let now = format!("{}\n", now.trim_end());
    if update {
        fs::write(&file, &now)?;
        return Ok(format!("written, {} lines", now.lines().count()));
    }
    let before = fs::read_to_string(&file).unwrap_or_default();
    let gone = before
        .lines()
        .find(|line| !now.lines().any(|now| now == *line));
    let new = now
        .lines()
        .find(|line| !before.lines().any(|old| old == *line));
    ensure!(
        gone.is_none() && new.is_none(),
        "differs from {}, first by -{:?} +{:?}; if that is wanted: cargo xtask api --update",
        file.display(),
        gone.unwrap_or_default(),
        new.unwrap_or_default()
    );
    Ok(format!("{} lines as in api/", now.lines().count()))
}

/// The documentation of a library with the features and the flag of docs.rs.
fn documentation(package: &Package) -> Result<Row> {
    let features: Vec<&str> = package.docs["features"]
        .as_array()
        .map(|features| features.iter().filter_map(Value::as_str).collect())
        .unwrap_or_default();
    let features = features.join(",");
    let mut arguments = vec!["doc", "--lib", "--no-deps", "--package", &package.name];
    if package.docs["all-features"] == true {
        arguments.push("--all-features");
    }
    if !features.is_empty() {
        arguments.extend(["--features", &features]);
    }
    let flags = ("RUSTDOCFLAGS".into(), "--cfg docsrs -D warnings".into());
    cargo_step(&format!("docs of {}", package.name), &arguments, &[flags])
}

/// Builds a program outside the workspace on the unpacked packages, which the dry run has left, and
/// elects a leader on each store.
fn service(packages: &[Package], stores: &[String]) -> Result<String> {
    let folder = tempfile::tempdir()?;
    let built = paths::workspace().join("target/package");
    let mut manifest = String::from(
        "[package]\nname = \"service\"\nversion = \"0.1.0\"\nedition = \"2024\"\n[workspace]\n\
         [dependencies]\n\
         tenure = { version = \"0.1\", features = [\"redis\", \"postgres\"] }\n\
         tokio = { version = \"1\", features = [\"macros\", \"rt\"] }\n[patch.crates-io]\n",
    );
    for package in packages.iter().filter(|package| package.is_library) {
        let unpacked = built.join(format!("{}-{}", package.name, package.version));
        ensure!(
            unpacked.join("Cargo.toml.orig").exists(),
            "{} is no unpacked package: did the dry run fail?",
            unpacked.display()
        );
        let patch = format!(
            "{} = {{ path = \"{}\" }}\n",
            package.name,
            unpacked.display()
        );
        manifest.push_str(&patch);
    }
    fs::create_dir(folder.path().join("src"))?;
    fs::write(folder.path().join("src/main.rs"), SERVICE)?;
    fs::write(folder.path().join("Cargo.toml"), manifest)?;
    // The versions that the workspace is tested with.
    fs::copy(
        paths::workspace().join("Cargo.lock"),
        folder.path().join("Cargo.lock"),
    )?;
    let mut run = Command::new(cargo());
    let directory = format!("file://{}", folder.path().join("store").display());
    run.args(["run", "--quiet", "--target-dir"])
        .arg(built.join("service"))
        .arg("--")
        .args(["memory:", &directory])
        .args(stores)
        .current_dir(folder.path());
    forget_this_package(&mut run);
    let said = capture(&mut run)?;
    Ok(said.trim().replace('\n', "; "))
}

/// The packages of the workspace that are published.
fn published() -> Result<Vec<Package>> {
    let mut command = Command::new(cargo());
    command
        .args(["metadata", "--no-deps", "--format-version", "1"])
        .current_dir(paths::workspace());
    let metadata: Value = serde_json::from_str(&capture(&mut command)?)?;
    let packages = metadata["packages"].as_array().context("no packages")?;
    let is_published = |package: &&Value| package["publish"].is_null();
    Ok(packages.iter().filter(is_published).map(read).collect())
}

fn read(package: &Value) -> Package {
    let text = |field: &str| package[field].as_str().unwrap_or_default().to_owned();
    let targets = package["targets"].as_array().into_iter().flatten();
    let mut kinds = targets.flat_map(|target| target["kind"].as_array().into_iter().flatten());
    Package {
        name: text("name"),
        version: text("version"),
        is_library: kinds.any(|kind| kind == "lib"),
        docs: package["metadata"]["docs"]["rs"].clone(),
        manifest: package.clone(),
    }
}

/// Each package has what a registry shows and what its licence asks for.
fn complete(packages: &[Package]) -> Result<String> {
    for package in packages {
        let lacks = lacks(package);
        ensure!(
            lacks.is_empty(),
            "{} lacks {}",
            package.name,
            lacks.join(", ")
        );
    }
    Ok(format!("{} packages", packages.len()))
}

/// What a package lacks to be published, in words.
fn lacks(package: &Package) -> Vec<String> {
    let manifest = &package.manifest;
    let mut lacks = Vec::new();
    for field in ["description", "license", "rust_version", "readme"] {
        if manifest[field].as_str().is_none_or(str::is_empty) {
            lacks.push(field.to_owned());
        }
    }
    for field in ["keywords", "categories"] {
        let count = manifest[field].as_array().map_or(0, Vec::len);
        if !(1..=5).contains(&count) {
            lacks.push(format!("{field}: has {count}, wants 1 to 5"));
        }
    }
    let path = manifest["manifest_path"].as_str().unwrap_or_default();
    let folder = Path::new(path).parent().unwrap_or(Path::new(""));
    for file in ["README.md", "LICENSE-APACHE", "LICENSE-MIT"] {
        // As cargo does it, through a link to the workspace's own.
        if fs::read_to_string(folder.join(file)).is_ok_and(|text| text.len() > 100) {
            continue;
        }
        lacks.push(format!("the file {file}"));
    }
    if package.is_library && package.docs["all-features"] != true {
        lacks.push("all-features in [package.metadata.docs.rs]".to_owned());
    }
    lacks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_package_has_what_a_registry_shows() {
        let packages = published().unwrap();
        assert!(packages.len() >= 12, "{packages:?}");
        complete(&packages).unwrap();
    }

    #[test]
    fn what_a_package_lacks_is_named() {
        let mut packages = published().unwrap();
        let core = packages.iter_mut().find(|it| it.name == "tenure-core");
        let core = core.unwrap();
        core.docs = Value::Null;
        core.manifest["keywords"] = Value::Null;
        let said = complete(&packages).unwrap_err().to_string();
        assert!(said.starts_with("tenure-core lacks keywords"), "{said}");
        assert!(said.contains("docs.rs"), "{said}");
    }
}
