//! Newer lines of etcd than the system's, with `etcdctl` and `etcdutl`: built from their Go
//! modules.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::cache_folder;
use super::go_module::GoModule;
use crate::shell::{capture, is_executable};

/// A line of etcd.
#[derive(Debug)]
pub struct EtcdLine(GoModule);

/// The newest release with `etcdutl snapshot restore --bump-revision` that most clusters run.
pub const ETCD_3_6: EtcdLine = EtcdLine(GoModule {
    folder: "tests/etcd-3.6",
    name: "etcd-3.6",
    pinned: "go.etcd.io/etcd/server/v3",
});

/// The line after it, for `cargo xtask test --more`.
pub const ETCD_3_7: EtcdLine = EtcdLine(GoModule {
    folder: "tests/etcd-3.7",
    name: "etcd-3.7",
    pinned: "go.etcd.io/etcd/server/v3",
});

/// Each program and its package.
const PROGRAMS: [(&str, &str); 3] = [
    ("etcd", "go.etcd.io/etcd/server/v3"),
    ("etcdctl", "go.etcd.io/etcd/etcdctl/v3"),
    ("etcdutl", "go.etcd.io/etcd/etcdutl/v3"),
];

/// Where the programs of a line are.
#[derive(Debug)]
pub struct NewerEtcd {
    /// Their folder.
    pub programs: PathBuf,
    /// `3.6.16`
    pub version: String,
}

impl EtcdLine {
    /// Finds the programs in the cache, or builds them.
    pub fn provide(&self) -> Result<NewerEtcd> {
        let folder = self.cached()?;
        fs::create_dir_all(&folder)?;
        for (program, package) in PROGRAMS {
            let target = folder.join(program);
            if is_executable(&target) {
                continue;
            }
            self.0.build(package, "", &target).with_context(|| {
                format!(
                    "{program} could not be built: install Go to build it from {}",
                    self.0.folder
                )
            })?;
        }
        let version = version(&folder)?;
        Ok(NewerEtcd {
            programs: folder,
            version,
        })
    }

    /// The folder of the programs, if they are in the cache.
    pub fn built(&self) -> Option<PathBuf> {
        let folder = self.cached().ok()?;
        let whole = PROGRAMS
            .iter()
            .all(|(program, _)| is_executable(&folder.join(program)));
        whole.then_some(folder)
    }

    fn cached(&self) -> Result<PathBuf> {
        Ok(cache_folder()?.join(format!("etcd-{}", self.0.release()?)))
    }
}

/// `3.6.16` out of `etcd Version: 3.6.16`.
fn version(folder: &Path) -> Result<String> {
    let answer = capture(Command::new(folder.join("etcd")).arg("--version"))?;
    let version = answer
        .lines()
        .find_map(|line| line.strip_prefix("etcd Version: "));
    let version = version.with_context(|| format!("etcd names no version: {answer}"))?;
    Ok(version.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_programs_of_a_line_are_of_one_release() {
        for (line, begin) in [(&ETCD_3_6, "v3.6."), (&ETCD_3_7, "v3.7.")] {
            let release = line.0.release().unwrap();
            assert!(release.starts_with(begin), "{release}");
            let text = line.0.text().unwrap();
            for (_, package) in PROGRAMS {
                let required = format!("\t{package} {release} // indirect");
                assert!(text.lines().any(|line| line == required), "{required}");
            }
        }
    }
}
