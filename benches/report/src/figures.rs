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

/// All durations of one kind of call.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Series {
    pub(crate) bench: String,
    pub(crate) table: String,
    pub(crate) name: String,
    /// The series of the same table that this line of the table is beside.
    pub(crate) floor: Option<String>,
    nanos: Vec<f64>,
}

/// One number.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Figure {
    pub(crate) bench: String,
    pub(crate) table: String,
    pub(crate) name: String,
    pub(crate) value: f64,
    pub(crate) unit: String,
}

/// What has to be known of the run.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Fact {
    pub(crate) name: String,
    pub(crate) value: String,
}

impl Series {
    /// In nanoseconds: the value below which so many percent are.
    pub(crate) fn at(&self, percent: usize) -> f64 {
        let last = self.nanos.len().saturating_sub(1);
        self.nanos
            .get((last * percent + 50) / 100)
            .copied()
            .unwrap_or_default()
    }

    pub(crate) fn median(&self) -> f64 {
        self.at(50)
    }

    pub(crate) fn len(&self) -> usize {
        self.nanos.len()
    }

    /// From the end of one holder to the next, by us; failovers are something else.
    pub(crate) fn is_hand_over(&self) -> bool {
        self.role() == Role::Tenure
            && self.name.contains("to the next")
            && !["kill -9", "end of the lease"]
                .iter()
                .any(|end| self.name.contains(end))
    }

    /// What it is of.
    pub(crate) fn role(&self) -> Role {
        if self.name.starts_with("tenure") {
            Role::Tenure
        } else if self.name.contains("floor") || self.name.starts_with("bare") {
            Role::Floor
        } else {
            Role::Peer
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Tenure,
    /// The bare operation.
    Floor,
    Peer,
}

/// All lines.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    pub(crate) series: Vec<Series>,
    pub(crate) numbers: Vec<Figure>,
    pub(crate) facts: Vec<Fact>,
}

/// Those that are measured beside a store's bare operations and beside peers, in this order; the
/// names of benchmarks that this list does not know come after them.
const BESIDE_PEERS: [&str; 4] = ["redis", "postgres", "etcd", "kubernetes"];

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
    pub(crate) fn stores_beside_peers(&self) -> Vec<&str> {
        let mut found: Vec<&str> = BESIDE_PEERS.to_vec();
        for series in &self.series {
            if series.floor.is_some() && !found.contains(&series.bench.as_str()) {
                found.push(&series.bench);
            }
        }
        found.retain(|bench| self.series.iter().any(|series| series.bench == *bench));
        found
    }

    /// The tables of a benchmark, in the order of its output.
    pub(crate) fn tables<'a>(&'a self, bench: &str) -> Vec<&'a str> {
        let mut tables: Vec<&str> = Vec::new();
        for series in self.series.iter().filter(|series| series.bench == bench) {
            if !tables.contains(&series.table.as_str()) {
                tables.push(&series.table);
            }
        }
        tables
    }

    /// The lines of a table; a series that is beside two floors is there twice.
    pub(crate) fn lines<'a>(&'a self, bench: &str, table: &str) -> Vec<&'a Series> {
        let lines = self.series.iter();
        lines
            .filter(|series| series.bench == bench && series.table == table)
            .collect()
    }

    /// The series of a table, each once.
    pub(crate) fn distinct<'a>(&'a self, bench: &str, table: &str) -> Vec<&'a Series> {
        let mut distinct: Vec<&Series> = Vec::new();
        for series in self.lines(bench, table) {
            if !distinct.iter().any(|known| known.name == series.name) {
                distinct.push(series);
            }
        }
        distinct
    }

    /// How often the floor's median fits into this one's.
    pub(crate) fn ratio(&self, series: &Series, floor: &str) -> Option<f64> {
        let lines = self.lines(&series.bench, &series.table);
        let floor = lines.iter().find(|line| line.name == floor)?;
        Some(series.median() / floor.median())
    }

    pub(crate) fn of_stores(&self, table: &str, store: &str) -> Option<&Series> {
        let mut lines = self.series.iter();
        lines.find(|one| one.bench == "stores" && one.table == table && one.name == store)
    }

    pub(crate) fn figure(&self, table: &str, name: &str) -> Option<&Figure> {
        let mut numbers = self.numbers.iter();
        numbers.find(|figure| figure.table == table && figure.name == name)
    }

    /// The numbers of a benchmark, those of one table and name together, in order.
    pub(crate) fn numbers_of(&self, bench: &str) -> Vec<Vec<&Figure>> {
        let mut groups: Vec<Vec<&Figure>> = Vec::new();
        for figure in self.numbers.iter().filter(|figure| figure.bench == bench) {
            let same = groups
                .iter_mut()
                .find(|group| group[0].table == figure.table && group[0].name == figure.name);
            match same {
                Some(group) => group.push(figure),
                None => groups.push(vec![figure]),
            }
        }
        groups
    }

    pub(crate) fn fact(&self, name: &str) -> Option<&str> {
        let mut facts = self.facts.iter();
        facts
            .find(|fact| fact.name == name)
            .map(|fact| fact.value.as_str())
    }
}

/// The backends, in the order of every table.
pub(crate) const STORES: [&str; 7] = [
    "memory",
    "file",
    "redis",
    "postgres",
    "etcd",
    "kube-lease",
    "kube-configmap",
];

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
        let text = r#"{"kind":"series","bench":"redis","table":"t","name":"bare","floor":null,"nanos":[3,1,2]}
{"kind":"series","bench":"redis","table":"t","name":"tenure: acquire","floor":"bare","nanos":[4,3,9]}
{"kind":"figure","bench":"idle","table":"cpu","name":"1","value":2.5,"unit":"µs"}
{"kind":"fact","name":"cores","value":"2"}"#;
        let figures = Figures::read(text).unwrap();
        assert_eq!(figures.stores_beside_peers(), ["redis"]);
        let lines = figures.lines("redis", "t");
        assert_eq!(lines[0].role(), Role::Floor);
        assert_eq!(lines[1].role(), Role::Tenure);
        assert!((figures.ratio(lines[1], "bare").unwrap() - 2.0).abs() < 1e-9);
        assert_eq!(figures.fact("cores"), Some("2"));
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
