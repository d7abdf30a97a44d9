//! The Rust files of a checkout: their lines, and the names that they declare.

use std::fs;
use std::path::Path;

/// A file, by its path below the checkout's root.
pub(crate) struct Source {
    pub(crate) path: String,
    pub(crate) text: String,
}

/// A name, where it is declared.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Declared<'a> {
    pub(crate) line: usize,
    pub(crate) kind: Kind,
    pub(crate) is_public: bool,
    pub(crate) name: &'a str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Type,
    Module,
    Function,
    Constant,
    Metric,
    Flag,
}

/// Every Rust file below `root`, in the order of their paths.
pub(crate) fn read(root: &Path) -> Vec<Source> {
    let mut found = Vec::new();
    read_folder(root, "", "rs", &mut found);
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

/// Every manifest below `root`.
pub(crate) fn manifests(root: &Path) -> Vec<Source> {
    let mut found = Vec::new();
    read_folder(root, "", "toml", &mut found);
    found
}

fn read_folder(folder: &Path, path: &str, extension: &str, found: &mut Vec<Source>) {
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let name = entry.file_name().into_string().unwrap();
        let path = if path.is_empty() {
            name.clone()
        } else {
            format!("{path}/{name}")
        };
        let kind = entry.file_type().unwrap();
        if kind.is_dir() && name != "target" && !name.starts_with('.') {
            read_folder(&entry.path(), &path, extension, found);
        } else if kind.is_file() && entry.path().extension().is_some_and(|e| e == extension) {
            let text = fs::read_to_string(entry.path()).unwrap();
            found.push(Source { path, text });
        }
    }
}

impl Source {
    /// The crate's folder and what follows it, for a file of `crates/`.
    pub(crate) fn in_crate(&self) -> Option<(&str, &str)> {
        self.path.strip_prefix("crates/")?.split_once('/')
    }

    /// Whether it is a test, or what tests are made of.
    pub(crate) fn is_test(&self) -> bool {
        self.path.starts_with("tests/tests/")
            || self.path.contains("/tests/")
            || self.path.ends_with("/tests.rs")
    }

    /// The numbered lines without the modules of tests.
    pub(crate) fn product_lines(&self) -> Vec<(usize, &str)> {
        let mut product = Vec::new();
        if self.is_test() {
            return product;
        }
        let mut lines = self.text.lines().zip(1..).peekable();
        while let Some((line, number)) = lines.next() {
            let next = lines.peek().map_or("", |(next, _)| *next);
            let is_for_tests = line == "#[cfg(test)]" || line.starts_with("#[cfg(all(test,");
            if is_for_tests && next.starts_with("mod ") {
                if next.ends_with('{') {
                    lines.by_ref().find(|(line, _)| *line == "}");
                } else {
                    lines.next();
                }
            } else {
                product.push((number, line));
            }
        }
        product
    }

    /// The names of all that is declared outside of tests.
    pub(crate) fn declared(&self) -> Vec<Declared<'_>> {
        let lines = self.product_lines();
        let items = lines
            .iter()
            .filter_map(|(line, text)| declaration(*line, text));
        let metrics = lines.iter().filter_map(|(line, text)| metric(*line, text));
        items.chain(metrics).chain(flags(&lines)).collect()
    }
}

/// The declaration that begins on a line, as rustfmt writes it.
fn declaration(line: usize, text: &str) -> Option<Declared<'_>> {
    const QUALIFIERS: [&str; 6] = [
        "async ", "unsafe ", "default ", "extern ", "\"C\" ", "safe ",
    ];
    let text = text.trim_start();
    let mut rest = text;
    let is_public = rest.starts_with("pub ");
    if let Some(restricted) = rest.strip_prefix("pub(") {
        rest = restricted.split_once(") ")?.1;
    }
    rest = rest.strip_prefix("pub ").unwrap_or(rest);
    while let Some(less) = QUALIFIERS.iter().find_map(|word| rest.strip_prefix(word)) {
        rest = less;
    }
    if let Some(less) = rest.strip_prefix("const ") {
        let follows = ["fn ", "async ", "unsafe "];
        if follows.iter().any(|word| less.starts_with(word)) {
            return declaration(line, less).map(|declared| Declared {
                is_public,
                ..declared
            });
        }
    }
    let (keyword, rest) = rest.split_once(' ')?;
    let kind = match keyword {
        "struct" | "enum" | "trait" | "type" | "union" => Kind::Type,
        "mod" => Kind::Module,
        "fn" | "macro_rules!" => Kind::Function,
        "const" | "static" => Kind::Constant,
        _ => return None,
    };
    let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_');
    let name = &rest[..end.unwrap_or(rest.len())];
    (!name.is_empty() && name != "_").then_some(Declared {
        line,
        kind,
        is_public,
        name,
    })
}

