//! The page: what must hold first, then tables of medians and spreads, of that machine.

use std::fmt::Write as _;

use crate::charts::Chart;
use crate::figures::{Figure, Figures, Series, shown};

/// The tables of the benchmark `stores`, by the beginnings of their titles.
const STORES: [(&[&str], &str); 3] = [
    (&["acquire", "renew", "release"], "One call of the backend."),
    (
        &["hand-over"],
        "From a leader's `resign()` to the next one's valid term, while so many campaign (more than \
         20 share 20 connections).",
    ),
    (
        &["failover"],
        "From the end of the leader's process to the next one's valid term, at `Policy::fast()`: a \
         lease of 3 s, so that a silent leader is followed after 2 to 3 s at best. Killed, its \
         system closes its connections; frozen (SIGSTOP), nothing tells of its end.",
    ),
];

/// The benchmarks without a store.
const ENGINE: [&str; 3] = ["guard", "heartbeat", "idle"];

pub(crate) fn write(figures: &Figures, charts: &[Chart<'_>], notes: &str) -> String {
    let mut page = Page(String::from(
        "# Benchmarks\n\n\
         Written by `cargo xtask bench`; change `benches/` or `docs/benchmarks/notes.md` instead of \
         this page. All rows of a table were measured in turns in one run on one server: ratios \
         carry over to other machines, the times are those of [that machine](#that-machine). A \
         spread is from the 10th to the 90th percentile.\n",
    ));
    page.targets(figures);
    page.stores(figures);
    page.beside(figures);
    page.requests(figures);
    page.engine(figures);
    page.push("\n## Charts\n");
    for chart in charts {
        page.push(&format!("\n![{}]({}.svg)\n", chart.title, chart.name));
    }
    if !notes.is_empty() {
        page.push(&format!("\n{notes}\n"));
    }
    page.machine(figures);
    page.0
}

/// Median and spread.
fn cell(series: Option<&Series>) -> String {
    series.map_or("–".to_owned(), |series| {
        let [early, median, late] = [10, 50, 90].map(|percent| shown(series.at(percent)));
        format!("**{median}** ({early} to {late})")
    })
}

/// Three figures, however small.
fn times(ratio: f64) -> String {
    if ratio < 0.1 {
        format!("{ratio:.4} x")
    } else {
        format!("{ratio:.2} x")
    }
}

fn number(value: f64) -> String {
    match value {
        v if v >= 100.0 || v.fract() == 0.0 => format!("{v:.0}"),
        v if v >= 10.0 => format!("{v:.1}"),
        v => format!("{v:.2}"),
    }
}

struct Page(String);

impl Page {
    fn push(&mut self, text: &str) {
        // Text takes all.
        let _written = self.0.write_str(text);
    }

    /// A row; a bar in a cell would end it.
    fn row<T: AsRef<str>>(&mut self, cells: &[T]) {
        let cells: Vec<String> = cells
            .iter()
            .map(|cell| cell.as_ref().replace('|', "\\|"))
            .collect();
        self.push(&format!("| {} |\n", cells.join(" | ")));
    }

    fn head<T: AsRef<str>>(&mut self, names: &[T]) {
        self.row(names);
        self.push(&format!("|{}\n", "---|".repeat(names.len())));
    }

    /// What must hold, and whether it does.
    fn targets(&mut self, figures: &Figures) {
        let mut rows = Vec::new();
        for ours in figures.series.iter().filter(|series| series.is_ours()) {
            for floor in ours.floors() {
                let (Some(limit), Some(ratio)) = (floor.limit, figures.ratio(ours, &floor.row))
                else {
                    continue;
                };
                let target = format!("at most {limit:.2} x {}", floor.row);
                let measured = format!("{}: {}, {}", times(ratio), ours.name, ours.table);
                let is_met = ratio <= limit + 0.005;
                rows.push((&ours.bench, target, measured, is_met, &*floor.why));
            }
        }
        for peer in &figures.series {
            let Some(why) = peer.ahead() else { continue };
            let rows_of = figures.rows(&peer.bench, &peer.table);
            // An election's where there is one; it stands below the backend's own.
            let Some(ours) = rows_of.into_iter().rfind(|row| row.is_ours()) else {
                continue;
            };
            let ratio = ours.median() / peer.median();
            let target = format!("ahead of {}", peer.name);
            let [mine, theirs] = [ours, peer].map(|series| shown(series.median()));
            let measured = format!("{}: {mine} beside {theirs}, {}", times(ratio), peer.table);
            rows.push((&peer.bench, target, measured, ratio < 1.0, why));
        }
        let met = rows.iter().filter(|row| row.3).count();
        let of = rows.len();
        self.push(&format!(
            "\n## What must hold\n\nMet: {met} of {of}. Ratios of medians.\n\n"
        ));
        self.head(&["store", "must hold", "", "measured", "why it falls short"]);
        for (store, target, measured, is_met, why) in rows {
            let (verdict, why) = match (is_met, why) {
                (true, _) => ("met", ""),
                (false, "") => ("**falls short**", "not explained yet"),
                (false, why) => ("**falls short**", why),
            };
            self.row(&[store, &*target, verdict, &*measured, why]);
        }
    }

    fn stores(&mut self, figures: &Figures) {
        self.push(
            "\n## Which store\n\nEvery backend through `tenure::connect(url)`, in one run: median \
             and spread, on that machine.\n",
        );
        for (titles, intro) in STORES {
            let mut tables = figures.tables("stores");
            tables.retain(|table| titles.iter().any(|title| table.starts_with(title)));
            let Some(first) = tables.first() else {
                continue;
            };
            self.push(&format!("\n{intro}\n\n"));
            self.head(&[&["store"], tables.as_slice()].concat());
            for store in figures.names("stores", first) {
                let cells = tables
                    .iter()
                    .map(|table| cell(figures.row("stores", table, store)));
                let cells: Vec<String> = std::iter::once(store.to_owned()).chain(cells).collect();
                self.row(&cells);
            }
        }
    }

    fn beside(&mut self, figures: &Figures) {
        self.push(
            "\n## Beside the bare operation, and beside peers\n\nEach on a private server, its \
             kinds of calls in turns. A ratio is of medians, beside the row with that letter.\n",
        );
        for bench in figures.beside() {
            self.push(&format!("\n### {bench}\n"));
            for table in figures.tables(bench) {
                self.push(&format!("\n{table}\n\n"));
                self.beside_table(figures, bench, table);
            }
            let groups = figures.numbers_of(bench);
            if !groups.is_empty() {
                self.push("\n");
                self.numbers(&groups);
            }
        }
    }

    fn beside_table(&mut self, figures: &Figures, bench: &str, table: &str) {
        let rows = figures.rows(bench, table);
        let mut floors: Vec<&str> = Vec::new();
        for floor in rows.iter().flat_map(|row| row.floors()) {
            let is_there = figures.row(bench, table, &floor.row).is_some();
            if is_there && !floors.contains(&&*floor.row) {
                floors.push(&floor.row);
            }
        }
        let letter = |floor: &str| {
            let found = floors.iter().position(|known| *known == floor)?;
            Some(char::from(b'A' + u8::try_from(found % 26).ok()?))
        };
        self.head(&["", "ratio", "median", "p10", "p90", "p99", "samples"]);
        for series in rows {
            let ratios = series.floors().iter().filter_map(|floor| {
                let ratio = figures.ratio(series, &floor.row)?;
                Some(format!("{ratio:.2} x {}", letter(&floor.row)?))
            });
            let name = match letter(&series.name) {
                Some(letter) => format!("**{letter}** {}", series.name),
                None => series.name.clone(),
            };
            let [median, early, late, last] = [50, 10, 90, 99].map(|at| shown(series.at(at)));
            let ratios = ratios.collect::<Vec<_>>().join(", ");
            let samples = series.len().to_string();
            self.row(&[name, ratios, median, early, late, last, samples]);
        }
    }

    fn requests(&mut self, figures: &Figures) {
        const TABLE: &str = "requests per hour";
        let of_table = |figure: &&Figure| figure.table == TABLE;
        let all: Vec<&Figure> = figures.numbers.iter().filter(of_table).collect();
        if all.is_empty() {
            return;
        }
        self.push(
            "\n## Store requests\n\nRequests per hour as the store counts them, at the default \
             policy (a heartbeat every 10 s: 360 an hour), for a leader and for a candidate that \
             waits, each on a connection of its own.\n\n",
        );
        self.head(&["who", "requests", "counted by"]);
        for Figure {
            name, value, unit, ..
        } in all
        {
            self.row(&[name, &*format!("{value:.0}"), unit]);
        }
    }

    /// Rows of numbers; what was counted several times is its median and range.
    fn numbers(&mut self, groups: &[Vec<&Figure>]) {
        self.head(&["", "", "measured"]);
        for group in groups {
            let mut values: Vec<f64> = group.iter().map(|figure| figure.value).collect();
            values.sort_unstable_by(f64::total_cmp);
            let [first, median, last] =
                [0, values.len() / 2, values.len() - 1].map(|at| number(values[at]));
            let Figure {
                table, name, unit, ..
            } = group[0];
            let name = match name.parse::<u32>() {
                Ok(1) => "with one election".to_owned(),
                Ok(elections) => format!("with {elections} elections"),
                Err(_) => name.clone(),
            };
            let mut measured = format!("{median} {unit}").trim_end().to_owned();
            if values.len() > 1 {
                let _written = write!(measured, ", {first} to {last}");
            }
            self.row(&[table, &*name, &*measured]);
        }
    }

    fn engine(&mut self, figures: &Figures) {
        let groups: Vec<_> = ENGINE
            .iter()
            .flat_map(|bench| figures.numbers_of(bench))
            .collect();
        self.push("\n## The engine itself\n\nOn the memory backend, or on none.\n\n");
        self.numbers(&groups);
        for series in figures.series.iter().filter(|one| one.bench == "takeover") {
            let measured = format!("{}, p99 {}", cell(Some(series)), shown(series.at(99)));
            self.row(&[&series.table, &series.name, &measured]);
        }
    }

    fn machine(&mut self, figures: &Figures) {
        self.push("\n## That machine\n\n");
        self.head(&["", ""]);
        for fact in &figures.facts {
            self.row(&[&fact.name, &fact.value]);
        }
        self.push(
            "\nServers, clients and the elections share these cores, over loopback. To run it \
             again: `cargo xtask bench`, or `cargo xtask bench --quick` for fewer samples. Your \
             own store: `tenure bench --backend URL`.\n",
        );
    }
}
