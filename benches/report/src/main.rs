//! Writes the report of the benchmarks: `docs/benchmarks/all.md` and its two charts, from the lines that
//! the benchmarks have written (`benches/record.rs`). `cargo xtask bench` calls it.
//!
//! It knows no store: the lines name the stores, the operations beside which something must hold,
//! and why it may not. What people have written stays: it includes `docs/benchmarks/notes.md`.

mod charts;
mod figures;
mod page;

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail};

use figures::Figures;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [lines, docs] = arguments.as_slice() else {
        bail!("usage: tenure-bench-report <file of lines> <docs folder>");
    };
    let text = fs::read_to_string(lines).with_context(|| format!("cannot read {lines}"))?;
    let (figures, docs) = (Figures::read(&text)?, Path::new(docs));
    let folder = docs.join("benchmarks");
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let mut drawn = Vec::new();
    for chart in [charts::failover(&figures), charts::hand_over(&figures)] {
        match chart.svg() {
            Some(svg) => {
                save(&folder.join(format!("{}.svg", chart.name)), &svg)?;
                drawn.push(chart);
            }
            None => eprintln!("no figures for {}.svg: it is left as it was", chart.name),
        }
    }
    let notes = fs::read_to_string(folder.join("notes.md")).unwrap_or_default();
    let page = page::write(&figures, &drawn, notes.trim());
    save(&folder.join("all.md"), &page)
}

fn save(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    eprintln!("written: {}", path.display());
    Ok(())
}
