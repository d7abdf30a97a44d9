//! The rules of the house: words, sizes, and who may import whom.
//!
//! `cargo test -p tenure-tests --test layout table -- --nocapture` prints how large the workspace
//! is; with `TENURE_LAYOUT_OF=/a/checkout` it does so for another one.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod circles;
mod source;
mod table;
mod vocabulary;

use std::path::PathBuf;

use source::{Kind, Source};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn product(sources: &[Source]) -> Vec<&Source> {
    let product: Vec<&Source> = sources
        .iter()
        .filter(|source| table::is_product(source))
        .collect();
    assert!(product.len() > 80, "only {} files found", product.len());
    product
}

/// What the other tests say means nothing when the scanner finds nothing.
#[test]
fn the_scanner_finds_every_crate_and_what_is_surely_declared() {
    let sources = source::read(&root());
    let product = product(&sources);
    for folder in std::fs::read_dir(root().join("crates")).unwrap() {
        let folder = folder.unwrap().file_name().into_string().unwrap();
        let is_of = |source: &&Source| source.in_crate().is_some_and(|(name, _)| name == folder);
        assert!(sources.iter().any(|source| is_of(&source)), "{folder}");
    }
    let declared: Vec<_> = product
        .iter()
        .flat_map(|source| {
            let names = source.declared();
            names
                .into_iter()
                .map(|declared| (declared.kind, declared.name))
        })
        .collect();
    assert!(declared.len() > 2000, "only {} names", declared.len());
    for expected in [
        (Kind::Type, "LockBackend"),
        (Kind::Type, "RedisConfig"),
        (Kind::Module, "config"),
        (Kind::Function, "permit"),
        (Kind::Metric, "tenure_is_leader"),
        (Kind::Flag, "drain_limit"),
    ] {
        assert!(declared.contains(&expected), "{expected:?}");
    }
}

/// The crates that services build, and the suite for those who write a backend.
fn published(sources: &[Source]) -> Vec<&Source> {
    let mut published = product(sources);
    let suite = |source: &&Source| source.path.starts_with("crates/tenure-conformance/src/");
    published.extend(sources.iter().filter(suite));
    published
}

#[test]
fn one_word_has_one_meaning() {
    let sources = source::read(&root());
    let wrong = vocabulary::violations(&published(&sources));
    assert!(wrong.is_empty(), "{}\n", wrong.join("\n"));
}

#[test]
fn no_product_file_is_longer_than_a_reader_can_keep_in_mind() {
    let sources = source::read(&root());
    let too_long: Vec<String> = published(&sources)
        .iter()
        .map(|source| (&source.path, table::length(source)))
        .filter(|(_, lines)| *lines > table::LONGEST)
        .map(|(path, lines)| format!("{path}: {lines} lines, of {} at most", table::LONGEST))
        .collect();
    assert!(too_long.is_empty(), "{}\n", too_long.join("\n"));
}

#[test]
fn no_file_includes_another_by_its_path() {
    let sources = source::read(&root());
    let included: Vec<String> = sources.iter().flat_map(table::path_attributes).collect();
    assert!(included.is_empty(), "{}\n", included.join("\n"));
}

#[test]
fn no_files_of_a_crate_import_each_other_in_a_circle() {
    let sources = source::read(&root());
    let all: Vec<&Source> = sources.iter().collect();
    let circles: Vec<String> = circles::circles(&all)
        .iter()
        .map(|circle| circle.join(" "))
        .collect();
    assert!(circles.is_empty(), "{}\n", circles.join("\n"));
}

#[test]
fn no_module_imports_through_lib() {
    let sources = source::read(&root());
    let through: Vec<String> = published(&sources)
        .iter()
        .map(|source| (&source.path, circles::imports_through_lib(source)))
        .filter(|(_, names)| !names.is_empty())
        .map(|(path, names)| format!("{path}: {}", names.join(", ")))
        .collect();
    assert!(through.is_empty(), "{}\n", through.join("\n"));
}

#[test]
fn table_of_sizes() {
    let root = std::env::var_os("TENURE_LAYOUT_OF").map_or_else(root, PathBuf::from);
    let sources = source::read(&root);
    println!("{}", table::table(&root, &sources));
    assert!(!sources.is_empty());
}
