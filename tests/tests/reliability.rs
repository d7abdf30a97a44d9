//! The page on reliability: each hazard has a test, and each test that it names exists.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::path::Path;

fn read(page: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(page);
    std::fs::read_to_string(path).unwrap()
}

/// What a page names and where that is defined: a case, a mutant or a fault says so, and every
/// other name with an underscore is a test.
fn defined(sources: &str, name: &str, after: &str) -> bool {
    if after.starts_with(" (mutant)") {
        return read("crates/tenure-sim/mutants.txt").contains(&format!("[{name}]"));
    }
    if after.starts_with(" (fault)") {
        return read("crates/tenure-chaos/src/fault.rs").contains(&format!("\"{name}\""));
    }
    let is_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    if !name.contains('_') || !name.chars().all(is_name) {
        return true;
    }
    sources.contains(&format!("fn {name}("))
}

fn rust_files(folder: &Path, into: &mut String) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && name != "target" {
            rust_files(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push_str(&std::fs::read_to_string(path).unwrap());
        }
    }
}

#[test]
fn each_hazard_has_a_test_and_each_named_test_exists() {
    let page = read("docs/contributing/reliability.md");
    let (_, tables) = page.split_once("\n## Each hazard and its test\n").unwrap();
    let (tables, _) = tables.split_once("\n## What was found").unwrap();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut sources = String::new();
    for folder in ["crates", "tests"] {
        rust_files(&root.join(folder), &mut sources);
    }
    let mut missing = Vec::new();
    for row in tables.lines().filter(|line| line.starts_with("| ")) {
        let parts: Vec<&str> = row.split('`').collect();
        for (index, name) in parts.iter().enumerate().skip(1).step_by(2) {
            let after = parts.get(index + 1).copied().unwrap_or_default();
            if !defined(&sources, name, after) {
                missing.push(*name);
            }
        }
    }
    assert!(missing.is_empty(), "named and not there: {missing:?}");
    let hazards = read("docs/contributing/hazards.md");
    let numbers = hazards.lines().filter_map(|line| line.split_once(". "));
    let numbers = numbers.filter_map(|(number, _)| number.parse::<usize>().ok());
    let numbers: Vec<usize> = numbers.collect();
    assert_eq!(numbers, (1..=numbers.len()).collect::<Vec<_>>());
    for number in numbers {
        let row = format!("\n| {number} ");
        assert!(tables.contains(&row), "hazard {number} has no row");
    }
}
