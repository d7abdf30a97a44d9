//! `cargo xtask features`: what each feature of the facade brings along, and what it must not.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use tenure_testkit::backends::BACKENDS;
use tenure_testkit::paths;
use tenure_testkit::provision::tools::HACK;
use tenure_testkit::shell::{capture, run_shown};

use crate::steps::forget_this_package;

/// What no feature may bring along: C libraries, and a second HTTP client.
const REFUSED: [&str; 3] = ["native-tls", "openssl-sys", "reqwest"];

/// Libraries leave the version of the Kubernetes API to the application, so that they do not build
/// alone; this stands in for one.
const KUBERNETES_VERSION: (&str, &str) = ("K8S_OPENAPI_ENABLED_VERSION", "1.34");

/// Asserts, by `cargo tree`, what each feature pulls. Says what was looked at.
pub(crate) fn assert_trees() -> Result<String> {
    let listed: BTreeSet<String> = BACKENDS.iter().map(|f| f.name.to_owned()).collect();
    let full = members_of_full()?;
    ensure!(
        full == listed,
        "the facade's feature full has {full:?}, and crates/tenure-testkit/src/backends.rs lists {listed:?}"
    );
    let core = tree("tenure-core", &["--all-features"])?;
    expect("tenure-core with all features", &core, &[], &[])?;
    let none = tree("tenure", &["--no-default-features"])?;
    expect("tenure without features", &none, &[], &[])?;
    let kit = tree("tenure-kit", &["--no-default-features"])?;
    ensure!(
        !kit.contains("rustls"),
        "tenure-kit without features pulls rustls"
    );
    for feature in &BACKENDS {
        let with = format!("tenure with the feature {}", feature.name);
        let crates = tree(
            "tenure",
            &["--no-default-features", "--features", feature.name],
        )?;
        expect(&with, &crates, feature.own, feature.client)?;
    }
    Ok(format!("{} features, none, and the core", BACKENDS.len()))
}

fn expect(whose: &str, crates: &BTreeSet<String>, own: &[&str], client: &[&str]) -> Result<()> {
    for needed in own.iter().chain(client) {
        ensure!(
            crates.contains(*needed),
            "{whose} does not depend on {needed}: is crates/tenure-testkit/src/backends.rs out of date?"
        );
    }
    // The clients of stores, and what they cannot do without, come with their own feature only.
    let clients = BACKENDS.iter().flat_map(|backend| backend.client);
    for foreign in clients.chain(&REFUSED) {
        ensure!(
            client.contains(foreign) || !crates.contains(*foreign),
            "{whose} pulls {foreign}, which is not of its store"
        );
    }
    let ours =
        |name: &str| matches!(name, "tenure" | "tenure-core" | "tenure-kit") || own.contains(&name);
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

/// Builds the facade with each feature alone, with none and with all.
pub(crate) fn check_builds() -> Result<()> {
    let mut hack = Command::new(HACK.provide()?);
    hack.args(["hack", "check", "--locked", "--package", "tenure"])
        .arg("--each-feature")
        .current_dir(paths::workspace())
        .env("RUSTFLAGS", "-D warnings")
        .env(KUBERNETES_VERSION.0, KUBERNETES_VERSION.1)
        // Other flags would make the next ordinary build begin again.
        .env("CARGO_TARGET_DIR", scratch().join("check"));
    forget_this_package(&mut hack);
    let status = run_shown(&mut hack, || {})?;
    ensure!(
        status.success(),
        "tenure does not build with each feature: {status}"
    );
    Ok(())
}

fn scratch() -> PathBuf {
    paths::workspace().join("target").join("features")
}

fn cargo() -> Command {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(program);
    command.current_dir(paths::workspace());
    forget_this_package(&mut command);
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
