//! What users read besides the pages: the documentation of the published crates, and `--help`.

use crate::prose;

/// The paragraphs of a source file's documentation.
pub(crate) fn documentation(source: &str) -> Vec<String> {
    let mut all = Vec::new();
    let mut block = String::new();
    // The empty line ends the last block.
    for line in source.lines().chain([""]) {
        let line = line.trim_start();
        let text = line
            .strip_prefix("///")
            .or_else(|| line.strip_prefix("//!"));
        if let Some(text) = text.filter(|text| !text.starts_with('/')) {
            block.push_str(text.strip_prefix(' ').unwrap_or(text));
            block.push('\n');
        } else if !block.is_empty() {
            all.extend(prose::paragraphs(&std::mem::take(&mut block)));
        }
    }
    all
}

/// The paragraphs of the pages of `--help`, and each entry of their lists and columns.
pub(crate) fn help(page: &str) -> Vec<String> {
    let mut all = Vec::new();
    for block in page.split("```text\n").skip(1) {
        let mut indent = 0;
        for line in block.split("```").next().unwrap_or_default().lines() {
            let text = line.trim_start();
            let before = std::mem::replace(&mut indent, line.len() - text.len());
            let begins = indent < before || text.starts_with('-') || text.contains("  ");
            match all.last_mut() {
                Some(last) if !text.is_empty() && !begins => *last = format!("{last} {text}"),
                _ => all.push(text.to_owned()),
            }
            if text.is_empty() {
                all.push(String::new());
            }
        }
        all.push(String::new());
    }
    all.retain(|text| prose::words(text) > 0);
    all
}

#[test]
fn documentation_and_help_are_read_by_paragraph() {
    let source =
        "//! One.\n//!\n//! - two\n//! - three\n\n/// Four\n/// five.\nfn six() {} // seven\n";
    let found = documentation(source);
    let found: Vec<&str> = found.iter().map(|text| text.trim()).collect();
    assert_eq!(found, ["One.", "two", "three", "Four five."]);
    let page = "```text\nA title\nin two lines\n\n  run     Wait\n          here\n  stop    Stop\n\n  \
                --it\n      Does it\n  Next:\n```\n";
    let expected = [
        "A title in two lines",
        "run     Wait here",
        "stop    Stop",
        "--it Does it",
        "Next:",
    ];
    assert_eq!(help(page), expected);
}
