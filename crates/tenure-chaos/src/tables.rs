//! The tables of the page on reliability, made from the list of all runs.

use anyhow::{Context as _, Result, ensure};

use crate::report::COLUMNS;
use crate::stores::NAMES;

/// What stands before a table is `<!-- runs: kills -->`, and this behind it.
const END: &str = "<!-- end of runs -->";

/// The tables, by their names.
const KINDS: [&str; 4] = ["within", "mixed", "beyond", "kills"];

/// The lease of the default policy, as it is typed.
const DEFAULT_LEASE: &str = "20s";

/// A line of the list.
struct Run<'a>(Vec<&'a str>);

impl<'a> Run<'a> {
    fn get(&self, column: &str) -> &'a str {
        let mut columns = COLUMNS.split('\t');
        let place = columns.position(|name| name == column);
        place.and_then(|place| self.0.get(place)).unwrap_or(&"")
    }

    /// The value of an option of its command.
    fn option(&self, name: &str) -> Option<&'a str> {
        let mut words = self.get("command").split(' ');
        words.find(|word| *word == name)?;
        words.next()
    }

    /// The table that it belongs to.
    fn kind(&self) -> &'static str {
        let is_mixed = self.option("--older").or(self.option("--other-lease"));
        if self.option("--kills").is_some() {
            "kills"
        } else if is_mixed.is_some() {
            "mixed"
        } else if self.get("promise") == "beyond" {
            "beyond"
        } else {
            "within"
        }
    }

    /// Of runs that are the same in this the newest counts.
    fn is_like(&self, other: &Self) -> bool {
        let like = |run: &Self| {
            let options = ["--lease", "--other-lease", "--older"].map(|name| run.option(name));
            (run.kind(), run.get("backend"), options)
        };
        like(self) == like(other)
    }

    fn is_broken(&self) -> bool {
        self.get("violations") != "0" || self.get("missed") != "0"
    }

    fn row(&self, kind: &str) -> String {
        let code = |column: &str| format!("`{}`", self.get(column));
        let seconds = |column: &str| {
            let millis: f64 = self.get(column).parse().unwrap_or_default();
            format!("{:.1} s", millis / 1_000.0)
        };
        let text = |column: &str| self.get(column).to_owned();
        let mut cells = vec![code("backend")];
        if kind == "kills" {
            let default = self.option("--lease") == Some(DEFAULT_LEASE);
            let policy = if default { "default" } else { "`fast()`" };
            cells.extend([policy.to_owned(), text("leaders killed"), text("terms")]);
        } else {
            cells.extend(["minutes", "terms", "faults", "at leader"].map(text));
            cells.push(format!("{} %", self.get("led %")));
        }
        cells.push(format!("{} ms", self.get("median gap ms")));
        cells.extend(["longest gap ms", "formula ms"].map(seconds));
        cells.extend(["violations", "seed"].map(text));
        let commit = self.get("commit");
        let changed = if commit.ends_with('+') { "+" } else { "" };
        cells.push(format!("`{}{changed}`", commit.get(..7).unwrap_or(commit)));
        format!("| {} |\n", cells.join(" | "))
    }
}

fn header(kind: &str) -> String {
    let own = match kind {
        "kills" => "policy | leaders killed | terms",
        _ => "minutes | terms | faults | at the leader | led",
    };
    let names =
        format!("| topology | {own} | median | longest | formula | broken | seed | commit |");
    let columns = names.matches('|').count() - 1;
    format!("{names}\n|{}\n", "---|".repeat(columns))
}

fn read(list: &str) -> Result<Vec<Run<'_>>> {
    let mut lines = list.lines();
    ensure!(lines.next() == Some(COLUMNS), "the list has other columns");
    let count = COLUMNS.split('\t').count();
    let runs = lines.enumerate().map(|(index, line)| {
        let cells: Vec<&str> = line.split('\t').collect();
        let (number, found) = (index + 2, cells.len());
        ensure!(found == count, "line {number} has {found} cells");
        Ok(Run(cells))
    });
    runs.collect()
}

