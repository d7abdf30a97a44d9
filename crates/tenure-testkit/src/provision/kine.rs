//! kine, which serves etcd's API from a SQL database, and beside it the API server that is started on
//! it: what k3s is made of.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use anyhow::{Context, Result};

use super::go_module::GoModule;
use super::{cache_folder, kube_apiserver};
use crate::shell::is_executable;

/// The Go module that pins the release.
const MODULE: GoModule = GoModule {
    folder: "tests/kine",
    name: PROGRAM,
    pinned: "github.com/k3s-io/kine",
};
const PROGRAM: &str = "kine";

/// Where the programs are.
#[derive(Debug)]
pub(super) struct Kine {
    /// `kine` and `kube-apiserver`.
    pub(super) folder: PathBuf,
    /// `v0.17.5`
    pub(super) version: String,
}

/// Finds them in the cache, or builds them.
pub(super) fn provide() -> Result<Kine> {
    let version = MODULE.release()?;
    let api = kube_apiserver::provide()?;
    let folder = cache_folder()?.join(format!("{PROGRAM}-{version}"));
    fs::create_dir_all(&folder)?;
    let target = folder.join(PROGRAM);
    if !is_executable(&target) {
        MODULE
            .build(MODULE.pinned, "", &target)
            .with_context(|| format!("{PROGRAM} could not be built: install Go to build it"))?;
    }
    let link = folder.join("kube-apiserver");
    let _none_there = fs::remove_file(&link);
    symlink(&api.program, &link).with_context(|| format!("cannot make {}", link.display()))?;
    Ok(Kine { folder, version })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_module_pins_a_release() {
        let version = MODULE.release().unwrap();
        assert!(version.starts_with("v0."), "{version}");
    }
}
