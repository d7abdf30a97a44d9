//! The pages.

use std::fs;
use std::path::{Path, PathBuf};

use crate::prose;

/// A page, by its path from the repository's root.
pub(crate) struct Page {
    pub(crate) name: String,
    pub(crate) text: String,
}

pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The README, `CONTRIBUTING.md` and every page below `docs`.
pub(crate) fn all() -> Vec<Page> {
    let mut names = vec!["README.md".to_owned(), "CONTRIBUTING.md".to_owned()];
    find("docs", ".md", &mut names);
    names.sort();
    names
        .into_iter()
        .map(|name| Page {
            text: fs::read_to_string(root().join(&name)).unwrap(),
            name,
        })
        .collect()
}

/// Adds the files below a folder whose names end so.
pub(crate) fn find(folder: &str, ending: &str, names: &mut Vec<String>) {
    for entry in fs::read_dir(root().join(folder)).unwrap() {
        let entry = entry.unwrap();
        let name = format!("{folder}/{}", entry.file_name().to_str().unwrap());
        if entry.file_type().unwrap().is_dir() {
            find(&name, ending, names);
        } else if name.ends_with(ending) {
            names.push(name);
        }
    }
}

/// Those that are written by hand, but for the decisions, which are records of their time.
pub(crate) fn written_by_the_rules() -> Vec<Page> {
    let parts = [
        "tutorial",
        "how-to",
        "reference",
        "explanation",
        "contributing",
    ];
    all()
        .into_iter()
        .filter(|page| {
            let part = page.name.strip_prefix("docs/").unwrap_or(&page.name);
            let is_of_a_part = parts
                .iter()
                .any(|it| part.strip_prefix(it).is_some_and(|it| it.starts_with('/')));
            let is_left_out = page.name == "docs/reference/cli.md"
                || page.name.starts_with("docs/contributing/decisions/2");
            part == "README.md" || page.name == "README.md" || is_of_a_part && !is_left_out
        })
        .collect()
}

/// The words of each part that users read: what has a letter or a digit, with code and tables.
pub(crate) fn words_of_parts() -> Vec<(&'static str, usize)> {
    let parts = [
        "README.md",
        "docs/tutorial/",
        "docs/how-to/",
        "docs/reference/",
        "docs/explanation/",
    ];
    let pages = written_by_the_rules();
    parts
        .map(|part| {
            let pages = pages.iter().filter(|page| page.name.starts_with(part));
            (part, pages.map(|page| prose::words(&page.text)).sum())
        })
        .to_vec()
}

/// The sources of the crates that are published.
pub(crate) fn sources() -> Vec<(String, String)> {
    let crates = [
        "tenure",
        "tenure-cli",
        "tenure-conformance",
        "tenure-core",
        "tenure-etcd",
        "tenure-file",
        "tenure-kit",
        "tenure-kube",
        "tenure-kube-configmap",
        "tenure-kube-lease",
        "tenure-postgres",
        "tenure-redis",
    ];
    let mut names = Vec::new();
    for name in crates {
        find(&format!("crates/{name}/src"), ".rs", &mut names);
    }
    names
        .into_iter()
        .map(|name| (name.clone(), fs::read_to_string(root().join(name)).unwrap()))
        .collect()
}
