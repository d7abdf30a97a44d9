//! Files of a crate that import each other in a circle.

use std::collections::{BTreeMap, BTreeSet};

use crate::source::Source;

/// For each file the files of its crate that it names, by their paths.
type Imports<'a> = BTreeMap<&'a str, BTreeSet<&'a str>>;

/// The circles, each as the paths of its files.
pub(crate) fn circles<'a>(sources: &[&'a Source]) -> Vec<Vec<&'a str>> {
    let imports = imports(sources);
    let reachable: Imports<'_> = imports
        .keys()
        .map(|file| (*file, reachable_from(file, &imports)))
        .collect();
    let mut circles: Vec<Vec<&str>> = Vec::new();
    for file in imports.keys() {
        let returns = |other: &&&str| reachable[**other].contains(file);
        let circle: Vec<&str> = reachable[file].iter().filter(returns).copied().collect();
        if circle.contains(file) && !circles.contains(&circle) {
            circles.push(circle);
        }
    }
    circles
}

fn reachable_from<'a>(file: &'a str, imports: &Imports<'a>) -> BTreeSet<&'a str> {
    let mut reached = BTreeSet::new();
    let mut next = vec![file];
    while let Some(file) = next.pop() {
        for imported in &imports[file] {
            if reached.insert(*imported) {
                next.push(imported);
            }
        }
    }
    reached
}

fn imports<'a>(sources: &[&'a Source]) -> Imports<'a> {
    let modules: BTreeMap<Vec<&str>, &str> = sources
        .iter()
        .filter_map(|source| Some((module(source)?, source.path.as_str())))
        .collect();
    let of_file = |(module, file): (&Vec<&'a str>, &&'a str)| {
        let source = sources.iter().find(|source| source.path == **file)?;
        let children = children(source);
        let mut imported: BTreeSet<&str> = paths_in(source, &children)
            .iter()
            .filter_map(|path| resolve(path, module, &modules))
            .collect();
        imported.remove(file);
        Some((*file, imported))
    };
    modules.iter().filter_map(of_file).collect()
}

/// The modules that a file declares: its paths may begin with them.
fn children(source: &Source) -> Vec<&str> {
    let lines = source.product_lines();
    lines
        .iter()
        .filter_map(|(_, line)| line.strip_suffix(';')?.rsplit_once("mod "))
        .filter(|(before, _)| before.is_empty() || before.starts_with("pub"))
        .map(|(_, name)| name)
        .collect()
}

/// The names that a file imports from its crate's `lib.rs`.
pub(crate) fn imports_through_lib(source: &Source) -> Vec<String> {
    let Some((_, path)) = source.in_crate() else {
        return Vec::new();
    };
    if path == "src/lib.rs" || !path.starts_with("src/") {
        return Vec::new();
    }
    // A module has a small first letter; so has a macro, which can come from nowhere else.
    let is_name = |name: &String| name.starts_with(|c: char| c.is_uppercase());
    paths_in(source, &[])
        .into_iter()
        .filter(|path| path.first().is_some_and(|first| first == "crate"))
        .filter_map(|path| path.get(1).filter(|name| is_name(name)).cloned())
        .collect()
}

/// The module that a file is, with its crate's folder first.
fn module(source: &Source) -> Option<Vec<&str>> {
    let (folder, path) = source.in_crate()?;
    let path = path.strip_prefix("src/")?.strip_suffix(".rs")?;
    let mut module: Vec<&str> = std::iter::once(folder).chain(path.split('/')).collect();
    let ends_in = |name: &str| path == name || path.ends_with(&format!("/{name}"));
    if path == "lib" || path == "main" || ends_in("mod") {
        module.pop();
    }
    Some(module)
}

/// The file that defines what `path` names: the longest beginning of it that is a module.
fn resolve<'a>(
    path: &[String],
    from: &[&'a str],
    modules: &BTreeMap<Vec<&'a str>, &'a str>,
) -> Option<&'a str> {
    let mut base = from.to_vec();
    let mut rest = path;
    while let Some((first, after)) = rest.split_first() {
        match first.as_str() {
            "crate" => base.truncate(1),
            "super" => drop(base.pop()),
            "self" => {}
            _ => break,
        }
        rest = after;
    }
    let is_module = |length: &usize| {
        let names = rest[..*length].iter().map(String::as_str);
        let module: Vec<&str> = base.iter().copied().chain(names).collect();
        modules.contains_key(&module)
    };
    let length = (0..=rest.len()).rev().find(is_module)?;
    let names = rest[..length].iter().map(String::as_str);
    let module: Vec<&str> = base.iter().copied().chain(names).collect();
    modules.get(&module).copied()
}

