//! The page: ratios, medians and spreads first, absolute times as of that machine.

use std::fmt::Write as _;

use crate::figures::{Figure, Figures, STORES, Series, shown};
use crate::plots::Plot;
use crate::targets;

/// The calls of every backend, as the tables of the benchmark `stores` are named.
const CALLS: [&str; 4] = [
    "acquire when free",
    "acquire when taken",
    "renew",
    "release",
];
const HAND_OVERS: [&str; 3] = [
    "hand-over, 2 candidates",
    "hand-over, 10 candidates",
    "hand-over, 100 candidates",
];
const FAILOVERS: [&str; 2] = ["failover, leader killed", "failover, leader frozen"];

/// The benchmarks without a store.
const ENGINE: [&str; 3] = ["guard", "heartbeat", "idle"];

/// What the facts of a run are called here.
const FACTS: [(&str, &str); 9] = [
    ("mode", "Run"),
    ("cores", "Cores"),
    ("memory", "Memory"),
    ("system", "System"),
    ("redis", "Redis"),
    ("postgres", "PostgreSQL"),
    ("etcd", "etcd"),
    ("kube", "kube-apiserver"),
    ("took", "The run took"),
];

pub(crate) fn page(figures: &Figures, plots: &[&Plot], notes: &str) -> String {
    let mut page = String::from(
        "# Benchmarks\n\n\
         Written by `cargo xtask bench`; change `benches/` or `docs/benchmarks/notes.md` instead \
         of this page. All that stands beside each other was measured in turns in one run on one \
         server, so the ratios travel; the times are those of [that machine](#that-machine). \
         A spread is from the 10th to the 90th percentile.\n",
    );
    let plots_of = |page: &mut String, section: &str| {
        for plot in plots.iter().filter(|plot| plot.section == section) {
            let (title, name) = (plot.title, plot.name);
            push(page, &format!("\n![{title}](benchmarks/{name}.svg)\n"));
        }
    };
    targets_of(&mut page, figures);
    stores(&mut page, figures);
    plots_of(&mut page, "stores");
    beside(&mut page, figures);
    plots_of(&mut page, "beside");
    requests(&mut page, figures);
    plots_of(&mut page, "requests");
    engine(&mut page, figures);
    plots_of(&mut page, "engine");
    if !notes.is_empty() {
        push(&mut page, &format!("\n{notes}\n"));
    }
    machine(&mut page, figures);
    page
}

fn push(page: &mut String, text: &str) {
    // Text takes all.
    let _written = page.write_str(text);
}

/// A row; a bar in a cell would end it.
fn row(page: &mut String, cells: &[String]) {
    let cells: Vec<String> = cells.iter().map(|cell| cell.replace('|', "\\|")).collect();
    push(page, &format!("| {} |\n", cells.join(" | ")));
}

fn head(page: &mut String, names: &[&str]) {
    row(
        page,
        &names.iter().map(ToString::to_string).collect::<Vec<_>>(),
    );
    push(page, &format!("|{}\n", "---|".repeat(names.len())));
}

fn targets_of(page: &mut String, figures: &Figures) {
    let verdicts = targets::judge(figures);
    if verdicts.is_empty() {
        return;
    }
    let met = verdicts.iter().filter(|verdict| verdict.is_met).count();
    push(
        page,
        &format!(
            "\n## What must hold\n\nMet: {met} of {}. Ratios of medians.\n\n",
            verdicts.len()
        ),
    );
    head(
        page,
        &["store", "must hold", "", "measured", "why it falls short"],
    );
    for verdict in verdicts {
        let is_met = if verdict.is_met {
            "met"
        } else {
            "**falls short**"
        };
        row(
            page,
            &[
                verdict.store,
                verdict.target,
                is_met.to_owned(),
                verdict.measured,
                verdict.why.to_owned(),
            ],
        );
    }
}

