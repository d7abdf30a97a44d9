//! What was measured: a line for people, a line for the file of all runs, and tables made from it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result};

use crate::cell::{Cell, name};
use crate::measure::Outcome;
use crate::restart::Restart;
use crate::store::Kind;

/// The columns of the file of all cells.
const CELLS: &str = "start\tend\tcommit\tstore\tfault\tlength\twho\tleaders\tlost\thow\t\
                     lost after ms first\tlast\t\
                     led again ms median\tlongest\toutage ms\tlate ms\tpromised\tcommand";

/// The columns of the file of all restarts.
const RESTARTS: &str = "start\tend\tcommit\tstore\tleaders\twaiting\tlost\thow\tdown ms\t\
                        all led ms\tconnections\tmedian ms\t9 of 10 ms\tlast ms\tmost in 100 ms\t\
                        late ms\tcommand";

/// What a run was, beside its results.
#[derive(Clone, Debug)]
pub(crate) struct Circumstances {
    pub(crate) commit: String,
    pub(crate) command: String,
}

impl Circumstances {
    pub(crate) fn now(arguments: &[String]) -> Result<Self> {
        let commit = git(&["rev-parse", "--short=12", "HEAD"])?;
        // The results themselves make no other program.
        let changed = git(&[
            "status",
            "--porcelain",
            "--untracked-files=no",
            "--",
            ":!docs/benchmarks",
        ])?;
        let plus = if changed.is_empty() { "" } else { "+" };
        Ok(Self {
            commit: format!("{commit}{plus}"),
            command: format!("cargo xtask retention {}", arguments.join(" ")),
        })
    }
}

fn git(arguments: &[&str]) -> Result<String> {
    let output = Command::new("git").args(arguments).output();
    let output = output.context("git cannot be run")?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

pub(crate) fn time(at: SystemTime) -> String {
    humantime::format_rfc3339_seconds(at).to_string()
}

fn counted(how: &BTreeMap<String, usize>) -> String {
    let counts: Vec<String> = how
        .iter()
        .map(|(cause, n)| format!("{n} {cause}"))
        .collect();
    counts.join(", ")
}

/// The value below which this share of them is.
fn share(sorted: &[Duration], share: f64) -> Option<u128> {
    let last = sorted.len().checked_sub(1)?;
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss
    )]
    let index = (last as f64 * share).round() as usize;
    Some(sorted[index].as_millis())
}

