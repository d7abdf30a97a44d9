//! `cargo xtask features`: what each feature of the facade brings along, and what it must not.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::paths;
use crate::shell::{capture, run_shown};

/// A backend's feature and what only it may bring along.
struct Feature {
    name: &'static str,
    /// Crates of this workspace beside the facade and the core.
    own: &'static [&'static str],
    /// The client of its store: in the tree with this feature, and in no other's.
    client: &'static [&'static str],
}

/// Every backend of the facade's feature `full`; one that is missing here is a failure.
const FEATURES: &[Feature] = &[
    Feature {
        name: "memory",
        own: &[],
        client: &[],
    },
    Feature {
        name: "file",
        own: &["tenure-file"],
        client: &["notify"],
    },
    Feature {
        name: "kube-lease",
        own: &["tenure-kube", "tenure-kube-lease"],
        client: KUBERNETES,
    },
    Feature {
        name: "kube-configmap",
        own: &["tenure-kube", "tenure-kube-configmap"],
        client: KUBERNETES,
    },
    Feature {
        name: "etcd",
        own: &["tenure-etcd"],
        client: &["etcd-client", "tonic", "hyper"],
    },
    Feature {
        name: "redis",
        own: &["tenure-redis"],
        client: &["redis"],
    },
    Feature {
        name: "postgres",
        own: &["tenure-postgres"],
        client: &["tokio-postgres"],
    },
];

const KUBERNETES: &[&str] = &["kube", "kube-client", "k8s-openapi", "hyper"];

/// Clients of stores, and what they cannot do without, that no feature may bring along unless it
/// is listed there; and C libraries that no feature may.
const FOREIGN: &[&str] = &[
    "etcd-client",
    "hyper",
    "k8s-openapi",
    "kube",
    "kube-client",
    "native-tls",
    "notify",
    "openssl-sys",
    "redis",
    "reqwest",
    "tokio-postgres",
    "tonic",
];

/// Libraries leave the version of the Kubernetes API to the application, so that they do not build
/// alone; this stands in for one.
const KUBERNETES_VERSION: (&str, &str) = ("K8S_OPENAPI_ENABLED_VERSION", "1.34");

/// Asserts, by `cargo tree`, what each feature pulls. Says what was looked at.
pub(crate) fn assert_trees() -> Result<String> {
    let listed: BTreeSet<String> = FEATURES.iter().map(|f| f.name.to_owned()).collect();
    let full = members_of_full()?;
    ensure!(
        full == listed,
        "the facade's feature full has {full:?}, and crates/xtask/src/features.rs lists {listed:?}"
    );
    let core = tree("tenure-core", &["--all-features"])?;
    expect("tenure-core with all features", &core, &[], &[])?;
    let none = tree("tenure", &["--no-default-features"])?;
    expect("tenure without features", &none, &[], &[])?;
    for feature in FEATURES {
        let with = format!("tenure with the feature {}", feature.name);
        let crates = tree(
            "tenure",
            &["--no-default-features", "--features", feature.name],
        )?;
        expect(&with, &crates, feature.own, feature.client)?;
    }
    Ok(format!("{} features, none, and the core", FEATURES.len()))
}

fn expect(whose: &str, crates: &BTreeSet<String>, own: &[&str], client: &[&str]) -> Result<()> {
    for needed in own.iter().chain(client) {
        ensure!(
            crates.contains(*needed),
            "{whose} does not depend on {needed}: is crates/xtask/src/features.rs out of date?"
        );
    }
    for foreign in FOREIGN {
        ensure!(
            client.contains(foreign) || !crates.contains(*foreign),
            "{whose} pulls {foreign}, which is not of its store"
        );
    }
    let ours = |name: &str| matches!(name, "tenure" | "tenure-core") || own.contains(&name);
    for name in crates.iter().filter(|name| name.starts_with("tenure")) {
        ensure!(ours(name), "{whose} pulls {name}, another store's backend");
    }
    Ok(())
}

/// The names of the crates that a package is built from, build scripts and macros included.
fn tree(package: &str, features: &[&str]) -> Result<BTreeSet<String>> {
    let mut command = cargo();
    command
        .args(["tree", "--locked", "--package", package])
        .args(["--edges", "normal,build", "--prefix", "none"])
        .args(["--format", "{p}"])
        .args(features);
    let lines = capture(&mut command)?;
    let name = |line: &str| line.split_whitespace().next().map(str::to_owned);
    Ok(lines.lines().filter_map(name).collect())
}

/// What the facade's manifest lists under `full`.
fn members_of_full() -> Result<BTreeSet<String>> {
    let mut command = cargo();
    command.args(["metadata", "--locked", "--no-deps", "--format-version", "1"]);
    let metadata: serde_json::Value = serde_json::from_str(&capture(&mut command)?)?;
    let packages = metadata["packages"].as_array();
    let facade = packages
        .and_then(|packages| packages.iter().find(|p| p["name"] == "tenure"))
        .context("cargo metadata lists no package tenure")?;
    let full = facade["features"]["full"]
        .as_array()
        .context("the facade has no feature full")?;
    Ok(full
        .iter()
        .filter_map(|name| name.as_str().map(str::to_owned))
        .collect())
}

