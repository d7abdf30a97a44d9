//! What of a page is read as English: no code, and each entry of a list and each cell of a table
//! for itself, so that neither hides a long sentence.

/// The paragraphs, entries and cells, without code and without the targets of links.
pub(crate) fn paragraphs(page: &str) -> Vec<String> {
    let (mut all, mut current, mut in_code) = (Vec::new(), String::new(), false);
    for line in page.lines() {
        if line.starts_with("```") {
            in_code = !in_code;
        }
        let trimmed = line.trim();
        let is_entry = entry(trimmed).is_some();
        let ends = in_code || trimmed.is_empty() || line.starts_with(['#', '|', '`']) || is_entry;
        if ends && !line.starts_with('`') || line.starts_with("```") {
            all.push(std::mem::take(&mut current));
        }
        if in_code || line.starts_with("```") {
            continue;
        }
        if line.starts_with('|') {
            all.extend(line.replace("\\|", "/").split('|').map(str::to_owned));
        } else {
            current.push_str(entry(trimmed).unwrap_or(trimmed));
            current.push(' ');
        }
    }
    all.push(current);
    all.iter()
        .map(|text| without_code(&without_targets(text)))
        .filter(|text| words(text) > 0)
        .collect()
}

/// What follows the sign of a list's entry.
fn entry(line: &str) -> Option<&str> {
    let numbered = line.trim_start_matches(|sign: char| sign.is_ascii_digit());
    line.strip_prefix("- ")
        .or_else(|| line.strip_prefix("* "))
        .or_else(|| numbered.strip_prefix(". ").filter(|_| numbered != line))
}

/// `[text](target)` is `text`.
fn without_targets(text: &str) -> String {
    let mut left = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("](") {
        left.push_str(before);
        rest = after.split_once(')').map_or("", |(_, after)| after);
    }
    left.push_str(rest);
    left.replace(['[', '!'], "")
}

/// Code is one word, whatever is in it.
fn without_code(text: &str) -> String {
    let parts = text.split('`').enumerate();
    parts
        .map(|(at, part)| if at % 2 == 0 { part } else { "X" })
        .collect()
}

/// The sentences: each ends with a full stop, a question mark or an exclamation mark.
pub(crate) fn sentences(paragraph: &str) -> impl Iterator<Item = &str> {
    let ends = [". ", "? ", ".** ", ".) "];
    let mut rest = Some(paragraph);
    std::iter::from_fn(move || {
        let text = rest.take()?;
        let end = ends
            .iter()
            .filter_map(|end| text.find(end).map(|at| at + end.len()))
            .min();
        let (sentence, after) = text.split_at(end.unwrap_or(text.len()));
        rest = Some(after).filter(|after| !after.is_empty());
        Some(sentence)
    })
}

pub(crate) fn words(text: &str) -> usize {
    text.split_whitespace()
        .filter(|word| word.contains(char::is_alphanumeric))
        .count()
}

/// Whether the word, or the words, stand in the text as such: not as a part of a name.
pub(crate) fn has(text: &str, word: &str) -> bool {
    let text = text.to_lowercase();
    let is_letter = |sign: char| sign.is_alphanumeric() || sign == '_';
    text.match_indices(word).any(|(at, _)| {
        let (before, after) = (&text[..at], &text[at + word.len()..]);
        !before.ends_with(is_letter) && !after.starts_with(is_letter)
    })
}

#[test]
fn a_list_or_a_table_hides_no_sentence() {
    let page = "# A title\n\nOne. Two\nthree?\n\n- four\n  five\n1. six\n\n| seven | `a b` |\n\
                |---|---|\n\n```sh\nno words\n```\n\n`code` [and a link](to/it.md)\n";
    let found = paragraphs(page);
    let found: Vec<&str> = found.iter().map(|it| it.trim()).collect();
    let expected = [
        "One. Two three?",
        "four five",
        "six",
        "seven",
        "X",
        "X and a link",
    ];
    assert!(found.ends_with(&expected), "{found:?}");
    let found: Vec<&str> = sentences("One. Two three? four").collect();
    assert_eq!(found, ["One. ", "Two three? ", "four"]);
    assert!(has("Told of a *siblings*.", "siblings") && !has("hinted", "hint"));
}
