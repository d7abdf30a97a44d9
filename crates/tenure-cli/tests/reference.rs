//! The page of the book that lists the options is what clap says.
#![cfg(feature = "full")]
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

const HEAD: &str = "# CLI\n\nThe test `reference` of `tenure-cli` writes this page from `tenure --help`. [Exit codes, the log and JSON](command-line.md) have a page of their own.\n";

fn help(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_tenure"))
        .args(arguments)
        .arg("--help")
        .env_clear()
        .output()
        .unwrap();
    assert!(output.status.success(), "{arguments:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
    lines.join("\n")
}

/// The names below `Commands:`.
fn commands(help: &str) -> Vec<&str> {
    let (_, rest) = help.split_once("\nCommands:\n").unwrap();
    let lines = rest.lines().take_while(|line| !line.is_empty());
    let names = lines.filter(|line| !line.starts_with("   "));
    let names = names.filter_map(|line| line.split_whitespace().next());
    names.filter(|name| *name != "help").collect()
}

#[test]
fn the_page_lists_what_clap_says() {
    let all = help(&[]);
    let mut page = format!("{HEAD}\n```text\n{all}\n```\n");
    for command in commands(&all) {
        let help = help(&[command]);
        write!(page, "\n## {command}\n\n```text\n{help}\n```\n").unwrap();
    }
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference/cli.md");
    if std::env::var_os("TENURE_WRITE_DOCS").is_some() {
        std::fs::write(&file, &page).unwrap();
    }
    assert!(
        std::fs::read_to_string(&file).unwrap_or_default() == page,
        "docs/reference/cli.md is out of date: run TENURE_WRITE_DOCS=1 cargo test -p tenure-cli \
         --features full --test reference"
    );
}
