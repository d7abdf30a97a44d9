//! The mutation gate: plants one bug at a time and requires that the simulator notices.
//!
//! A mutant is killed by a seed in which it breaks the invariant that it names. Another broken
//! invariant is no kill, nor is a run that does not end, nor a build that fails.

use std::fmt;
use std::fs;
use std::io::{Read, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use clap::{Parser, ValueEnum as _};
use tenure_sim::mutants::{Mutant, read, root};

/// Plants one bug at a time into a copy of the core and runs the simulator on it. Fails if a bug
/// is not noticed.
#[derive(Debug, Parser)]
struct Options {
    /// Only this mutant; may be repeated.
    #[arg(long)]
    only: Vec<String>,
    /// Print the mutants and stop.
    #[arg(long)]
    list: bool,
    /// How many seeds a mutant may survive.
    #[arg(long, default_value_t = 1000)]
    seeds: u64,
    /// How many seeds the unmutated code must pass first.
    #[arg(long, default_value_t = 100)]
    clean_seeds: u64,
    /// How long each seed is simulated, in hours.
    #[arg(long, default_value_t = 1.0)]
    hours: f64,
    /// How many seconds a mutant's run may take; one that takes longer counts as a survivor.
    #[arg(long, default_value_t = 600)]
    limit: u64,
}

fn main() -> Result<ExitCode> {
    let options = Options::parse();
    let mut mutants = read()?;
    for name in &options.only {
        ensure!(
            mutants.iter().any(|mutant| mutant.name == *name),
            "there is no mutant {name:?}; see --list"
        );
    }
    mutants.retain(|mutant| options.only.is_empty() || options.only.contains(&mutant.name));
    if options.list {
        for mutant in mutants {
            let invariant = format!("{:?}", mutant.invariant);
            println!("{:36} {invariant:16} {}", mutant.name, mutant.breaks);
        }
        return Ok(ExitCode::SUCCESS);
    }
    gate(&options, &mutants)
}

fn gate(options: &Options, mutants: &[Mutant]) -> Result<ExitCode> {
    let started = Instant::now();
    let copy = Copy::make()?;
    if options.clean_seeds > 0 {
        match copy.run(options, options.clean_seeds, None)? {
            Outcome::Survived { others } if others.is_empty() => {}
            outcome => bail!("the unmutated code fails: {outcome:?}"),
        }
        println!("the unmutated code passes {} seeds", options.clean_seeds);
    }
    println!("| mutant | breaks | invariant | killed by seed | what was noticed | time |");
    println!("|---|---|---|---|---|---|");
    let mut survivors = Vec::new();
    for mutant in mutants {
        let began = Instant::now();
        let originals = copy.plant(mutant).with_context(|| mutant.name.clone())?;
        let outcome = copy.run(options, options.seeds, Some(mutant));
        // The last first: a file that was changed twice becomes what it was.
        for (path, original) in originals.into_iter().rev() {
            fs::write(path, original).context("cannot undo the mutant")?;
        }
        let (seed, noticed) = match outcome.with_context(|| mutant.name.clone())? {
            Outcome::Killed { seed, noticed } => (seed.to_string(), noticed),
            survived => {
                survivors.push(mutant.name.as_str());
                ("SURVIVES".to_owned(), survived.to_string())
            }
        };
        println!(
            "| {} | {} | {:?} | {seed} | {noticed} | {:.0?} |",
            mutant.name,
            mutant.breaks,
            mutant.invariant,
            began.elapsed()
        );
        std::io::stdout().flush()?;
    }
    println!(
        "{} of {} mutants killed in {:.0?}",
        mutants.len() - survivors.len(),
        mutants.len(),
        started.elapsed()
    );
    if survivors.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    println!("survivors: {}", survivors.join(", "));
    Ok(ExitCode::FAILURE)
}

/// A copy of the core and the simulator, in one place so that only what a mutant changes is
/// built again.
struct Copy {
    work: PathBuf,
    target: PathBuf,
}

#[derive(Debug)]
enum Outcome {
    Killed {
        seed: u64,
        noticed: String,
    },
    /// No seed broke the invariant; these broke others.
    Survived {
        others: Vec<String>,
    },
    Hangs,
    DoesNotBuild(String),
    /// The simulator itself failed.
    Failed(String),
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let first_line = |text: &str| text.lines().next().unwrap_or_default().to_owned();
        match self {
            Self::Killed { noticed, .. } => f.write_str(noticed),
            Self::Survived { others } if others.is_empty() => f.write_str("nothing was noticed"),
            Self::Survived { others } => write!(f, "only others: {}", others.join(", ")),
            Self::Hangs => f.write_str("it hangs"),
            Self::DoesNotBuild(errors) => write!(f, "it does not build: {}", first_line(errors)),
            Self::Failed(text) => write!(f, "the simulator failed: {}", first_line(text)),
        }
    }
}

