//! Where links lead.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::pages::{Page, root};

/// The page's links to no file, or to no heading.
pub(crate) fn broken(page: &Page) -> Vec<String> {
    let folder = Path::new(&page.name).parent().unwrap().to_owned();
    let targets = page.text.split("](").skip(1);
    targets
        .filter_map(|rest| rest.split_once(')'))
        .map(|(target, _)| target)
        .filter(|target| !target.contains("://") && !target.contains(char::is_whitespace))
        .filter(|target| {
            let (file, heading) = target.split_once('#').unwrap_or((target, ""));
            let path = match file {
                "" => root().join(&page.name),
                file => root().join(&folder).join(file),
            };
            !path.exists() || !heading.is_empty() && !has(&path, heading)
        })
        .map(|target| format!("{}: {target}", page.name))
        .collect()
}

/// How many clicks each page is from the README.
pub(crate) fn clicks(pages: &[Page]) -> BTreeMap<&str, usize> {
    let mut clicks = BTreeMap::from([("README.md", 0)]);
    let mut next = vec!["README.md"];
    while let Some(name) = next.pop() {
        let distance = clicks[name] + 1;
        let page = pages.iter().find(|page| page.name == name).unwrap();
        for target in page.text.split("](").skip(1) {
            let target = target.split([')', '#']).next().unwrap();
            let file = resolved(name, target);
            let Some(found) = pages.iter().find(|page| page.name == file) else {
                continue;
            };
            if clicks
                .get(&*found.name)
                .is_none_or(|known| *known > distance)
            {
                clicks.insert(&found.name, distance);
                next.push(&found.name);
            }
        }
    }
    clicks
}

/// The path from the root of what a page links to.
pub(crate) fn resolved(page: &str, target: &str) -> String {
    let mut parts: Vec<&str> = page.split('/').collect();
    parts.pop();
    for part in target.split('/') {
        match part {
            ".." => drop(parts.pop()),
            "." => {}
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// Whether the page has the heading, as GitHub and mdBook name it.
fn has(page: &Path, heading: &str) -> bool {
    let text = fs::read_to_string(page).unwrap_or_default();
    text.lines()
        .filter_map(|line| line.strip_prefix('#'))
        .map(|line| line.trim_start_matches('#').trim().to_lowercase())
        .any(|line| {
            let kept = line.chars().filter_map(|sign| match sign {
                ' ' => Some('-'),
                '-' | '_' => Some(sign),
                sign => Some(sign).filter(|sign| sign.is_alphanumeric()),
            });
            kept.collect::<String>() == heading
        })
}
