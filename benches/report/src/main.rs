//! Writes the report of the benchmarks: `docs/benchmarks.md` and its plots, from the lines that
//! the benchmarks have written (`benches/record.rs`). `cargo xtask bench` calls it.
//!
//! What people have written stays: `docs/benchmarks/notes.md` is included as it is.

mod figures;
mod plots;
mod tables;
mod targets;

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
    write(&Figures::read(&text)?, Path::new(docs))
}

/// Writes everything into the folder of the documentation.
fn write(figures: &Figures, docs: &Path) -> Result<()> {
    let folder = docs.join("benchmarks");
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let mut drawn = Vec::new();
    for plot in plots::PLOTS {
        let svg = plots::draw(plot, figures)?;
        let file = format!("{}.svg", plot.name);
        match svg {
            Some(svg) => {
                save(&folder.join(&file), &svg)?;
                drawn.push(plot);
            }
            None => eprintln!("no figures for {file}: it is left as it was"),
        }
    }
    let notes = fs::read_to_string(folder.join("notes.md")).unwrap_or_default();
    let page = tables::page(figures, &drawn, notes.trim());
    save(&docs.join("benchmarks.md"), &page)
}

fn save(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    eprintln!("written: {}", path.display());
    Ok(())
}
