//! kube-apiserver: no package carries a current one, so it is built when the machine has none.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::cache_folder;
use crate::paths::{self, Dirs};
use crate::process;
use crate::shell::{capture, find, is_executable, run_with_progress};

/// The Go module that pins the release.
const MODULE: &str = "tests/kube-apiserver";
const PROGRAM: &str = "kube-apiserver";

/// A server to run.
#[derive(Debug)]
pub(crate) struct KubeApiserver {
    pub(crate) program: PathBuf,
    /// `v1.35.4`
    pub(crate) version: String,
    /// In words, for the test's report.
    pub(crate) origin: String,
}

/// Finds kube-apiserver or builds it.
pub(crate) fn provide() -> Result<KubeApiserver> {
    if let Some(found) = installed()? {
        return Ok(found);
    }
    let pinned = pinned_version()?;
    let cache = cache_folder()?;
    let target = cache.join(format!("{PROGRAM}-{pinned}"));
    if target.exists() {
        match examine(&target, "cached build") {
            Ok(found) => return Ok(found),
            Err(error) => eprintln!("the cached {} is of no use: {error:#}", target.display()),
        }
    }
    let go = suitable_go().with_context(|| advice(&pinned))?;
    build_module(&go, &pinned, &target).with_context(|| advice(&pinned))?;
    examine(&target, &format!("built from {MODULE}"))
}

fn advice(pinned: &str) -> String {
    format!(
        "kube-apiserver could not be built. Put one on PATH or name it in \
         TEST_ASSET_KUBE_APISERVER or KUBEBUILDER_ASSETS, or install Go to build {pinned} from {MODULE}"
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

/// The release that the module's go.mod requires.
fn pinned_version() -> Result<String> {
    let file = paths::workspace().join(MODULE).join("go.mod");
    let text =
        fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    pinned_in(&text).with_context(|| format!("{} requires no k8s.io/kubernetes", file.display()))
}

fn pinned_in(go_mod: &str) -> Option<String> {
    go_mod
        .lines()
        .find_map(|line| line.trim().strip_prefix("k8s.io/kubernetes "))
        .map(|version| version.trim().to_owned())
}

/// The machine's Go, if it is new enough for the module: no other is fetched.
fn suitable_go() -> Result<PathBuf> {
    let go = find("go").context("there is no go on PATH")?;
    let module = paths::workspace().join(MODULE);
    // Go itself compares its version with the one that go.mod asks for.
    capture(
        Command::new(&go)
            .args(["list", "-m"])
            .env("GOTOOLCHAIN", "local")
            .env("GOFLAGS", "-mod=mod")
            .current_dir(module),
    )?;
    Ok(go)
}

fn build_module(go: &Path, version: &str, target: &Path) -> Result<()> {
    let module = paths::workspace().join(MODULE);
    let dirs = Dirs::open()?;
    let command = |arguments: &[&str]| {
        let mut command = process::watched(go)?;
        command
            .args(arguments)
            .current_dir(&module)
            // Static, so that a cached build runs wherever the cache is.
            .env("CGO_ENABLED", "0")
            .env("GOTOOLCHAIN", "local")
            .env("GOWORK", "off")
            .env_remove("GOFLAGS");
        Ok::<_, anyhow::Error>(command)
    };
    run_with_progress(
        &mut command(&["mod", "download", "-x"])?,
        &format!("fetching the sources of {PROGRAM} {version}"),
        &dirs.log("kube-apiserver-sources"),
        |lines, _| format!("{lines} steps"),
    )?;
    let packages = capture(&mut command(&["list", "-deps", "."])?)?
        .lines()
        .count();

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
    let linker = format!("-ldflags=-s -w {}", stamps.join(" "));
    let part = target.with_extension(format!("part-{}", std::process::id()));
    let output = part.to_string_lossy().into_owned();
    let built = run_with_progress(
        &mut command(&[
            "build",
            "-v",
            "-trimpath",
            "-buildvcs=false",
            &linker,
            "-o",
            &output,
            ".",
        ])?,
        &format!("building {PROGRAM} {version}"),
        &dirs.log("kube-apiserver-build"),
        |lines, last| format!("{lines} of at most {packages} packages compiled, now {last}"),
    );
    finish(built, &part, target)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_module_pins_a_supported_release() {
        let version = pinned_version().unwrap();
        let minor: u32 = version.split('.').nth(1).unwrap().parse().unwrap();
        assert!(version.starts_with("v1."), "{version}");
        assert!(minor >= 34, "{version}");
    }

    #[test]
    fn the_staging_modules_are_of_the_same_release() {
        let file = paths::workspace().join(MODULE).join("go.mod");
        let text = fs::read_to_string(file).unwrap();
        let wanted = pinned_in(&text).unwrap().replacen("v1.", "v0.", 1);
        let replaced: Vec<&str> = text.lines().filter(|line| line.contains(" => ")).collect();
        assert!(replaced.len() > 20);
        for line in replaced {
            assert!(line.ends_with(&wanted), "{line}");
        }
    }
}
