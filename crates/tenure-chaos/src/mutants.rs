//! Planted bugs of the mutation gate, built into a candidate: the suite must notice each.
//!
//! A simulator can look at things that a process cannot. So a mutant counts as noticed here when a
//! run with it is not green, whatever its own invariant is called.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use tenure_sim::mutants::{Mutant, read, root};

use crate::fault::Fault;

/// A mutant, and the run that shows it.
#[derive(Clone, Copy, Debug)]
pub struct Planted {
    /// Its name in `mutants.txt`.
    pub name: &'static str,
    /// The topology.
    pub backend: &'static str,
    /// The faults.
    pub faults: &'static [Fault],
    /// All candidates have one identity.
    pub namesakes: bool,
    /// Another place that the bug needs in a real process.
    pub also: Option<Place>,
}

/// A place of a file, and what becomes of it.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    file: &'static str,
    is: &'static str,
    becomes: &'static str,
}

const fn planted(name: &'static str, faults: &'static [Fault]) -> Planted {
    Planted {
        name,
        backend: "file",
        faults,
        namesakes: false,
        also: None,
    }
}

const fn on_redis(name: &'static str, faults: &'static [Fault]) -> Planted {
    Planted {
        backend: "redis",
        ..planted(name, faults)
    }
}

/// A directory guards once more: it looks whose file the record names before a term is given back.
const RELEASE_OF_A_FILE: Place = Place {
    file: "crates/tenure-file/src/directory.rs",
    is: "if let (Step::Renew | Step::Release, Some(alive)) = (write.step, &alive)",
    becomes: "if let (Step::Renew, Some(alive)) = (write.step, &alive)",
};

/// A simulation has numbers of its own.
const NUMBERS_OF_THE_SYSTEM: Place = Place {
    file: "crates/tenure-core/src/election/context.rs",
    is: "Self::System(random) => random(),",
    becomes: "Self::System(random) => random().map(|number| number % 2),",
};

/// Those that real processes are most likely to show.
pub const PLANTED: [Planted; 10] = [
    planted("valid-without-clock", &[Fault::Starve]),
    planted("permit-without-clock", &[Fault::Starve]),
    planted("until-too-early", &[Fault::Freeze]),
    Planted {
        also: Some(RELEASE_OF_A_FILE),
        ..planted("release-by-name", &[Fault::Freeze])
    },
    planted("withdraw-takes-anybody", &[Fault::Terminate]),
    // A directory reports the death of a holder, and that wakes the others.
    on_redis("candidate-never-wakes", &[Fault::Kill]),
    Planted {
        namesakes: true,
        ..planted("identity-adopts", &[Fault::Freeze])
    },
    planted("renews-after-the-work", &[Fault::Terminate]),
    on_redis("no-acquire-retry", &[Fault::StoreKill, Fault::StoreFreeze]),
    Planted {
        namesakes: true,
        also: Some(NUMBERS_OF_THE_SYSTEM),
        ..on_redis("campaign-numbers-repeat", &[Fault::Freeze])
    },
];

impl Place {
    fn apply(&self, source: &str) -> Result<String> {
        let found = source.matches(self.is).count();
        ensure!(found == 1, "it is found {found} times in {}", self.file);
        Ok(source.replacen(self.is, self.becomes, 1))
    }
}

/// A copy of the sources, in which one mutant at a time is planted.
#[derive(Debug)]
pub struct Copy {
    work: PathBuf,
    target: PathBuf,
}

impl Copy {
    /// The program with a mutant, or without, that was built before.
    pub fn built(name: Option<&str>) -> PathBuf {
        let target = root().join("target/chaos-mutants/target");
        target.join(named(name))
    }

    /// Makes it in `target/chaos-mutants`, from the files that git knows.
    pub fn make() -> Result<Self> {
        let root = root();
        let folder = root.join("target/chaos-mutants");
        let work = folder.join("work");
        if work.exists() {
            fs::remove_dir_all(&work)?;
        }
        let listed = Command::new("git")
            .args([
                "ls-files",
                "-z",
                "--cached",
                "--others",
                "--exclude-standard",
            ])
            .current_dir(&root)
            .output()
            .context("git ls-files")?;
        ensure!(listed.status.success(), "git ls-files failed");
        for file in String::from_utf8_lossy(&listed.stdout).split('\0') {
            let from = root.join(file);
            if file.is_empty() || !from.is_file() {
                continue;
            }
            let to = work.join(file);
            fs::create_dir_all(to.parent().unwrap_or(Path::new("/")))?;
            fs::copy(from, to).with_context(|| file.to_owned())?;
        }
        Ok(Self {
            work,
            target: folder.join("target"),
        })
    }

    /// Builds a candidate with a mutant, or without; the program's file.
    pub fn build(&self, planted: Option<&Planted>) -> Result<PathBuf> {
        let name = planted.map(|planted| planted.name);
        let originals = match planted {
            Some(planted) => self.plant(planted)?,
            None => Vec::new(),
        };
        let built = self.cargo_build();
        // The last first: a file that was changed twice becomes what it was.
        for (path, original) in originals.into_iter().rev() {
            fs::write(path, original)?;
        }
        built?;
        let program = self.target.join("debug/chaos-candidate");
        let named = self.target.join(named(name));
        fs::copy(program, &named)?;
        Ok(named)
    }

    fn plant(&self, planted: &Planted) -> Result<Vec<(PathBuf, String)>> {
        let mut originals = Vec::new();
        for edit in &mutant(planted.name)?.edits {
            let path = self.work.join(&edit.file);
            let original = fs::read_to_string(&path).with_context(|| edit.file.clone())?;
            fs::write(&path, edit.apply(&original)?)?;
            originals.push((path, original));
        }
        if let Some(place) = &planted.also {
            let path = self.work.join(place.file);
            let original = fs::read_to_string(&path).context(place.file)?;
            fs::write(&path, place.apply(&original)?)?;
            originals.push((path, original));
        }
        Ok(originals)
    }

    /// The candidate alone, for directories and Redis.
    fn cargo_build(&self) -> Result<()> {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let status = Command::new(cargo)
            .args([
                "build",
                "--quiet",
                "-p",
                "tenure-chaos",
                "--bin",
                "chaos-candidate",
            ])
            .args(["--no-default-features", "--features", "redis"])
            .current_dir(&self.work)
            .env("CARGO_TARGET_DIR", &self.target)
            .env("CARGO_PROFILE_DEV_DEBUG", "0")
            .status()
            .context("cargo build")?;
        ensure!(status.success(), "the candidate does not build");
        Ok(())
    }
}

fn named(name: Option<&str>) -> String {
    format!("candidate-{}", name.unwrap_or("clean"))
}

fn mutant(name: &str) -> Result<Mutant> {
    let all = read()?.into_iter();
    let mut named = all.filter(|mutant| mutant.name == name);
    named
        .next()
        .with_context(|| format!("there is no mutant {name:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_planted_mutant_is_one_of_the_gate() {
        for planted in PLANTED {
            mutant(planted.name).unwrap();
        }
    }

    #[test]
    fn each_other_place_stands_once_in_its_file() {
        for place in PLANTED.iter().filter_map(|planted| planted.also) {
            let source = fs::read_to_string(root().join(place.file)).unwrap();
            place.apply(&source).unwrap();
        }
    }
}