fn metric(line: usize, text: &str) -> Option<Declared<'_>> {
    let macros = ["counter!(\"", "gauge!(\"", "histogram!(\""];
    let rest = macros.iter().find_map(|begin| text.split_once(begin))?.1;
    Some(Declared {
        line,
        kind: Kind::Metric,
        is_public: true,
        name: rest.split_once('"')?.0,
    })
}

/// The options of a command line: fields under an `#[arg(...)]` that has `long`.
fn flags<'a>(lines: &[(usize, &'a str)]) -> Vec<Declared<'a>> {
    let mut flags = Vec::new();
    let mut lines = lines.iter();
    while let Some((_, text)) = lines.next() {
        let text = text.trim_start();
        if !text.starts_with("#[arg(") {
            continue;
        }
        let mut is_long = text.contains("long");
        let mut end = text.ends_with(")]");
        while !end && let Some((_, text)) = lines.next() {
            is_long |= text.trim_start().starts_with("long");
            end = text.trim_end().ends_with(")]");
        }
        if let Some((line, text)) = lines.next()
            && is_long
            && let Some((field, _)) = text.trim_start().split_once(':')
        {
            flags.push(Declared {
                line: *line,
                kind: Kind::Flag,
                is_public: true,
                name: field.rsplit(' ').next().unwrap_or(field),
            });
        }
    }
    flags
}

/// The words that a name is made of, in lowercase.
pub(crate) fn words(name: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let mut after_lowercase = false;
    for c in name.chars() {
        let begins = (c.is_uppercase() && after_lowercase) || words.is_empty();
        if c == '_' || c == '-' || c == '.' {
            words.push(String::new());
            after_lowercase = false;
            continue;
        }
        if begins {
            words.push(String::new());
        }
        if let Some(word) = words.last_mut() {
            word.extend(c.to_lowercase());
        }
        after_lowercase = c.is_lowercase() || c.is_ascii_digit();
    }
    words.retain(|word| !word.is_empty());
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: &str) -> Source {
        Source {
            path: "crates/tenure-x/src/a.rs".to_owned(),
            text: text.to_owned(),
        }
    }

    #[test]
    fn every_form_of_a_declaration_is_found_at_its_line() {
        let text = "\
//! struct InAComment;
pub struct Plain(u8);
pub(crate) enum Crate<T> {}
pub(in crate::a) trait Within: Send {}
    pub async fn method(&self) {}
    const fn constant() {}
pub const unsafe fn both() {}
fn plain<'a>() -> &'a str {
type Alias = u8;
mod inline {
pub(super) mod file;
static ONE: u8 = 1;
const _: () = ();
    const TWO: u8 = 2;
macro_rules! build {
extern \"C\" fn callback() {}
let structure = 1; impl Plain {} // fn no() {}
    use a::mod_b;
#[cfg(test)]
mod tests {
    fn hidden() {}
}
struct After;
";
        let source = source(text);
        let declared = source.declared();
        let found: Vec<_> = declared.iter().map(|d| (d.line, d.name)).collect();
        let expected = [
            (2, "Plain"),
            (3, "Crate"),
            (4, "Within"),
            (5, "method"),
            (6, "constant"),
            (7, "both"),
            (8, "plain"),
            (9, "Alias"),
            (10, "inline"),
            (11, "file"),
            (12, "ONE"),
            (14, "TWO"),
            (15, "build"),
            (16, "callback"),
            (23, "After"),
        ];
        assert_eq!(found, expected);
        let public = declared.iter().filter(|d| d.is_public).map(|d| d.name);
        assert!(public.eq(["Plain", "method", "both"]));
    }

    #[test]
    fn metrics_and_flags_are_found() {
        let source = source(
            "    gauge!(\"tenure_is_leader\", \"lock\" => lock).set(1.0);
    #[arg(long, env = \"X\")]
    pub(crate) one: String,
    #[arg(
        long,
        value_name = \"URL\"
    )]
    pub(crate) backend_url: String,
    #[arg(last = true)]
    pub(crate) command: Vec<String>,
",
        );
        let declared = source.declared();
        let found: Vec<_> = declared.iter().map(|d| (d.line, d.kind, d.name)).collect();
        let expected = [
            (1, Kind::Metric, "tenure_is_leader"),
            (3, Kind::Flag, "one"),
            (8, Kind::Flag, "backend_url"),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn names_are_split_into_words() {
        for (name, expected) in [
            ("HeldLock", &["held", "lock"][..]),
            ("held_lock", &["held", "lock"]),
            ("MAX_WAIT", &["max", "wait"]),
            ("Hub", &["hub"]),
            ("hub.rs", &["hub", "rs"]),
            ("_x2y", &["x2y"]),
        ] {
            assert_eq!(words(name), expected, "{name}");
        }
    }
}
