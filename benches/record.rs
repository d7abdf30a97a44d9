//! What a benchmark has measured: printed, and appended as one line of JSON each to the file that
//! `TENURE_BENCH_OUT` names, for the report (`benches/report`).

use std::env;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::percentile;

const OUT: &str = "TENURE_BENCH_OUT";

/// All durations of one row of a table.
pub fn series(table: &str, name: &str, taken: &[Duration]) {
    row(table, name, &Value::Null, taken);
}

/// The same, with what has to hold for it: see [`beside`](crate::beside).
pub(crate) fn row(table: &str, name: &str, beside: &Value, taken: &[Duration]) {
    let [early, median, late] = [10, 50, 90].map(|percent| percentile(taken, percent));
    let samples = taken.len();
    println!(
        "  {table}: {name:<40} p10 {early:>9.2?}  median {median:>9.2?}  p90 {late:>9.2?}  ({samples})"
    );
    let nanos: Vec<u128> = taken.iter().map(Duration::as_nanos).collect();
    append(&json!({
        "kind": "series", "bench": bench(), "table": table, "name": name,
        "beside": beside, "nanos": nanos,
    }));
}

/// One number.
pub fn figure(table: &str, name: &str, value: f64, unit: &str) {
    println!("  {table}: {name:<40} {value:.2} {unit}");
    append(&json!({
        "kind": "figure", "bench": bench(), "table": table, "name": name,
        "value": value, "unit": unit,
    }));
}

/// The name of this benchmark: that of its program, without the hash that cargo adds.
fn bench() -> String {
    let program = env::args().next().unwrap_or_default();
    let stem = Path::new(&program).file_stem().unwrap_or_default();
    let stem = stem.to_string_lossy();
    let name = stem.rsplit_once('-').map_or(&*stem, |(name, _hash)| name);
    name.to_owned()
}

fn append(line: &Value) {
    let Some(path) = env::var_os(OUT).filter(|path| !path.is_empty()) else {
        return;
    };
    let file = OpenOptions::new().create(true).append(true).open(&path);
    // In one piece: benchmarks may run side by side.
    let line = format!("{line}\n");
    let written = file.and_then(|mut file| file.write_all(line.as_bytes()));
    written.unwrap_or_else(|error| panic!("{}: {error}", path.to_string_lossy()));
}