/// The arguments that switch exactly this on.
fn switches() -> Vec<(&'static str, Vec<&'static str>)> {
    let mut all = vec![("none", vec!["--no-default-features"])];
    for feature in FEATURES {
        let arguments = vec!["--no-default-features", "--features", feature.name];
        all.push((feature.name, arguments));
    }
    all
}

/// Builds the facade with each feature alone, with none and with all.
pub(crate) fn check_builds() -> Result<String> {
    let mut all = switches();
    all.push(("all", vec!["--all-features"]));
    for (name, arguments) in &all {
        eprintln!("tenure with {name}: cargo check {}", arguments.join(" "));
        let mut command = cargo();
        command
            .args(["check", "--quiet", "--locked", "--package", "tenure"])
            .args(arguments)
            .env("RUSTFLAGS", "-D warnings")
            .env(KUBERNETES_VERSION.0, KUBERNETES_VERSION.1)
            // Other flags would make the next ordinary build begin anew.
            .env("CARGO_TARGET_DIR", scratch().join("check"));
        let status = run_shown(&mut command, || {})?;
        ensure!(
            status.success(),
            "tenure does not build with {name}: {status}"
        );
    }
    Ok(format!("{} builds", all.len()))
}

/// Prints how many crates each feature adds, and how long they take to compile.
pub(crate) fn times() -> Result<ExitCode> {
    let base = scratch().join("base");
    let added = scratch().join("added");
    paths::remove_dir(&base)?;
    let none_crates = tree("tenure", &["--no-default-features"])?;
    fetch()?;
    let none = build(&["--no-default-features"], &base)?;
    let mut rows = vec![("none".to_owned(), none_crates.len(), 0, none)];
    for (name, arguments) in switches().into_iter().skip(1).chain([("full", full())]) {
        let crates = tree("tenure", &arguments)?;
        let more = crates.difference(&none_crates).count();
        paths::remove_dir(&added)?;
        // Each starts from what a build without features has left.
        let mut copy = Command::new("cp");
        copy.arg("-a").arg(&base).arg(&added);
        capture(&mut copy)?;
        let took = build(&arguments, &added)?;
        rows.push((name.to_owned(), crates.len(), more, took));
    }
    paths::remove_dir(&base)?;
    paths::remove_dir(&added)?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    println!("| feature | crates | added | seconds to compile them, {cores} cores, unoptimised |");
    println!("|---|---|---|---|");
    for (name, crates, more, took) in rows {
        println!("| {name} | {crates} | {more} | {:.1} |", took.as_secs_f32());
    }
    Ok(ExitCode::SUCCESS)
}

fn full() -> Vec<&'static str> {
    vec!["--no-default-features", "--features", "full"]
}

/// So that no download is measured.
fn fetch() -> Result<()> {
    capture(cargo().args(["fetch", "--locked"])).map(|_| ())
}

fn build(arguments: &[&str], target: &Path) -> Result<Duration> {
    let start = Instant::now();
    let mut command = cargo();
    command
        .args(["build", "--quiet", "--locked", "--package", "tenure"])
        .args(arguments)
        .env(KUBERNETES_VERSION.0, KUBERNETES_VERSION.1)
        .env("CARGO_TARGET_DIR", target);
    let status = run_shown(&mut command, || {})?;
    if !status.success() {
        bail!("cargo build {} ended with {status}", arguments.join(" "));
    }
    Ok(start.elapsed())
}

fn scratch() -> std::path::PathBuf {
    paths::workspace().join("target").join("features")
}

fn cargo() -> Command {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(program);
    command.current_dir(paths::workspace());
    // Those that name this package were set for this program and would confuse another build.
    for (variable, _) in std::env::vars_os() {
        let name = variable.to_string_lossy();
        if name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") {
            command.env_remove(&variable);
        }
    }
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    fn crates(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    #[test]
    fn another_stores_client_or_backend_is_refused() {
        let tidy = crates(&["tenure", "tenure-core", "tenure-redis", "redis", "tokio"]);
        expect("it", &tidy, &["tenure-redis"], &["redis"]).unwrap();
        let missing = expect("it", &tidy, &["tenure-redis"], &["etcd-client"]);
        assert!(missing.unwrap_err().to_string().contains("etcd-client"));
        let foreign = expect("it", &tidy, &["tenure-redis"], &[]);
        assert!(foreign.unwrap_err().to_string().contains("pulls redis"));
        let other = expect("it", &tidy, &[], &["redis"]);
        assert!(other.unwrap_err().to_string().contains("another store's"));
    }
}
