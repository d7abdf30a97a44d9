//! `cargo xtask api`: the public interface of each library is the one in `api/`, and breaks nothing
//! of what the commit in `.semver-baseline` promised.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use tenure_testkit::paths;
use tenure_testkit::provision::built_tools::{PUBLIC_API, SEMVER_CHECKS};
use tenure_testkit::shell::capture;

use crate::nightly::Nightly;
use crate::packages::{KUBERNETES, Package, published};
use crate::report::{Outcome, Row, report};
use crate::steps::{failed, row, step};

/// The commit that the interface is compared with. A tag takes its place after the first release.
const BASELINE: &str = include_str!("../../../.semver-baseline");

/// Compares the public interface of each library with its file in `api/`, or writes the file; then
/// with that of the baseline.
pub(crate) fn api(update: bool) -> Result<ExitCode> {
    let begin = Instant::now();
    let nightly = Nightly::find()?;
    let lister = PUBLIC_API.provide()?;
    let checker = SEMVER_CHECKS.provide()?;
    let libraries: Vec<Package> = published()?
        .into_iter()
        .filter(|package| package.is_library)
        .collect();
    let mut rows = vec![described(&nightly, "api", &paths::workspace(), &libraries)?];
    if is_passed(&rows[0]) {
        for library in &libraries {
            let interface = || interface(&lister, &nightly, &library.name, update);
            rows.push(row(&format!("interface of {}", library.name), interface)?);
        }
        rows.extend(promises(&checker, &nightly, &libraries)?);
    }
    Ok(report(&rows, begin.elapsed()))
}

fn is_passed(row: &Row) -> bool {
    matches!(row.outcome, Outcome::Passed(_))
}

/// Writes the public interface of each library as JSON.
fn described(nightly: &Nightly, name: &str, root: &Path, libraries: &[Package]) -> Result<Row> {
    let manifest = root.join("Cargo.toml").display().to_string();
    let mut arguments = nightly.cargo_arguments();
    arguments.extend(["doc", "--lib", "--no-deps", "--all-features"]);
    arguments.extend(["--manifest-path", &manifest]);
    arguments.extend(libraries.iter().flat_map(|it| ["--package", &it.name]));
    let mut environment = nightly.folders(name);
    environment.push((KUBERNETES.0.into(), KUBERNETES.1.into()));
    let flags = "-Z unstable-options --output-format json --cap-lints allow";
    environment.push(("RUSTDOCFLAGS".into(), flags.into()));
    let name = format!("JSON of {name}");
    step(&name, "rustup".as_ref(), &arguments, &environment, None)
}

fn json(nightly: &Nightly, name: &str, library: &str) -> PathBuf {
    let file = format!("{}.json", library.replace('-', "_"));
    nightly.documents(name).join(file)
}

fn interface(lister: &Path, nightly: &Nightly, library: &str, update: bool) -> Result<String> {
    let file = paths::workspace()
        .join("api")
        .join(format!("{library}.txt"));
    let mut command = Command::new(lister);
    command
        .args(["public-api", "--omit"])
        .arg("blanket-impls,auto-trait-impls,auto-derived-impls")
        .arg("--rustdoc-json")
        .arg(json(nightly, "api", library));
    let now = format!("{}\n", capture(&mut command)?.trim_end());
    if update {
        fs::write(&file, &now)?;
        return Ok(format!("written, {} lines", now.lines().count()));
    }
    let before = fs::read_to_string(&file).unwrap_or_default();
    let not_in = |line: &&str, text: &str| !text.lines().any(|other| other == *line);
    let gone = before.lines().find(|line| not_in(line, &now));
    let new = now.lines().find(|line| not_in(line, &before));
    ensure!(
        gone.is_none() && new.is_none(),
        "differs from {}, first by -{:?} +{:?}; if that is wanted: cargo xtask api --update",
        file.display(),
        gone.unwrap_or_default(),
        new.unwrap_or_default()
    );
    Ok(format!("{} lines as in api/", now.lines().count()))
}

/// What a service that builds with the baseline may rely on.
fn promises(checker: &Path, nightly: &Nightly, libraries: &[Package]) -> Result<Vec<Row>> {
    let commit = BASELINE.trim();
    let root = match checkout(nightly, commit) {
        Ok(root) => root,
        Err(error) => {
            let why = format!("{commit} of .semver-baseline is not here: {error:#}");
            return Ok(vec![failed("baseline".to_owned(), &why)]);
        }
    };
    let mut rows = vec![described(nightly, "baseline", &root, libraries)?];
    if is_passed(&rows[0]) {
        for library in libraries {
            let name = format!("promises of {}", library.name);
            rows.push(row(&name, || kept(checker, nightly, &library.name))?);
        }
    }
    Ok(rows)
}

/// The tree of a commit, in a folder that stays the same from one run to the next.
fn checkout(nightly: &Nightly, commit: &str) -> Result<PathBuf> {
    let root = nightly.documents("baseline").with_file_name("tree");
    paths::remove_dir(&root)?;
    paths::make_dir(&root, 0o755)?;
    let archive = root.with_extension("tar");
    let mut pack = Command::new("git");
    pack.args(["archive", "--output"]).arg(&archive).arg(commit);
    capture(pack.current_dir(paths::workspace()))?;
    capture(
        Command::new("tar")
            .arg("-xf")
            .arg(&archive)
            .arg("-C")
            .arg(&root),
    )?;
    Ok(root)
}

fn kept(checker: &Path, nightly: &Nightly, library: &str) -> Result<String> {
    let mut command = Command::new(checker);
    command
        .args(["semver-checks", "--color", "never"])
        // Before 1.0 a version may add, and only a new minor version may break.
        .args(["--release-type", "minor"])
        .arg("--baseline-rustdoc")
        .arg(json(nightly, "baseline", library))
        .arg("--current-rustdoc")
        .arg(json(nightly, "api", library))
        .arg("--verbose");
    capture(&mut command).context(
        "a break that is wanted needs a new minor version, and the commit in .semver-baseline \
         moves with it",
    )?;
    Ok("nothing is broken".to_owned())
}
