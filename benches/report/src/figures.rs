//! What the benchmarks have written, and what can be asked of it.

use anyhow::{Context as _, Result};
use serde::Deserialize;

/// One line of a benchmark.
#[derive(Debug, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
enum Line {
    Series(Series),
    Figure(Figure),
    Fact(Fact),
}

/// All durations of one row of a table.
#[derive(Debug, Deserialize)]
pub(crate) struct Series {
    pub(crate) bench: String,
    pub(crate) table: String,
    pub(crate) name: String,
    /// Nothing for a row that stands for itself.
    #[serde(default)]
    pub(crate) beside: Option<Beside>,
    nanos: Vec<f64>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Beside {
    pub(crate) floors: Vec<Floor>,
    /// Of a peer: why it may be ahead of our hand-over.
    pub(crate) ahead: Option<String>,
}

/// A row of the same table whose median this one's is compared with.
#[derive(Debug, Deserialize)]
pub(crate) struct Floor {
    pub(crate) row: String,
    /// How often it may fit into this one's at most.
    pub(crate) limit: Option<f64>,
    pub(crate) why: String,
}

/// One number.
#[derive(Debug, Deserialize)]
pub(crate) struct Figure {
    pub(crate) bench: String,
    pub(crate) table: String,
    pub(crate) name: String,
    pub(crate) value: f64,
    pub(crate) unit: String,
}

/// What has to be known of the run.
#[derive(Debug, Deserialize)]
pub(crate) struct Fact {
    pub(crate) name: String,
    pub(crate) value: String,
}

impl Series {
    /// In nanoseconds: the value below which so many percent are.
    pub(crate) fn at(&self, percent: usize) -> f64 {
        let last = self.nanos.len().saturating_sub(1);
        let at = (last * percent + 50) / 100;
        self.nanos.get(at).copied().unwrap_or_default()
    }

    pub(crate) fn median(&self) -> f64 {
        self.at(50)
    }

    pub(crate) fn len(&self) -> usize {
        self.nanos.len()
    }

    pub(crate) fn is_ours(&self) -> bool {
        self.name.starts_with("tenure")
    }

    pub(crate) fn floors(&self) -> &[Floor] {
        self.beside.as_ref().map_or(&[], |beside| &beside.floors)
    }

    /// Why a peer may be ahead; nothing of what is no peer.
    pub(crate) fn ahead(&self) -> Option<&str> {
        self.beside.as_ref()?.ahead.as_deref()
    }
}

/// All lines.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    pub(crate) series: Vec<Series>,
    pub(crate) numbers: Vec<Figure>,
    pub(crate) facts: Vec<Fact>,
}

/// Each once, in the order in which they come.
fn distinct<'a>(names: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut found = Vec::new();
    for name in names {
        if !found.contains(&name) {
            found.push(name);
        }
    }
    found
}

impl Figures {
    pub(crate) fn read(text: &str) -> Result<Self> {
        let mut all = Self::default();
        for (number, line) in text.lines().enumerate() {
            let line = serde_json::from_str(line)
                .with_context(|| format!("line {} is not of a benchmark", number + 1))?;
            match line {
                Line::Series(mut series) => {
                    series.nanos.sort_unstable_by(f64::total_cmp);
                    all.series.push(series);
                }
                Line::Figure(figure) => all.numbers.push(figure),
                Line::Fact(fact) => all.facts.push(fact),
            }
        }
        Ok(all)
    }

    /// The benchmarks of single stores beside their floors.
    pub(crate) fn beside(&self) -> Vec<&str> {
        let beside = self.series.iter().filter(|series| series.beside.is_some());
        distinct(beside.map(|series| &*series.bench))
    }

    /// The tables of a benchmark.
    pub(crate) fn tables<'a>(&'a self, bench: &str) -> Vec<&'a str> {
        let series = self.series.iter().filter(|series| series.bench == bench);
        distinct(series.map(|series| &*series.table))
    }

    /// The names in tables whose titles begin like this.
    pub(crate) fn names(&self, bench: &str, title: &str) -> Vec<&str> {
        let series = self.series.iter();
        let of = series.filter(|one| one.bench == bench && one.table.starts_with(title));
        distinct(of.map(|series| &*series.name))
    }

    pub(crate) fn rows<'a>(&'a self, bench: &str, table: &str) -> Vec<&'a Series> {
        let all = self.series.iter();
        all.filter(|one| one.bench == bench && one.table == table)
            .collect()
    }

    pub(crate) fn row(&self, bench: &str, table: &str, name: &str) -> Option<&Series> {
        let mut rows = self.rows(bench, table).into_iter();
        rows.find(|row| row.name == name)
    }

    /// How often the floor's median fits into this one's.
    pub(crate) fn ratio(&self, series: &Series, floor: &str) -> Option<f64> {
        let floor = self.row(&series.bench, &series.table, floor)?;
        Some(series.median() / floor.median())
    }

    /// The numbers of a benchmark, those of one table and name together, in order.
    pub(crate) fn numbers_of(&self, bench: &str) -> Vec<Vec<&Figure>> {
        let mut groups: Vec<Vec<&Figure>> = Vec::new();
        for figure in self.numbers.iter().filter(|figure| figure.bench == bench) {
            let mut known = groups.iter_mut();
            let same = known.find(|all| all[0].table == figure.table && all[0].name == figure.name);
            match same {
                Some(group) => group.push(figure),
                None => groups.push(vec![figure]),
            }
        }
        groups
    }
}

/// Nanoseconds, for people: three figures and a unit.
pub(crate) fn shown(nanos: f64) -> String {
    let (value, unit) = match nanos {
        n if n < 1e3 => (n, "ns"),
        n if n < 1e6 => (n / 1e3, "µs"),
        n if n < 1e9 => (n / 1e6, "ms"),
        n => (n / 1e9, "s"),
    };
    let text = match value {
        v if v < 9.995 => format!("{v:.2}"),
        v if v < 99.95 => format!("{v:.1}"),
        v => format!("{v:.0}"),
    };
    format!("{text} {unit}")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;

    #[test]
    fn lines_become_tables_with_ratios() {
        let text = r#"{"kind":"series","bench":"redis","table":"t","name":"bare","beside":{"floors":[],"ahead":null},"nanos":[3,1,2]}
{"kind":"series","bench":"redis","table":"t","name":"tenure","beside":{"floors":[{"row":"bare","limit":1.15,"why":"x"}],"ahead":null},"nanos":[4,3,9]}
{"kind":"series","bench":"stores","table":"renew","name":"file","beside":null,"nanos":[1]}
{"kind":"figure","bench":"idle","table":"cpu","name":"1","value":2.5,"unit":"µs"}
{"kind":"fact","name":"cores","value":"2"}"#;
        let figures = Figures::read(text).unwrap();
        assert_eq!(figures.beside(), ["redis"]);
        assert_eq!(figures.names("stores", "ren"), ["file"]);
        let ours = figures.row("redis", "t", "tenure").unwrap();
        assert!(ours.is_ours());
        assert!((figures.ratio(ours, "bare").unwrap() - 2.0).abs() < 1e-9);
        assert!(Figures::read("nonsense").is_err());
    }

    #[test]
    fn durations_have_three_figures() {
        for (nanos, text) in [
            (21.3, "21.3 ns"),
            (1_234.0, "1.23 µs"),
            (999_600.0, "1000 µs"),
            (5_540_000.0, "5.54 ms"),
            (19_710_000_000.0, "19.7 s"),
        ] {
            assert_eq!(shown(nanos), text);
        }
    }
}
