//! The book is plain English, and holds together: the length of sentences and paragraphs, refused
//! words, links, the list of pages, and that mdBook builds it. The documentation of the published
//! crates and `--help` keep the same rules. `docs/contributing/style.md` says how to write.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod commands;
mod links;
mod pages;
mod prose;
mod quotes;
mod source;

use std::process::Command;

use pages::{Page, all, root, written_by_the_rules};

/// The longest sentence, in words.
const SENTENCE: usize = 35;

/// The longest paragraph, entry of a list or cell of a table, in words.
const PARAGRAPH: usize = 120;

/// Words with no place in plain English, and what to write.
const REFUSED: [(&str, &str); 18] = [
    ("somebody", "say who"),
    ("someone", "say who"),
    ("whoever", "say who"),
    ("for ever", "always, or say until when"),
    ("anew", "again"),
    ("afresh", "again"),
    ("all the same", "still, or leave it out"),
    ("stands by", "say what happens"),
    ("gives its word", "confirms"),
    ("takes itself for", "believes"),
    ("is told of", "receives"),
    ("mend", "fix"),
    ("mends", "fixes"),
    ("sibling", "similar"),
    ("siblings", "similar"),
    ("hint", "notification"),
    ("hints", "notifications"),
    ("in vain", "without success"),
];

/// What users read, by its place: the pages, `--help`, and the documentation of published crates.
fn paragraphs() -> Vec<(String, String)> {
    let of_pages = written_by_the_rules();
    let of_pages = of_pages.into_iter().map(|Page { name, text }| {
        let paragraphs = prose::paragraphs(&text);
        (name, paragraphs)
    });
    let help = "docs/reference/cli.md".to_owned();
    let text = std::fs::read_to_string(root().join(&help)).unwrap();
    let of_help = [(help, source::help(&text))];
    let of_sources = pages::sources().into_iter();
    let of_sources = of_sources.map(|(name, text)| (name, source::documentation(&text)));
    let all = of_pages.chain(of_help).chain(of_sources);
    all.flat_map(|(name, paragraphs)| paragraphs.into_iter().map(move |it| (name.clone(), it)))
        .collect()
}

/// Prints the longest of each, and the words of each part, so that a report can quote them.
#[test]
fn sentences_and_paragraphs_are_short() {
    let (mut wrong, mut longest) = (Vec::new(), [(0, String::new()), (0, String::new())]);
    for (name, paragraph) in paragraphs() {
        let sentences = prose::sentences(&paragraph).map(|it| (SENTENCE, it, 0));
        for (most, text, kind) in sentences.chain([(PARAGRAPH, &*paragraph, 1)]) {
            let words = prose::words(text);
            let line = format!("{name}: {words} words: {text}");
            if words > longest[kind].0 {
                longest[kind] = (words, line.clone());
            }
            if words > most {
                wrong.push(line);
            }
        }
    }
    let [(_, sentence), (_, paragraph)] = longest;
    println!("the longest sentence: {sentence}\nthe longest paragraph: {paragraph}");
    for (part, words) in pages::words_of_parts() {
        println!("{part}: {words} words, with code and tables");
    }
    assert!(wrong.is_empty(), "too long:\n{}", wrong.join("\n"));
}

