//! Planted bugs: each replaces pieces of the source, and the simulator must notice.
//!
//! They are text, so production code has no hooks for them. A piece that is not found exactly once
//! is an error: when the code changes, its mutants are looked at again.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use clap::ValueEnum as _;

use crate::invariant::Invariant;

/// A planted bug.
#[derive(Clone, Debug)]
pub struct Mutant {
    /// Its name.
    pub name: String,
    /// What it breaks: an invariant (I1 to I6), a hazard's number, or a promise of the contract.
    pub breaks: String,
    /// What the simulator must find broken: another invariant, a hang or a build that fails is
    /// no kill.
    pub invariant: Invariant,
    /// What it changes.
    pub edits: Vec<Edit>,
}

/// One change of one file.
#[derive(Clone, Debug)]
pub struct Edit {
    /// The file, from the workspace's root.
    pub file: String,
    find: Vec<String>,
    replace: Vec<String>,
}

impl Edit {
    /// The changed source.
    pub fn apply(&self, source: &str) -> Result<String> {
        let (find, replace) = (self.find.join("\n"), self.replace.join("\n"));
        let found = source.matches(&find).count();
        ensure!(
            found == 1,
            "the text is found {found} times in {}; the code has changed, so look at the mutant \
             again",
            self.file
        );
        Ok(source.replacen(&find, &replace, 1))
    }
}

/// The workspace's root.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// All planted bugs, from `mutants.txt`, whose first lines explain it.
pub fn read() -> Result<Vec<Mutant>> {
    let path = root().join("crates/tenure-sim/mutants.txt");
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let mut mutants = Vec::new();
    for (number, line) in text.lines().enumerate() {
        add(&mut mutants, line).with_context(|| format!("mutants.txt, line {}", number + 1))?;
    }
    Ok(mutants)
}

fn add(mutants: &mut Vec<Mutant>, line: &str) -> Result<()> {
    if let Some(title) = line.strip_prefix('[') {
        let (name, invariant) = title.split_once("] ").context("no `[name] invariant`")?;
        mutants.push(Mutant {
            name: name.to_owned(),
            breaks: String::new(),
            invariant: Invariant::from_str(invariant, false).map_err(anyhow::Error::msg)?,
            edits: Vec::new(),
        });
        return Ok(());
    }
    if line.is_empty() || line.starts_with('#') {
        return Ok(());
    }
    let mutant = mutants.last_mut().context("no `[name] invariant` before")?;
    if mutant.breaks.is_empty() {
        line.clone_into(&mut mutant.breaks);
        return Ok(());
    }
    match (line.split_at(1), mutant.edits.last_mut()) {
        (("-", text), Some(edit)) if edit.replace.is_empty() => edit.find.push(text.to_owned()),
        (("+", text), Some(edit)) => edit.replace.push(text.to_owned()),
        (("-" | "+", _), _) => bail!("no file before"),
        _ => mutant.edits.push(Edit {
            file: line.to_owned(),
            find: Vec::new(),
            replace: Vec::new(),
        }),
    }
    Ok(())
}
