//! Which release of etcd a cluster runs.

use std::env;
use std::path::PathBuf;
use std::process::Command;

use crate::environment::{find, left_out, program};

/// The variable with the folder of a newer release's `etcd`, `etcdctl` and `etcdutl`;
/// `cargo xtask test` sets it.
pub const NEWER: &str = "TENURE_TEST_ETCD_NEWER";

/// The variable with the folder of the release that all clusters run which name none; without it
/// they run what is on PATH.
pub const ALL: &str = "TENURE_TEST_ETCD_BIN";

/// The programs of a release.
#[derive(Clone, Debug)]
pub struct Programs {
    /// `None`: those on PATH.
    folder: Option<PathBuf>,
}

impl Programs {
    /// The release for tests that name none. `None`: left out.
    pub fn of_environment() -> Option<Self> {
        let folder = env::var_os(ALL).map(PathBuf::from);
        if folder.is_none() {
            program("etcd")?;
            program("etcdctl")?;
        }
        Some(Self { folder })
    }

    /// The newer release, or that of all clusters where one is named. `None`: left out.
    pub fn newer() -> Option<Self> {
        let folder = env::var_os(ALL).or_else(|| env::var_os(NEWER));
        let folder = folder.map(PathBuf::from);
        if folder.is_none() {
            left_out(&format!(
                "{NEWER} names no folder with a newer etcd; `cargo xtask test` builds one, then \
                 eval \"$(cargo xtask stores env)\" sets it"
            ));
        }
        Some(Self {
            folder: Some(folder?),
        })
    }

    /// A command of one of its programs.
    pub fn command(&self, program: &str) -> Command {
        let file = match &self.folder {
            Some(folder) => folder.join(program),
            None => find(program).unwrap(),
        };
        let mut command = Command::new(file);
        if cfg!(target_arch = "aarch64") {
            // Releases before 3.5 want to be told.
            command.env("ETCD_UNSUPPORTED_ARCH", "arm64");
        }
        command
    }
}