#[test]
fn nothing_that_users_read_has_a_refused_word() {
    let mut wrong = Vec::new();
    for (name, paragraph) in paragraphs() {
        for (word, instead) in REFUSED {
            if prose::has(&paragraph, word) {
                wrong.push(format!("{name}: \"{word}\" ({instead}): {paragraph}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn what_the_fault_suite_quotes_stands_in_the_pages() {
    let wrong = quotes::untrue(&all());
    assert!(
        wrong.is_empty(),
        "not in docs/reference:\n{}",
        wrong.join("\n")
    );
}

/// The page for a reader who chooses has no ratio that was not measured.
#[test]
fn every_ratio_of_the_benchmarks_stands_in_all_results() {
    let read = |page: &str| std::fs::read_to_string(root().join("docs").join(page)).unwrap();
    let (page, results) = (read("reference/benchmarks.md"), read("benchmarks/all.md"));
    let cells = page.lines().flat_map(|line| line.split('|'));
    let ratios: Vec<_> = cells
        .map(str::trim)
        .filter(|cell| cell.ends_with(" x") && cell.starts_with(|it: char| it.is_ascii_digit()))
        .collect();
    let lost: Vec<_> = ratios.iter().filter(|it| !results.contains(**it)).collect();
    assert!(ratios.len() > 9 && lost.is_empty(), "{ratios:?}: {lost:?}");
}

/// Comments, messages and help of what users build on. Names have their own list in `layout`.
#[test]
fn no_comment_or_message_uses_a_refused_word() {
    let names = ["hint", "hints", "sibling", "siblings", "is told of"];
    let mut wrong = Vec::new();
    for (name, text) in pages::sources() {
        for (at, line) in text.lines().enumerate() {
            for (word, instead) in REFUSED {
                if !names.contains(&word) && prose::has(line, word) {
                    wrong.push(format!("{name}:{}: \"{word}\" ({instead})", at + 1));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_link_leads_to_a_file_and_a_heading() {
    let wrong: Vec<_> = all().iter().flat_map(links::broken).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn each_question_of_users_is_as_many_clicks_away_as_it_says() {
    let (pages, name) = (all(), "docs/contributing/questions.md");
    let clicks = links::clicks(&pages);
    let page = pages.iter().find(|page| page.name == name).unwrap();
    let mut questions = 0;
    for row in page.text.lines().filter(|line| line.contains("](")) {
        let (_, rest) = row.split_once("](").unwrap();
        let target = rest.split([')', '#']).next().unwrap();
        let said = row.trim_end_matches(" |").rsplit(' ').next().unwrap();
        let found = clicks.get(&*links::resolved(name, target));
        assert_eq!(
            found.map(ToString::to_string).as_deref(),
            Some(said),
            "{row}"
        );
        questions += 1;
    }
    assert!(questions >= 20, "{questions}");
}

#[test]
fn every_page_is_in_the_summary() {
    let summary = std::fs::read_to_string(root().join("docs/SUMMARY.md")).unwrap();
    let lost: Vec<_> = all()
        .into_iter()
        .filter_map(|page| page.name.strip_prefix("docs/").map(str::to_owned))
        .filter(|page| !["SUMMARY.md", "benchmarks/notes.md"].contains(&page.as_str()))
        .filter(|page| !summary.contains(&format!("]({page})")))
        .collect();
    assert!(lost.is_empty(), "add to docs/SUMMARY.md: {lost:?}");
}

#[test]
fn every_command_and_option_exists() {
    let reference = std::fs::read_to_string(root().join("docs/reference/cli.md")).unwrap();
    let mut wrong = Vec::new();
    for page in written_by_the_rules() {
        wrong.extend(commands::unknown_options(&page, &reference));
        wrong.extend(commands::unknown_packages(&page));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Code that cannot be compiled alone is shown as it stands in a file that is.
#[test]
fn the_code_of_write_a_backend_is_that_of_the_example() {
    let page = std::fs::read_to_string(root().join("docs/how-to/write-a-backend.md")).unwrap();
    let file = "examples/sqlite-backend/tests/conformance.rs";
    let file = std::fs::read_to_string(root().join(file)).unwrap();
    let blocks = page.split("```rust,ignore\n").skip(1);
    let mut blocks = blocks.filter_map(|block| block.split("```").next());
    let block = blocks
        .find(|block| block.contains("tenure_conformance::suite!"))
        .unwrap();
    let lost: Vec<_> = block.lines().filter(|line| !file.contains(line)).collect();
    assert!(lost.is_empty(), "not in the example: {lost:#?}");
}

#[test]
fn every_backend_has_the_same_sections() {
    let sections = [
        "URL",
        "Capabilities",
        "Permissions",
        "Server settings",
        "Errors",
        "Versions tried",
    ];
    let mut wrong = Vec::new();
    for page in all() {
        if !page.name.starts_with("docs/reference/backends/") {
            continue;
        }
        let headings: Vec<_> = page.text.lines().collect();
        let places = sections.map(|section| {
            let heading = format!("## {section}");
            headings.iter().position(|line| *line == heading)
        });
        if !places.is_sorted() || places.contains(&None) {
            wrong.push(format!("{}: {places:?}", page.name));
        }
    }
    assert!(wrong.is_empty(), "must have {sections:?}: {wrong:?}");
}

/// `cargo xtask test` names the program; it is built once and cached.
#[test]
fn mdbook_builds_the_book() {
    let Some(mdbook) = std::env::var_os("TENURE_TEST_MDBOOK") else {
        println!("LEFT OUT: TENURE_TEST_MDBOOK is not set, as `cargo xtask test` sets it");
        assert!(std::env::var_os("TENURE_TEST_STRICT").is_none());
        return;
    };
    let out = tempfile::tempdir().unwrap();
    let output = Command::new(mdbook)
        .arg("build")
        .arg(root().join("docs"))
        .arg("--dest-dir")
        .arg(out.path())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    assert!(
        !text.contains("[WARN]") && !text.contains("[ERROR]"),
        "{text}"
    );
    assert!(out.path().join("tutorial/first-leader.html").exists());
}