/// Median and spread.
fn cell(series: Option<&Series>) -> String {
    series.map_or("–".to_owned(), |series| {
        format!(
            "**{}** ({} to {})",
            shown(series.median()),
            shown(series.at(10)),
            shown(series.at(90))
        )
    })
}

fn stores(page: &mut String, figures: &Figures) {
    let has = |table: &str| {
        let mut series = figures.series.iter();
        series.any(|one| one.bench == "stores" && one.table == table)
    };
    push(
        page,
        "\n## Which store\n\nEvery backend through `tenure::connect(url)`, in one run: median and \
         spread, on that machine.\n",
    );
    for (intro, tables) in [
        ("One call of the backend.", CALLS.as_slice()),
        (
            "From a leader's `resign()` to the next one's valid term, while so many campaign (more \
             than 20 share 20 connections).",
            HAND_OVERS.as_slice(),
        ),
        (
            "From the end of the leader's process to the next one's valid term, at \
             `Policy::fast()`: a lease of 3 s, so that a silent leader is followed after 2 to 3 s \
             at best. Killed, its system closes its connections; frozen (SIGSTOP), nothing tells \
             of its end.",
            FAILOVERS.as_slice(),
        ),
    ] {
        let tables: Vec<&str> = tables.iter().copied().filter(|table| has(table)).collect();
        if tables.is_empty() {
            continue;
        }
        push(page, &format!("\n{intro}\n\n"));
        let names: Vec<&str> = std::iter::once("store")
            .chain(tables.iter().copied())
            .collect();
        head(page, &names);
        for store in STORES {
            let series: Vec<_> = tables
                .iter()
                .map(|table| figures.of_stores(table, store))
                .collect();
            if series.iter().all(Option::is_none) {
                continue;
            }
            let mut cells = vec![store.to_owned()];
            cells.extend(series.into_iter().map(cell));
            row(page, &cells);
        }
    }
}

fn beside(page: &mut String, figures: &Figures) {
    let stores = figures.stores_beside_peers();
    if stores.is_empty() {
        return;
    }
    push(
        page,
        "\n## Beside the bare operation, and beside peers\n\nEach on a private server, its kinds of \
         calls in turns. A ratio is of medians, beside the row with that letter.\n",
    );
    for bench in stores {
        push(page, &format!("\n### {bench}\n"));
        for table in figures.tables(bench) {
            push(page, &format!("\n{table}\n\n"));
            beside_table(page, figures, bench, table);
        }
        let groups = figures.numbers_of(bench);
        if !groups.is_empty() {
            push(page, "\n");
            numbers(page, &groups);
        }
    }
}

fn beside_table(page: &mut String, figures: &Figures, bench: &str, table: &str) {
    let lines = figures.lines(bench, table);
    let mut floors: Vec<&str> = Vec::new();
    for floor in lines.iter().filter_map(|line| line.floor.as_deref()) {
        if !floors.contains(&floor) {
            floors.push(floor);
        }
    }
    let letter = |floor: &str| {
        let found = floors.iter().position(|known| *known == floor);
        found.map(|at| char::from(b'A' + u8::try_from(at % 26).unwrap_or_default()))
    };
    head(
        page,
        &[
            "",
            "ratio",
            "spread, of its median",
            "median",
            "p10",
            "p90",
            "p99",
            "samples",
        ],
    );
    for series in figures.distinct(bench, table) {
        let beside: Vec<String> = lines
            .iter()
            .filter(|line| line.name == series.name)
            .filter_map(|line| {
                let floor = line.floor.as_deref()?;
                let ratio = figures.ratio(series, floor)?;
                Some(format!("{ratio:.2} x {}", letter(floor)?))
            })
            .collect();
        let name = letter(&series.name).map_or_else(
            || series.name.clone(),
            |letter| format!("**{letter}** {}", series.name),
        );
        let median = series.median();
        row(
            page,
            &[
                name,
                beside.join(", "),
                format!(
                    "{:.2} to {:.2}",
                    series.at(10) / median,
                    series.at(90) / median
                ),
                shown(median),
                shown(series.at(10)),
                shown(series.at(90)),
                shown(series.at(99)),
                series.len().to_string(),
            ],
        );
    }
}