/// Every path of a file that begins in its own crate, also those within braces: with a keyword, or
/// with one of the modules that it declares.
fn paths_in(source: &Source, children: &[&str]) -> Vec<Vec<String>> {
    let lines = source.product_lines();
    let code = lines
        .iter()
        // Of a module within the file: it means the file itself.
        .filter(|(_, line)| !line.ends_with(" use super::*;"))
        .map(|(_, line)| line.split("//").next().unwrap_or_default());
    let code: String = code.collect::<Vec<_>>().join(" ");
    let beginnings: Vec<String> = ["crate", "super", "self"]
        .iter()
        .chain(children)
        .map(|name| format!("{name}::"))
        .collect();
    let mut paths = Vec::new();
    let mut rest = code.as_str();
    while let Some(at) = beginnings.iter().filter_map(|begin| rest.find(begin)).min() {
        let (before, path) = rest.split_at(at);
        if before.ends_with(|c: char| c.is_alphanumeric() || "_:$".contains(c)) {
            rest = &path[1..];
        } else {
            rest = expand(path, Vec::new(), &mut paths);
        }
    }
    paths
}

/// Adds the paths of `text`, which begins with one, and gives what follows it.
fn expand<'t>(text: &'t str, mut path: Vec<String>, paths: &mut Vec<Vec<String>>) -> &'t str {
    let mut rest = text;
    loop {
        rest = rest.trim_start();
        if let Some(inside) = rest.strip_prefix('{') {
            rest = inside;
            loop {
                rest = expand(rest, path.clone(), paths).trim_start();
                match rest.strip_prefix(',') {
                    Some(more) if !more.trim_start().starts_with('}') => rest = more,
                    Some(more) => return more.trim_start().strip_prefix('}').unwrap_or(more),
                    None => return rest.strip_prefix('}').unwrap_or(rest),
                }
            }
        }
        let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_');
        let (name, after) = rest.split_at(end.unwrap_or(rest.len()));
        if !name.is_empty() {
            path.push(name.to_owned());
        }
        match after.strip_prefix("::") {
            Some(more) if !name.is_empty() => rest = more,
            _ => {
                paths.push(path);
                return after.strip_prefix('*').unwrap_or(after);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(path: &str, text: &str) -> Source {
        Source {
            path: format!("crates/tenure-x/src/{path}"),
            text: text.to_owned(),
        }
    }

    fn found(files: &[(&str, &str)]) -> Vec<Vec<String>> {
        let files: Vec<Source> = files
            .iter()
            .map(|(path, text)| source(path, text))
            .collect();
        let files: Vec<&Source> = files.iter().collect();
        let name = |path: &&str| path.rsplit_once("src/").unwrap().1.to_owned();
        circles(&files)
            .iter()
            .map(|circle| circle.iter().map(name).collect())
            .collect()
    }

    #[test]
    fn files_that_import_each_other_are_found_in_every_form_of_an_import() {
        let there = [
            "use crate::room::b::B;",
            "use crate::{\n    c::C,\n    room::{self, b::{B, other}},\n};",
            "fn f() { crate::room::b::make(); }",
        ];
        for text in there {
            let circle = found(&[
                ("a.rs", text),
                ("room/b.rs", "use super::super::a::A;"),
                ("room/mod.rs", "mod b;"),
                ("c.rs", ""),
            ]);
            assert_eq!(circle, [["a.rs", "room/b.rs"]], "{text}");
        }
    }

    #[test]
    fn a_module_and_its_child_that_import_each_other_are_found() {
        let there = [
            "mod b;\nuse b::B;",
            "pub(crate) mod b;\npub use self::b::{A, B};",
            "mod b;\nfn f() { b::make(); }",
        ];
        for text in there {
            let circle = found(&[("room/mod.rs", text), ("room/b.rs", "use super::A;")]);
            assert_eq!(circle, [["room/b.rs", "room/mod.rs"]], "{text}");
            let none = found(&[
                ("room/mod.rs", text),
                ("room/b.rs", "use super::c::C;"),
                ("room/c.rs", ""),
            ]);
            assert_eq!(none, [[""; 0]; 0], "{text}");
        }
    }

    #[test]
    fn imports_through_lib_are_found() {
        let text = "use crate::Name;\nuse crate::{a::A, Other};\nuse crate::module::Type;\nlet x = crate::make!();";
        assert_eq!(
            imports_through_lib(&source("a.rs", text)),
            ["Name", "Other"]
        );
        assert_eq!(imports_through_lib(&source("lib.rs", text)), [""; 0]);
    }

    #[test]
    fn a_longer_circle_is_one_circle() {
        let circle = found(&[
            ("a.rs", "use crate::b::B;"),
            ("b.rs", "use crate::c::C;"),
            ("c.rs", "use crate::a::A;"),
            ("d.rs", "use crate::a::A;"),
        ]);
        assert_eq!(circle, [["a.rs", "b.rs", "c.rs"]]);
    }

    #[test]
    fn what_is_no_import_makes_no_circle() {
        let none = found(&[
            ("a.rs", "use crate::b::B;\n// crate::a::A\n"),
            ("b.rs", "/// [`A`](crate::a::A)\nuse other_crate::a::A;"),
            ("lib.rs", "mod a;\nmod b;\npub use a::A;"),
            (
                "c.rs",
                "#[cfg(test)]\nmod tests {\n    use crate::d::D;\n}\n",
            ),
            ("d.rs", "use crate::c::C;"),
        ]);
        assert_eq!(none, [[""; 0]; 0]);
    }
}