fn or_dash(value: Option<u128>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

/// The line of a cell for people.
pub(crate) fn line(store: Kind, cell: Cell, outcome: &Outcome) -> String {
    let mut text = format!("{:<14} {cell:<24} ", name(&store));
    if let Some(why) = outcome.spoiled() {
        let _ = write!(text, "SPOILED: {why}");
        return text;
    }
    let Outcome {
        leaders,
        lost,
        how,
        lost_after,
        led_again,
        late,
        ..
    } = outcome;
    let _ = write!(text, "{lost} of {leaders} terms lost");
    if *lost > 0 {
        let [first, last] = [0.0, 1.0].map(|part| or_dash(share(lost_after, part)));
        let [median, longest] = [0.5, 1.0].map(|part| or_dash(share(led_again, part)));
        let _ = write!(
            text,
            " ({}, {first} to {last} ms after its begin); led again {median} ms after the outage, the last after {longest} ms, {} not",
            counted(how),
            lost - led_again.len().min(*lost)
        );
    }
    let verdict = match cell.promised(store) {
        Some(promised) if *lost > promised => format!("RED: promised {promised}"),
        Some(_) => "green".to_owned(),
        None => "nothing promised".to_owned(),
    };
    let _ = write!(text, "; {verdict}; late {late} ms");
    text
}

/// Whether a promise is broken.
pub(crate) fn is_red(store: Kind, cell: Cell, outcome: &Outcome) -> bool {
    cell.promised(store)
        .is_some_and(|promised| outcome.lost > promised)
}

/// Appends a cell to the file of all cells.
pub(crate) fn append_cell(
    file: &Path,
    [start, end]: [SystemTime; 2],
    around: &Circumstances,
    (store, cell, outcome): (Kind, Cell, &Outcome),
) -> Result<()> {
    let row = [
        time(start),
        time(end),
        around.commit.clone(),
        name(&store),
        name(&cell.fault),
        humantime::format_duration(cell.length).to_string(),
        name(&cell.elector),
        outcome.leaders.to_string(),
        outcome.lost.to_string(),
        counted(&outcome.how),
        or_dash(share(&outcome.lost_after, 0.0)),
        or_dash(share(&outcome.lost_after, 1.0)),
        or_dash(share(&outcome.led_again, 0.5)),
        or_dash(share(&outcome.led_again, 1.0)),
        outcome.lasted.as_millis().to_string(),
        outcome.late.to_string(),
        or_dash(cell.promised(store).map(|lost| lost as u128)),
        around.command.clone(),
    ];
    append(file, CELLS, &row.join("\t"))
}

/// The line of a restart for people.
pub(crate) fn restart_line(what: &str, restart: &Restart) -> String {
    let Restart {
        leaders,
        waiting,
        lost,
        how,
        connections,
        ..
    } = restart;
    let led = or_dash(restart.all_led.map(|led| led.as_millis()));
    let [median, most, last] = [0.5, 0.9, 1.0].map(|part| or_dash(share(connections, part)));
    format!(
        "{what:<14} {leaders} leaders, {waiting} waiting, down {} ms: {lost} terms lost ({}); all \
         led {led} ms after the server serves; {} new connections, half after {median} ms, 9 of 10 \
         after {most} ms, the last after {last} ms, at most {} in 100 ms; late {} ms",
        restart.down.as_millis(),
        counted(how),
        connections.len(),
        restart.most_at_once(),
        restart.late
    )
}

/// Appends a restart to the file of all restarts.
pub(crate) fn append_restart(
    file: &Path,
    [start, end]: [SystemTime; 2],
    around: &Circumstances,
    (what, restart): (&str, &Restart),
) -> Result<()> {
    let mut row = vec![
        time(start),
        time(end),
        around.commit.clone(),
        what.to_owned(),
    ];
    row.extend([restart.leaders, restart.waiting, restart.lost].map(|n| n.to_string()));
    row.push(counted(&restart.how));
    row.push(restart.down.as_millis().to_string());
    row.push(or_dash(restart.all_led.map(|led| led.as_millis())));
    row.push(restart.connections.len().to_string());
    row.extend([0.5, 0.9, 1.0].map(|part| or_dash(share(&restart.connections, part))));
    row.push(restart.most_at_once().to_string());
    row.push(restart.late.to_string());
    row.push(around.command.clone());
    append(file, RESTARTS, &row.join("\t"))
}

fn append(file: &Path, columns: &str, row: &str) -> Result<()> {
    let is_new = !file.exists();
    let at = || format!("cannot write {}", file.display());
    let mut opened = OpenOptions::new()
        .create(true)
        .append(true)
        .open(file)
        .with_context(at)?;
    let head = if is_new {
        format!("{columns}\n")
    } else {
        String::new()
    };
    opened
        .write_all(format!("{head}{row}\n").as_bytes())
        .with_context(at)
}

/// The tables of the last result of each cell and each restart.
pub(crate) fn tables(cells: &Path, restarts: &Path) -> Result<String> {
    let mut text = "# Terms lost to an outage\n\nMade by `cargo xtask retention --table` from \
                    `retention.tsv` and `restarts.tsv`: the last result of each. A cell says how \
                    many terms of how many were lost.\n"
        .to_owned();
    let rows = read(cells)?;
    let mut newest: BTreeMap<(&str, &str, Duration), BTreeMap<&str, String>> = BTreeMap::new();
    let mut stores = Vec::new();
    for row in &rows {
        let [store, fault, length, who, leaders, lost] = [3, 4, 5, 6, 7, 8].map(|n| &*row[n]);
        let length = humantime::parse_duration(length)?;
        if !stores.contains(&store) {
            stores.push(store);
        }
        let shown = format!("{lost} of {leaders}");
        newest
            .entry((who, fault, length))
            .or_default()
            .insert(store, shown);
    }
    let electors: BTreeSet<&str> = newest.keys().map(|(who, ..)| *who).collect();
    for elector in ["default", "patient", "client_go", "client-go", "kubert"] {
        if !electors.contains(elector) {
            continue;
        }
        let of = stores.iter().filter(|store| {
            let cells = newest.iter().filter(|((who, ..), _)| *who == elector);
            cells
                .into_iter()
                .any(|(_, stores)| stores.contains_key(**store))
        });
        let stores: Vec<&str> = of.copied().collect();
        let _ = write!(
            text,
            "\n## {elector}\n\n| outage | {} |\n|---|",
            stores.join(" | ")
        );
        let _ = writeln!(text, "{}", "---|".repeat(stores.len()));
        for ((_, fault, length), cells) in newest.iter().filter(|((who, ..), _)| *who == elector) {
            let shown = stores
                .iter()
                .map(|store| cells.get(*store).map_or("", |text| text));
            let shown: Vec<&str> = shown.collect();
            let length = humantime::format_duration(*length);
            let _ = writeln!(text, "| {fault} {length} | {} |", shown.join(" | "));
        }
    }
    let rows = read(restarts)?;
    let last: BTreeMap<&str, &Vec<String>> = rows.iter().map(|row| (&*row[3], row)).collect();
    if last.is_empty() {
        return Ok(text);
    }
    text.push_str(
        "\n## Restarts\n\n| store | leaders, waiting | terms lost | all led again, s after the server \
         serves | new connections | half of them within | 9 of 10 | the last | most in 100 ms |\n\
         |---|---|---|---|---|---|---|---|---|\n",
    );
    for (store, row) in last {
        let seconds = row[9]
            .parse::<f64>()
            .map(|ms| format!("{:.1}", ms / 1000.0));
        let led = seconds.unwrap_or_else(|_| "not within 60 s".to_owned());
        let _ = writeln!(
            text,
            "| {store} | {}, {} | {} | {led} | {} | {} ms | {} ms | {} ms | {} |",
            row[4], row[5], row[6], row[10], row[11], row[12], row[13], row[14]
        );
    }
    Ok(text)
}

fn read(file: &Path) -> Result<Vec<Vec<String>>> {
    if !file.exists() {
        return Ok(Vec::new());
    }
    let text = fs::read_to_string(file)?;
    let rows = text.lines().skip(1);
    Ok(rows
        .map(|row| row.split('\t').map(str::to_owned).collect())
        .collect())
}
