//! The commands that pages show: each option of `tenure` is one that clap knows, and each package
//! and program of cargo is there.

use std::fs;

use crate::pages::{Page, root};

/// The lines of shell blocks and the spans of code that begin with `tenure`, or run cargo.
fn commands(page: &str) -> Vec<String> {
    let mut all = Vec::new();
    let mut block = None;
    for line in page.lines() {
        if let Some(language) = line.strip_prefix("```") {
            block = match block {
                None => Some(language.to_owned()),
                Some(_) => None,
            };
        } else if block.as_deref() == Some("sh") {
            all.push(line.to_owned());
        } else if block.is_none() {
            let spans = line.split('`').enumerate();
            all.extend(
                spans
                    .filter(|(at, _)| at % 2 == 1)
                    .map(|(_, span)| span.to_owned()),
            );
        }
    }
    all
}

/// What clap says of a command of `tenure`, from `docs/reference/cli.md`.
fn help<'a>(reference: &'a str, command: &str) -> Option<&'a str> {
    let (_, rest) = reference.split_once(&format!("\n## {command}\n"))?;
    rest.split("\n## ").next()
}

/// The options of `tenure` that it has not.
pub(crate) fn unknown_options(page: &Page, reference: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    for line in commands(&page.text) {
        // What follows `--` alone is another program's.
        let line = line.split(" | ").next().unwrap_or_default();
        let ours = line.split(" -- ").next().unwrap_or_default();
        let mut words = ours.split_whitespace();
        let ("tenure", Some(command)) = (words.next().unwrap_or_default(), words.next()) else {
            continue;
        };
        if !command.chars().all(|sign| sign.is_ascii_lowercase()) {
            continue;
        }
        let Some(help) = help(reference, command) else {
            wrong.push(format!("{}: no command: {line}", page.name));
            continue;
        };
        for option in words.filter(|word| word.starts_with("--") && word.len() > 2) {
            let option = option.split('=').next().unwrap_or_default();
            let known = |found: &str| found.trim_end_matches(',') == option;
            if !help.split_whitespace().any(known) {
                wrong.push(format!("{}: no option {option}: {line}", page.name));
            }
        }
    }
    wrong
}

/// The packages of cargo that are not there.
pub(crate) fn unknown_packages(page: &Page) -> Vec<String> {
    let packages = packages();
    let mut wrong = Vec::new();
    for line in commands(&page.text) {
        let words: Vec<_> = line.split_whitespace().collect();
        if !words.contains(&"cargo") {
            continue;
        }
        for pair in words.windows(2) {
            let [option, name] = pair else { continue };
            if *option == "-p" && !packages.iter().any(|package| package == name) {
                wrong.push(format!("{}: no package {name}: {line}", page.name));
            }
        }
    }
    wrong
}

/// The names of the workspace's packages, from `Cargo.lock`.
fn packages() -> Vec<String> {
    let lock = fs::read_to_string(root().join("Cargo.lock")).unwrap();
    lock.lines()
        .filter_map(|line| line.strip_prefix("name = \"")?.strip_suffix('"'))
        .map(str::to_owned)
        .collect()
}
