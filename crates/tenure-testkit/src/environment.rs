//! What a run tells its tests by the environment, and where programs are.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

/// With it a test that would be left out fails.
pub const STRICT: &str = "TENURE_TEST_STRICT";

/// Says that a test is left out, and why. Panics when the run is strict.
pub fn left_out(what: &str) {
    let line = format!("LEFT OUT: {what}");
    assert!(env::var_os(STRICT).is_none(), "{line}");
    eprintln!("{line}");
}

/// The program with this name in the folders of PATH, then in those that Debian keeps out of an
/// ordinary user's PATH.
pub fn find(name: &str) -> Option<PathBuf> {
    let folders = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&folders)
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
}

/// The same; `None`, and a line that says so, where there is none.
pub fn program(name: &str) -> Option<PathBuf> {
    let found = find(name);
    if found.is_none() {
        left_out(&format!("no {name} on PATH"));
    }
    found
}

/// A folder inside cargo's target folder for what tests keep from one run to the next.
pub fn kept() -> PathBuf {
    let program = env::current_exe().unwrap();
    let target = program
        .ancestors()
        .find(|folder| folder.join("CACHEDIR.TAG").is_file());
    let folder = target.map_or_else(env::temp_dir, Path::to_path_buf);
    let folder = folder.join("tmp");
    fs::create_dir_all(&folder).unwrap();
    folder
}
