//! `cargo xtask package` and `deny`: what has to be green before a release.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tenure_testkit::paths;
use tenure_testkit::provision::tools::DENY;
use tenure_testkit::shell::capture;

use crate::nightly::Nightly;
use crate::report::{Row, report};
use crate::steps::{Environment, cargo, cargo_step, row, step, words};

/// Libraries leave the version of the Kubernetes API to the program. The check of a package builds
/// it without one.
pub(crate) const KUBERNETES: (&str, &str) = ("K8S_OPENAPI_ENABLED_VERSION", "1.37");

/// A package that is published.
#[derive(Debug)]
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) is_library: bool,
    /// Of `[package.metadata.docs.rs]`.
    pub(crate) docs: Value,
    manifest: Value,
}

/// `cargo xtask package`
pub(crate) fn package() -> Result<ExitCode> {
    let begin = Instant::now();
    let packages = published()?;
    let environment: Environment = vec![
        (KUBERNETES.0.into(), KUBERNETES.1.into()),
        // Nobody debugs what is built here, and each package is built once more.
        ("CARGO_PROFILE_DEV_DEBUG".into(), "0".into()),
        ("CARGO_INCREMENTAL".into(), "0".into()),
    ];
    let target = paths::workspace().join("target").join("publish");
    forget_earlier(&packages, &target)?;
    let folder = target.display().to_string();
    let mut dry_run = words("publish --workspace --dry-run --allow-dirty --target-dir");
    dry_run.push(&folder);
    let mut rows = vec![
        row("manifests", || complete(&packages))?,
        cargo_step("verified dry run", &dry_run, &environment)?,
        row("sizes", || sizes(&packages, &target))?,
    ];
    let nightly = Nightly::find();
    if let Err(error) = &nightly {
        eprintln!("the documentation without --cfg docsrs: {error:#}");
    }
    for package in packages.iter().filter(|package| package.is_library) {
        rows.push(documentation(package, nightly.as_ref().ok())?);
    }
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

/// Removes what an earlier run has unpacked and built of the packages: cargo knows a package of a
/// registry by its version alone, and would verify the next one against the earlier one's source.
fn forget_earlier(packages: &[Package], target: &Path) -> Result<()> {
    let home = std::env::home_dir().unwrap_or_default().join(".cargo");
    let home = std::env::var_os("CARGO_HOME").map_or(home, PathBuf::from);
    for registry in entries(&home.join("registry").join("src")) {
        // The registry of a dry run has no host in its name.
        if !file_name(&registry).starts_with('-') {
            continue;
        }
        for package in packages {
            let unpacked = format!("{}-{}", package.name, package.version);
            paths::remove_dir(&registry.join(unpacked))?;
        }
    }
    for built in entries(&target.join("debug").join(".fingerprint")) {
        if packages
            .iter()
            .any(|it| file_name(&built).starts_with(&it.name))
        {
            paths::remove_dir(&built)?;
        }
    }
    Ok(())
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}

fn file_name(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

/// What the dry run has packed.
fn sizes(packages: &[Package], target: &Path) -> Result<String> {
    let mut all = Vec::new();
    for package in packages {
        let file = target
            .join("package/tmp-registry")
            .join(format!("{}-{}.crate", package.name, package.version));
        let file = fs::metadata(&file).with_context(|| file.display().to_string())?;
        all.push(format!(
            "{} {} KiB",
            package.name,
            file.len().div_ceil(1024)
        ));
    }
    Ok(all.join(", "))
}

/// The documentation of a library with the features of its own metadata, as docs.rs builds it: on a
/// nightly compiler with `--cfg docsrs`, where there is one.
fn documentation(package: &Package, nightly: Option<&Nightly>) -> Result<Row> {
    let features = features_of_docs(&package.docs);
    let mut arguments = vec!["doc", "--lib", "--no-deps", "--package", &package.name];
    arguments.extend(features.iter().map(String::as_str));
    let name = format!("docs of {}", package.name);
    let Some(nightly) = nightly else {
        let flags = ("RUSTDOCFLAGS".into(), "-D warnings".into());
        return cargo_step(&name, &arguments, &[flags]);
    };
    let mut environment = nightly.folders("docs");
    environment.push(("RUSTDOCFLAGS".into(), "--cfg docsrs -D warnings".into()));
    let mut all = nightly.cargo_arguments();
    all.extend(arguments);
    step(&name, "rustup".as_ref(), &all, &environment, None)
}

/// The arguments of `cargo doc` that the metadata for docs.rs stands for.
pub(crate) fn features_of_docs(docs: &Value) -> Vec<String> {
    let mut arguments = Vec::new();
    if docs["all-features"] == true {
        arguments.push("--all-features".to_owned());
    }
    let features = docs["features"].as_array().into_iter().flatten();
    let features: Vec<&str> = features.filter_map(Value::as_str).collect();
    if !features.is_empty() {
        arguments.extend(["--features".to_owned(), features.join(",")]);
    }
    arguments
}

/// The packages of the workspace that are published.
pub(crate) fn published() -> Result<Vec<Package>> {
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
    fn the_documentation_gets_the_features_of_its_metadata() {
        let packages = published().unwrap();
        let kube = packages.iter().find(|it| it.name == "tenure-kube").unwrap();
        let expected = ["--all-features", "--features", "k8s-openapi/latest"];
        assert_eq!(features_of_docs(&kube.docs), expected);
        assert!(features_of_docs(&Value::Null).is_empty());
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