impl Copy {
    fn make() -> Result<Self> {
        let root = root();
        let place = root.join("target").join("mutants");
        let work = place.join("work");
        if work.exists() {
            fs::remove_dir_all(&work).context("cannot remove the last copy")?;
        }
        for part in ["crates/tenure-core", "crates/tenure-sim"] {
            let src = format!("{part}/src");
            copy_tree(&root.join(&src), &work.join(src))?;
            let manifest = format!("{part}/Cargo.toml");
            fs::copy(root.join(&manifest), work.join(manifest)).context(part)?;
        }
        for file in ["Cargo.lock", "clippy.toml"] {
            fs::copy(root.join(file), work.join(file)).context(file)?;
        }
        let manifest = fs::read_to_string(root.join("Cargo.toml"))?;
        fs::write(work.join("Cargo.toml"), reduced(&manifest))?;
        Ok(Self {
            work,
            target: place.join("target"),
        })
    }

    /// Changes the sources, and returns what was in them before.
    fn plant(&self, mutant: &Mutant) -> Result<Vec<(PathBuf, String)>> {
        let mut originals = Vec::new();
        for edit in &mutant.edits {
            let path = self.work.join(&edit.file);
            let original = fs::read_to_string(&path).with_context(|| edit.file.clone())?;
            fs::write(&path, edit.apply(&original)?)?;
            originals.push((path, original));
        }
        Ok(originals)
    }

    /// Builds the copy and runs the simulator until a seed breaks the mutant's invariant.
    fn run(&self, options: &Options, seeds: u64, mutant: Option<&Mutant>) -> Result<Outcome> {
        let build = Command::new(env!("CARGO"))
            .args(["build", "--quiet", "--offline", "--release", "--bin", "sim"])
            .current_dir(&self.work)
            .env("CARGO_TARGET_DIR", &self.target)
            .env("CARGO_INCREMENTAL", "1")
            .env("CARGO_PROFILE_RELEASE_DEBUG", "0")
            // Most mutants die in the first seeds: the build takes longer than the run.
            .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "1")
            .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "64")
            .output()
            .context("cannot start cargo")?;
        if !build.status.success() {
            let errors = String::from_utf8_lossy(&build.stderr).into_owned();
            return Ok(Outcome::DoesNotBuild(errors));
        }
        let invariant = mutant.and_then(|mutant| mutant.invariant.to_possible_value());
        let until = match &invariant {
            Some(invariant) => vec!["--until", invariant.get_name()],
            None => vec!["--fail-fast"],
        };
        let child = Command::new(self.target.join("release").join("sim"))
            .args(["--seeds", &seeds.to_string()])
            .args(until)
            .args(["--hours", &options.hours.to_string()])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("cannot start the simulator")?;
        outcome(child, Duration::from_secs(options.limit))
    }
}

fn outcome(mut child: Child, limit: Duration) -> Result<Outcome> {
    let mut output = child.stdout.take().context("the simulator has no output")?;
    let reader = std::thread::spawn(move || {
        let mut text = String::new();
        output.read_to_string(&mut text).map(|_| text)
    });
    let deadline = Instant::now() + limit;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break Some(status);
        }
        if Instant::now() >= deadline {
            child.kill()?;
            child.wait()?;
            break None;
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    let text = reader
        .join()
        .map_err(|_| anyhow::anyhow!("the reader panicked"))??;
    // All seeds below a failed one were run too, so the lowest is the same on every machine.
    let lowest = text.lines().filter_map(failure).min();
    Ok(match (lowest, status) {
        (Some((seed, noticed)), _) => Outcome::Killed { seed, noticed },
        (None, None) => Outcome::Hangs,
        (None, Some(status)) if status.success() => Outcome::Survived {
            others: text.lines().filter_map(other).collect(),
        },
        (None, Some(status)) => Outcome::Failed(format!("it ended with {status}: {text}")),
    })
}

/// Reads `FAILED seed 7: Exclusive at 12s: terms 1 and 2 are both valid`.
fn failure(line: &str) -> Option<(u64, String)> {
    let (seed, noticed) = line.strip_prefix("FAILED seed ")?.split_once(": ")?;
    Some((seed.parse().ok()?, noticed.to_owned()))
}

/// Reads `OTHERS Exclusive in 3 seeds`.
fn other(line: &str) -> Option<String> {
    line.strip_prefix("OTHERS ").map(str::to_owned)
}

/// The workspace's manifest with only the core and the simulator as members.
fn reduced(manifest: &str) -> String {
    let mut reduced = String::new();
    let mut in_members = false;
    for line in manifest.lines() {
        if line.starts_with("members") {
            in_members = true;
            reduced.push_str("members = [\"crates/tenure-core\", \"crates/tenure-sim\"]\n");
        }
        let foreign = line.starts_with("tenure") && !line.starts_with("tenure-core ");
        if !in_members && !foreign {
            reduced.push_str(line);
            reduced.push('\n');
        }
        if in_members && line.trim_end().ends_with(']') {
            in_members = false;
        }
    }
    reduced
}

fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from).with_context(|| from.display().to_string())? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_tree(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}
