//! A wall clock of a server that a test sets.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

use crate::environment::left_out;

/// The wall clock of the processes that are started with its [`environment`](Self::environment).
#[derive(Debug)]
pub struct WallClock {
    dir: TempDir,
}

impl WallClock {
    /// One that is right at first. `None`: left out.
    pub fn new() -> Option<Self> {
        let clock = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        let source = clock.dir.path().join("clock_shim.c");
        fs::write(&source, include_str!("wall_clock/clock_shim.c")).unwrap();
        let compiled = Command::new("cc")
            .args(["-shared", "-fPIC", "-o"])
            .arg(clock.library())
            .arg(&source)
            .arg("-ldl")
            .status();
        if !compiled.is_ok_and(|status| status.success()) {
            left_out("no C compiler for a server's wall clock that jumps");
            return None;
        }
        clock.set_ahead(0);
        // A server may run as another user.
        run_chmod(&clock.dir);
        Some(clock)
    }

    fn library(&self) -> PathBuf {
        self.dir.path().join("shim.so")
    }

    fn offset(&self) -> PathBuf {
        self.dir.path().join("offset")
    }

    /// Sets it ahead by so many seconds, or back with a negative number.
    pub fn set_ahead(&self, seconds: i64) {
        fs::write(self.offset(), seconds.to_string()).unwrap();
    }

    /// What gives a process this clock.
    pub fn environment(&self) -> [(&'static str, String); 2] {
        let text = |path: PathBuf| path.to_str().unwrap().to_owned();
        [
            ("LD_PRELOAD", text(self.library())),
            ("CLOCK_SHIM", text(self.offset())),
        ]
    }
}

#[cfg(unix)]
fn run_chmod(dir: &TempDir) {
    use std::os::unix::fs::PermissionsExt as _;

    let all = |mode| fs::Permissions::from_mode(mode);
    fs::set_permissions(dir.path(), all(0o755)).unwrap();
}

#[cfg(not(unix))]
fn run_chmod(_: &TempDir) {}
