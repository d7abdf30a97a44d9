//! The sentences that the fault suite quotes from the pages stand there.

use std::fs;

use crate::pages::{Page, find, root};

const STORES: &str = "crates/tenure-chaos/src/stores";

/// What is quoted, as `page: sentence`, or the name of a constant that nothing defines.
fn quotes(source: &str, all: &str) -> Vec<String> {
    let excluded = source.split("beyond(Fault::").skip(1);
    let quoted = excluded.filter_map(|rest| rest.split_once(", ")?.1.split_once(')'));
    quoted
        .map(|(quoted, _)| match quoted.strip_prefix('"') {
            Some(literal) => literal.trim_end_matches('"').to_owned(),
            // Its own file's constant first: two files have one of the same name.
            None => defined(source, quoted)
                .or_else(|| defined(all, quoted))
                .unwrap_or_else(|| quoted.to_owned()),
        })
        .collect()
}

/// The text of a constant.
fn defined(source: &str, name: &str) -> Option<String> {
    let (_, rest) = source.split_once(&format!("const {name}: &str = \""))?;
    let (text, _) = rest.split_once("\";")?;
    let lines = text.lines().map(|line| line.trim().trim_end_matches('\\'));
    Some(lines.collect())
}

/// The quotations that no page has.
pub(crate) fn untrue(pages: &[Page]) -> Vec<String> {
    let mut names = Vec::new();
    find(STORES, ".rs", &mut names);
    let sources: Vec<_> = names
        .iter()
        .map(|name| fs::read_to_string(root().join(name)).unwrap())
        .collect();
    let all = sources.concat();
    let quotes: Vec<_> = sources
        .iter()
        .flat_map(|source| quotes(source, &all))
        .collect();
    assert!(quotes.len() > 5, "the fault suite quotes more: {quotes:?}");
    let is_there = |quote: &String| {
        let (page, sentence) = quote.split_once(": ")?;
        let page = pages.iter().find(|it| {
            let name = it.name.strip_prefix("docs/reference/");
            let name = name.map(|name| name.trim_start_matches("backends/"));
            name == Some(&*format!("{page}.md"))
        })?;
        let found = page.text.to_lowercase().contains(&sentence.to_lowercase());
        found.then_some(())
    };
    quotes
        .into_iter()
        .filter(|quote| is_there(quote).is_none())
        .collect()
}

#[test]
fn a_quotation_is_found_through_its_constant() {
    let source = "const SET: &str = \"page: one \\\n    two\";\nbeyond(Fault::A, SET), \
                  beyond(Fault::B, \"page: three\"), beyond(Fault::C, LOST)";
    assert_eq!(quotes(source, ""), ["page: one two", "page: three", "LOST"]);
}
