//! How large the workspace is, and how tidy.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use crate::circles::circles;
use crate::source::{Source, manifests};
use crate::vocabulary;

/// Longer files are hard to find one's way in.
pub(crate) const LONGEST: usize = 500;

/// The store by whose name its footprint outside its own crate is counted.
const STORE: &str = "postgres";

/// What a line is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    Product,
    /// Servers, certificates, simulator, benchmarks, the suite: what proofs are made with.
    Support,
    /// The model and the schedules of threads.
    Proof,
    Test,
    Example,
}

impl Purpose {
    const ALL: [(Self, &str); 5] = [
        (Self::Product, "product"),
        (Self::Support, "support"),
        (Self::Proof, "proof"),
        (Self::Test, "tests"),
        (Self::Example, "examples"),
    ];

    fn of(path: &str) -> Self {
        let begins = |beginnings: &[&str]| beginnings.iter().any(|b| path.starts_with(b));
        if begins(&["examples/"]) || path.contains("/examples/") {
            Self::Example
        } else if path.contains("/tests/support/") {
            Self::Support
        } else if path.contains("/tests/") || path.contains("/lying/") {
            Self::Test
        } else if begins(&["tests/src/", "benches/", "crates/xtask/"])
            || begins(&["crates/tenure-testkit/", "crates/tenure-sim/"])
            || begins(&["crates/tenure-conformance/", "crates/tenure-chaos/"])
        {
            Self::Support
        } else if begins(&["crates/tenure-model/", "crates/tenure-threads/", "fuzz/"]) {
            Self::Proof
        } else {
            Self::Product
        }
    }
}

/// Whether the file belongs to a crate that services build.
pub(crate) fn is_product(source: &Source) -> bool {
    Purpose::of(&source.path) == Purpose::Product && source.path.contains("/src/")
}

pub(crate) fn length(source: &Source) -> usize {
    source.text.lines().count()
}

/// Everything as a table in Markdown.
pub(crate) fn table(root: &Path, sources: &[Source]) -> String {
    let mut text = "| crate |".to_owned();
    for (_, name) in Purpose::ALL {
        let _infallible = write!(text, " {name} |");
    }
    text += "\n|---|---|---|---|---|---|\n";
    let mut total = [0; Purpose::ALL.len()];
    for (name, lines) in lines_by_crate(sources) {
        row(&mut text, name, &lines);
        for (sum, lines) in total.iter_mut().zip(lines) {
            *sum += lines;
        }
    }
    row(&mut text, "**all**", &total);
    let is_kit = |source: &&Source| {
        let folders = ["crates/xtask/", "crates/tenure-testkit/"];
        let path = &source.path;
        folders.iter().any(|folder| path.starts_with(folder)) || path.contains("/tests/support/")
    };
    let kit = sources.iter().filter(is_kit).map(length).sum::<usize>();
    let _infallible = writeln!(text, "\nxtask, testkit and tests/support: {kit}");
    let product: Vec<&Source> = sources.iter().filter(|source| is_product(source)).collect();
    let long: Vec<String> = sources
        .iter()
        .filter(|source| length(source) > LONGEST)
        .map(|source| format!("{} {}", source.path, length(source)))
        .collect();
    let circles: Vec<String> = circles(&sources.iter().collect::<Vec<_>>())
        .iter()
        .map(|circle| circle.join(", "))
        .collect();
    let included: Vec<String> = sources.iter().flat_map(path_attributes).collect();
    list(&mut text, &format!("files above {LONGEST} lines"), &long);
    list(&mut text, "circles of files", &circles);
    list(&mut text, "#[path] attributes", &included);
    let mut refused = vocabulary::violations(&product);
    refused.retain(|wrong| !wrong.starts_with("the exception"));
    list(&mut text, "names with a refused word", &refused);
    list(
        &mut text,
        &format!(
            "files that name {STORE} outside its crate, tests, examples, testkit, fault suite and fuzz targets"
        ),
        &naming_a_store(root, sources),
    );
    text
}

fn row(text: &mut String, name: &str, lines: &[usize]) {
    let _infallible = write!(text, "| {name} |");
    for lines in lines {
        let _infallible = write!(text, " {lines} |");
    }
    text.push('\n');
}

fn list(text: &mut String, title: &str, items: &[String]) {
    let _infallible = writeln!(text, "\n{title}: {}", items.len());
    for item in items {
        let _infallible = writeln!(text, "- {item}");
    }
}

/// Lines by purpose; those of test modules count as tests.
fn lines_by_crate(sources: &[Source]) -> BTreeMap<&str, [usize; Purpose::ALL.len()]> {
    let mut crates: BTreeMap<&str, [usize; Purpose::ALL.len()]> = BTreeMap::new();
    for source in sources {
        let depth = if source.path.starts_with("crates/") {
            2
        } else {
            1
        };
        let end = source.path.match_indices('/').nth(depth - 1);
        let name = end.map_or("", |(at, _)| &source.path[..at]);
        let lines = crates.entry(name).or_default();
        let all = length(source);
        let purpose = Purpose::of(&source.path);
        let outside_of_tests = match purpose {
            Purpose::Product => source.product_lines().len(),
            _ => all,
        };
        let index = |purpose| Purpose::ALL.iter().position(|(p, _)| *p == purpose);
        lines[index(purpose).unwrap()] += outside_of_tests;
        lines[index(Purpose::Test).unwrap()] += all - outside_of_tests;
    }
    crates
}

/// The attributes by which a file includes another one.
pub(crate) fn path_attributes(source: &Source) -> Vec<String> {
    // In two parts, so that this file does not count itself.
    let attribute = concat!("#[", "path");
    let lines = source.text.lines().zip(1..);
    lines
        .filter(|(line, _)| line.trim_start().starts_with(attribute))
        .map(|(line, number)| format!("{}:{number}: {}", source.path, line.trim()))
        .collect()
}

/// What a new store would have to be named in, too.
fn naming_a_store(root: &Path, sources: &[Source]) -> Vec<String> {
    let own = format!("crates/tenure-{STORE}/");
    let left_out = |source: &Source| {
        source.is_test()
            || source.path.starts_with(&own)
            || source.path.starts_with("crates/tenure-testkit/")
            || ["crates/tenure-chaos/", "fuzz/"]
                .iter()
                .any(|tests| source.path.starts_with(tests))
            || ["tests/", "examples/"].iter().any(|folder| {
                source.path.starts_with(folder) || source.path.contains(&format!("/{folder}"))
            })
    };
    let manifests = manifests(root);
    let mut naming: Vec<String> = sources
        .iter()
        .chain(&manifests)
        .filter(|source| !left_out(source))
        .filter(|source| {
            let text = source.text.to_lowercase();
            source.path.to_lowercase().contains(STORE) || text.contains(STORE)
        })
        .map(|source| source.path.clone())
        .collect();
    naming.sort();
    naming
}