/// The newest of the runs that are alike, and each that broke something.
fn table(kind: &str, runs: &[Run<'_>]) -> String {
    let counts = |index: usize, run: &Run<'_>| {
        run.is_broken() || !runs[index + 1..].iter().any(|later| later.is_like(run))
    };
    let all = runs.iter().enumerate();
    let mut shown: Vec<&Run<'_>> = all
        .filter(|(index, run)| run.kind() == kind && counts(*index, run))
        .map(|(_, run)| run)
        .collect();
    shown.sort_by_key(|run| NAMES.iter().position(|name| *name == run.get("backend")));
    let rows: String = shown.iter().map(|run| run.row(kind)).collect();
    header(kind) + &rows
}

/// The page, with its tables as the list has them.
pub fn fill(page: &str, list: &str) -> Result<String> {
    let runs = read(list)?;
    let mut page = page.to_owned();
    for kind in KINDS {
        let begin = format!("<!-- runs: {kind} -->\n");
        let from = page.find(&begin).with_context(|| begin.clone())? + begin.len();
        let length = page[from..].find(END).context(END)?;
        let table = format!("\n{}\n", table(kind, &runs));
        page.replace_range(from..from + length, &table);
    }
    Ok(page)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(backend: &str, violations: &str, command: &str) -> String {
        let cells = COLUMNS.split('\t').map(|name| match name {
            "backend" => backend,
            "violations" => violations,
            "command" => command,
            _ => "0",
        });
        cells.collect::<Vec<_>>().join("\t")
    }

    fn shown(kind: &str, runs: &[String]) -> Vec<String> {
        let list = [&[COLUMNS.to_owned()], runs].concat().join("\n");
        let table = table(kind, &read(&list).unwrap());
        table.lines().skip(2).map(ToOwned::to_owned).collect()
    }

    #[test]
    fn the_newest_of_like_runs_is_shown_and_each_that_broke_something() {
        let runs = [
            run("redis", "0", "cargo xtask chaos --seed 1"),
            run("redis", "3", "cargo xtask chaos --seed 2"),
            run("file", "0", "cargo xtask chaos --kills 200"),
            run("redis", "0", "cargo xtask chaos --seed 3"),
            run("file", "0", "cargo xtask chaos --seed 4"),
        ];
        let shown = shown("within", &runs);
        assert_eq!(shown.len(), 3, "{shown:?}");
        assert!(shown[0].starts_with("| `file` |"), "{shown:?}");
        assert!(shown[1].contains("| 3 | 0 |"), "{shown:?}");
    }

    #[test]
    fn the_page_has_the_tables_of_the_list() {
        let docs = tenure_sim::mutants::root().join("docs/contributing");
        let read = |name: &str| std::fs::read_to_string(docs.join(name)).unwrap();
        let page = read("reliability.md");
        let filled = fill(&page, &read("chaos-runs.tsv")).unwrap();
        assert!(page == filled, "cargo xtask chaos --tables makes them");
    }

    #[test]
    fn kills_of_both_policies_are_shown() {
        let runs = [
            run("etcd", "0", "cargo xtask chaos --kills 200"),
            run("etcd", "0", "cargo xtask chaos --kills 10 --lease 20s"),
        ];
        let shown = shown("kills", &runs);
        assert!(shown[0].contains("`fast()`"), "{shown:?}");
        assert!(shown[1].contains("default"), "{shown:?}");
    }

    #[test]
    fn a_table_has_as_many_cells_as_its_header() {
        for kind in KINDS {
            let list = format!("{COLUMNS}\n{}", run("etcd", "0", ""));
            let row = read(&list).unwrap()[0].row(kind);
            let bars = |line: &str| line.matches('|').count();
            let header = header(kind);
            assert!(
                header.lines().all(|line| bars(line) == bars(&row)),
                "{header}{row}"
            );
        }
    }
}
