//! kube-apiserver: no package carries a current one, so it is built when the machine has none.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::{apt, cache_folder};
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
    for version in [pinned.as_str(), "debian"] {
        let cached = cache.join(format!("{PROGRAM}-{version}"));
        if cached.exists() {
            match examine(&cached, "cached build") {
                Ok(found) => return Ok(found),
                Err(error) => eprintln!("the cached {} is of no use: {error:#}", cached.display()),
            }
        }
    }
    let go = match suitable_go() {
        Ok(go) => go,
        Err(reason) => {
            eprintln!(
                "no Go to build {PROGRAM} {pinned} with ({reason:#}): Debian's sources instead"
            );
            let target = cache.join(format!("{PROGRAM}-debian"));
            build_from_debian(&cache, &target).with_context(|| advice(&pinned))?;
            return examine(&target, "built from Debian's sources");
        }
    };
    let target = cache.join(format!("{PROGRAM}-{pinned}"));
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

/// Debian's source package, built with Debian's tools. An old release, but a real server; it serves
/// machines without a current Go.
fn build_from_debian(cache: &Path, target: &Path) -> Result<()> {
    let dirs = Dirs::open()?;
    let log = dirs.log("kube-apiserver-debian");
    if find("apt-get").is_none() {
        bail!("this system has no apt-get");
    }
    apt::install(&["dpkg-dev", "golang-go", "make", "rsync"])?;

    let work = cache.join(format!("debian-source-{}", std::process::id()));
    let outcome = (|| {
        let [lists, archives, sources] =
            ["lists", "archives", "source"].map(|name| work.join(name));
        for folder in [&lists.join("partial"), &archives.join("partial"), &sources] {
            fs::create_dir_all(folder)?;
        }
        let list = work.join("sources.list");
        fs::write(&list, source_lines()?)?;
        // Lists of our own: the machine's configuration stays as it is.
        let apt_get = |arguments: &[&str]| {
            let mut command = Command::new("apt-get");
            command
                .arg(format!("-oDir::Etc::SourceList={}", list.display()))
                .arg("-oDir::Etc::SourceParts=-")
                .arg(format!("-oDir::State::Lists={}", lists.display()))
                .arg(format!("-oDir::Cache={}", work.display()))
                .arg("-oAPT::Sandbox::User=root")
                .args(arguments)
                .current_dir(&sources);
            command
        };
        let show = |_: usize, line: &str| line.to_owned();
        run_with_progress(
            &mut apt_get(&["update"]),
            "listing source packages",
            &log,
            show,
        )?;
        run_with_progress(
            &mut apt_get(&["source", "kubernetes"]),
            "fetching Debian's sources of Kubernetes",
            &log,
            show,
        )?;
        let tree = fs::read_dir(&sources)?
            .flatten()
            .map(|entry| entry.path())
            .find(|path| path.is_dir())
            .context("the source package holds no folder")?;
        run_with_progress(
            process::watched("make")?
                .arg("WHAT=cmd/kube-apiserver")
                .env("GOTOOLCHAIN", "local")
                .env("GOFLAGS", "-mod=vendor")
                .env("GO111MODULE", "on")
                .env("GOPATH", work.join("go"))
                .env("GOCACHE", work.join("go-cache"))
                .env("PATH", debian_path())
                .current_dir(&tree),
            "building kube-apiserver from Debian's sources",
            &log,
            |_, line| line.to_owned(),
        )?;
        let built = tree.join("_output/bin/kube-apiserver");
        let part = target.with_extension(format!("part-{}", std::process::id()));
        fs::copy(&built, &part).with_context(|| format!("no build at {}", built.display()))?;
        finish(Ok(()), &part, target)
    })();
    paths::remove_dir(&work)?;
    outcome
}

/// The source package is built by the Go it was packaged for, whatever else is installed.
fn debian_path() -> String {
    let path = std::env::var("PATH").unwrap_or_default();
    format!("/usr/bin:/bin:{path}")
}

/// The places that this machine already takes its packages from, as places of sources.
fn source_lines() -> Result<String> {
    let format = "$(SITE)\t$(RELEASE)\t$(COMPONENT)\t$(SIGNED_BY)";
    let seen = capture(Command::new("apt-get").args([
        "indextargets",
        "--format",
        format,
        "Created-By: Packages",
    ]))?;
    let mut lines: Vec<String> = seen.lines().filter_map(source_line).collect();
    lines.sort_unstable();
    lines.dedup();
    if lines.is_empty() {
        bail!("this machine has no place to take packages from");
    }
    Ok(lines.join("\n") + "\n")
}

fn source_line(target: &str) -> Option<String> {
    let mut fields = target.split('\t');
    let (site, release, component) = (fields.next()?, fields.next()?, fields.next()?);
    let signed = fields
        .next()
        .filter(|key| key.starts_with('/'))
        .map(|key| format!("[signed-by={key}] "))
        .unwrap_or_default();
    Some(format!("deb-src {signed}{site} {release} {component}"))
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

    #[test]
    fn places_of_packages_become_places_of_sources() {
        assert_eq!(
            source_line("http://example/debian\tstable\tmain\t/usr/share/keyrings/a.gpg").unwrap(),
            "deb-src [signed-by=/usr/share/keyrings/a.gpg] http://example/debian stable main"
        );
        assert_eq!(
            source_line("http://example/debian\tstable\tmain\t").unwrap(),
            "deb-src http://example/debian stable main"
        );
    }
}