fn requests(page: &mut String, figures: &Figures) {
    let table = "requests per hour";
    if !figures.numbers.iter().any(|figure| figure.table == table) {
        return;
    }
    push(
        page,
        "\n## Store requests\n\nRequests per hour as the store counts them, at the default policy \
         (a heartbeat every 10 s: 360 an hour), for a leader and for a candidate that waits, each \
         on a connection of its own.\n\n",
    );
    head(
        page,
        &["store", "leader", "waiting candidate", "counted by"],
    );
    for store in STORES {
        let of = |who: &str| figures.figure(table, &format!("{store}, {who}"));
        let (Some(leader), Some(waiting)) = (of("leader"), of("waiting")) else {
            continue;
        };
        let source = match store {
            "redis" => "`INFO commandstats`, without what scripts call inside",
            "etcd" => "`grpc_server_msg_received_total`",
            "postgres" => "`pg_stat_statements`",
            _ => "`apiserver_request_total` of its resource; a watch counts when it ends",
        };
        let cells = [
            store.to_owned(),
            format!("{:.0}", leader.value),
            format!("{:.0}", waiting.value),
            source.to_owned(),
        ];
        row(page, &cells);
    }
}

/// Rows of numbers; what was counted several times is its median and range.
fn numbers(page: &mut String, groups: &[Vec<&Figure>]) {
    let shown = |value: f64| match value {
        v if v >= 100.0 || v.fract() == 0.0 => format!("{v:.0}"),
        v if v >= 10.0 => format!("{v:.1}"),
        v => format!("{v:.2}"),
    };
    head(page, &["", "", "measured"]);
    for group in groups {
        let mut values: Vec<f64> = group.iter().map(|figure| figure.value).collect();
        values.sort_unstable_by(f64::total_cmp);
        let (first, last) = (values[0], values[values.len() - 1]);
        let range = if values.len() > 1 {
            format!(", {} to {}", shown(first), shown(last))
        } else {
            String::new()
        };
        let median = shown(values[values.len() / 2]);
        let Figure {
            table, name, unit, ..
        } = group[0];
        let name = match name.parse::<u32>() {
            Ok(1) => "with one election".to_owned(),
            Ok(elections) => format!("with {elections} elections"),
            Err(_) => name.clone(),
        };
        let measured = format!("{}{range}", format!("{median} {unit}").trim_end());
        row(page, &[table.clone(), name, measured]);
    }
}

fn engine(page: &mut String, figures: &Figures) {
    let groups: Vec<_> = ENGINE
        .iter()
        .flat_map(|bench| figures.numbers_of(bench))
        .collect();
    if groups.is_empty() {
        return;
    }
    push(
        page,
        "\n## The engine itself\n\nOn the memory backend, or on none.\n\n",
    );
    numbers(page, &groups);
    let takeovers = figures
        .series
        .iter()
        .filter(|series| series.bench == "takeover");
    for series in takeovers {
        row(
            page,
            &[
                series.table.clone(),
                series.name.clone(),
                format!("{}, p99 {}", cell(Some(series)), shown(series.at(99))),
            ],
        );
    }
}

fn machine(page: &mut String, figures: &Figures) {
    push(page, "\n## That machine\n\n");
    head(page, &["", ""]);
    for (fact, name) in FACTS {
        if let Some(value) = figures.fact(fact) {
            row(page, &[name.to_owned(), value.to_owned()]);
        }
    }
    push(
        page,
        "\nServers, clients and the elections share these cores, over loopback. To run it again: \
         `cargo xtask bench`, or `cargo xtask bench --quick` for fewer samples; criterion's own \
         reports are in `target/criterion/report/index.html` then. Your own store: \
         `tenure bench --backend URL`.\n",
    );
}
