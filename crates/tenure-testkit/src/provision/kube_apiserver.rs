//! kube-apiserver: no package carries a current one, so it is built when the machine has none.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::cache_folder;
use super::go_module::GoModule;
use crate::environment::find;
use crate::shell::{capture, is_executable};

/// The Go module that pins the release.
const MODULE: GoModule = GoModule {
    folder: "tests/kube-apiserver",
    name: PROGRAM,
    pinned: "k8s.io/kubernetes",
};
const PROGRAM: &str = "kube-apiserver";

/// A server to run.
#[derive(Debug)]
pub struct KubeApiserver {
    /// Its file.
    pub program: PathBuf,
    /// `v1.35.4`
    pub version: String,
    /// In words, for the test's report.
    pub origin: String,
}

/// Finds kube-apiserver or builds it.
pub fn provide() -> Result<KubeApiserver> {
    if let Some(found) = installed()? {
        return Ok(found);
    }
    let pinned = MODULE.release()?;
    let cache = cache_folder()?;
    let target = cache.join(format!("{PROGRAM}-{pinned}"));
    if target.exists() {
        match examine(&target, "cached build") {
            Ok(found) => return Ok(found),
            Err(error) => eprintln!("the cached {} is of no use: {error:#}", target.display()),
        }
    }
    MODULE
        .build(".", &stamps(&pinned), &target)
        .with_context(|| advice(&pinned))?;
    examine(&target, &format!("built from {}", MODULE.folder))
}

fn advice(pinned: &str) -> String {
    format!(
        "kube-apiserver could not be built. Put one on PATH or name it in \
         TEST_ASSET_KUBE_APISERVER or KUBEBUILDER_ASSETS, or install Go to build {pinned} from {}",
        MODULE.folder
    )
}

/// One that somebody has provided. Naming one that does not work is an error, not a reason to build.
fn installed() -> Result<Option<KubeApiserver>> {
    if let Some(file) = std::env::var_os("TEST_ASSET_KUBE_APISERVER") {
        return examine(Path::new(&file), "TEST_ASSET_KUBE_APISERVER").map(Some);
    }
    if let Some(folder) = std::env::var_os("KUBEBUILDER_ASSETS") {
        return examine(&Path::new(&folder).join(PROGRAM), "KUBEBUILDER_ASSETS").map(Some);
    }
    match find(PROGRAM) {
        Some(file) => examine(&file, "PATH").map(Some),
        None => Ok(None),
    }
}

/// Runs it to see that it works here.
fn examine(program: &Path, origin: &str) -> Result<KubeApiserver> {
    if !is_executable(program) {
        bail!("{origin}: {} is no program", program.display());
    }
    let answer = capture(Command::new(program).arg("--version"))?;
    let version = answer
        .trim()
        .strip_prefix("Kubernetes ")
        .with_context(|| format!("{} names no version: {answer}", program.display()))?;
    Ok(KubeApiserver {
        program: program.to_path_buf(),
        version: version.to_owned(),
        origin: origin.to_owned(),
    })
}

/// The version that the API server tells its clients.
fn stamps(version: &str) -> String {
    let mut numbers = version.trim_start_matches('v').split('.');
    let stamps: Vec<String> = [
        ("gitVersion", Some(version)),
        ("gitMajor", numbers.next()),
        ("gitMinor", numbers.next()),
    ]
    .into_iter()
    .filter_map(|(name, value)| {
        Some(format!(
            "-X k8s.io/component-base/version.{name}={}",
            value?
        ))
    })
    .collect();
    stamps.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_module_pins_a_supported_release() {
        let version = MODULE.release().unwrap();
        let minor: u32 = version.split('.').nth(1).unwrap().parse().unwrap();
        assert!(version.starts_with("v1."), "{version}");
        assert!(minor >= 34, "{version}");
    }

    #[test]
    fn the_staging_modules_are_of_the_same_release() {
        let text = MODULE.text().unwrap();
        let wanted = MODULE.release().unwrap().replacen("v1.", "v0.", 1);
        let replaced: Vec<&str> = text.lines().filter(|line| line.contains(" => ")).collect();
        assert!(replaced.len() > 20);
        for line in replaced {
            assert!(line.ends_with(&wanted), "{line}");
        }
    }
}
