//! What a benchmark has measured, as one line of JSON each, for the report: appended to the file
//! that `TENURE_BENCH_OUT` names, if it is set.
//!
//! Shared as a file, since the benchmarks are packages of two workspaces. The lines are read by
//! `benches/report/src/figures.rs`.

use std::env;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

/// The file that the lines go to.
const OUT: &str = "TENURE_BENCH_OUT";

/// All durations of one kind of call, and the name of the series in the same table that it is
/// beside.
pub fn series(table: &str, name: &str, floor: Option<&str>, taken: &[Duration]) {
    let line = start("series", table, name);
    let floor = floor.map_or_else(|| "null".to_owned(), quoted);
    let nanos: Vec<String> = taken.iter().map(|one| one.as_nanos().to_string()).collect();
    let nanos = nanos.join(",");
    append(line, &format!(",\"floor\":{floor},\"nanos\":[{nanos}]"));
}

/// One number.
pub fn figure(table: &str, name: &str, value: f64, unit: &str) {
    let line = start("figure", table, name);
    let rest = format!(",\"value\":{value},\"unit\":{}", quoted(unit));
    append(line, &rest);
}

/// A line without its end.
fn start(kind: &str, table: &str, name: &str) -> String {
    format!(
        "{{\"kind\":{},\"bench\":{},\"table\":{},\"name\":{}",
        quoted(kind),
        quoted(&bench()),
        quoted(table),
        quoted(name),
    )
}

/// The name of this benchmark: that of its program, without the hash that cargo adds.
fn bench() -> String {
    let program = env::args().next().unwrap_or_default();
    let stem = Path::new(&program).file_stem().unwrap_or_default();
    let stem = stem.to_string_lossy();
    let name = stem.rsplit_once('-').map_or(&*stem, |(name, _hash)| name);
    name.to_owned()
}

fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for character in text.chars() {
        if matches!(character, '"' | '\\') {
            quoted.push('\\');
        }
        assert!(!character.is_control(), "{text:?} is no name");
        quoted.push(character);
    }
    quoted.push('"');
    quoted
}

fn append(start: String, rest: &str) {
    let path = env::var_os(OUT).filter(|path| !path.is_empty());
    let Some(path) = path else {
        return;
    };
    let file = OpenOptions::new().create(true).append(true).open(&path);
    // In one piece: benchmarks may run side by side.
    let line = start + rest + "}\n";
    let written = file.and_then(|mut file| file.write_all(line.as_bytes()));
    written.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}
