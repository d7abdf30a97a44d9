//! How a store's processes are started: its folders, its specifications, its children.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Child;

use anyhow::{Context, Result};

use super::kind::Kind;
use super::process::{self, Hold, Spec};
use super::user::{User, can_reach, give};
use crate::bound::Ending;
use crate::paths::{self, Dirs};

/// What a store's `start` works with.
pub(super) struct Launch<'a> {
    pub(super) dirs: &'a Dirs,
    pub(super) hold: Hold,
    pub(super) kind: Kind,
    pub(super) children: &'a mut Vec<(String, Child)>,
}

impl Launch<'_> {
    /// An empty folder for a process, owned by the user it runs as.
    pub(super) fn folder(&self, process: &str, user: Option<&User>) -> Result<PathBuf> {
        let mut parent = self.dirs.data();
        if user.is_some_and(|user| !can_reach(user, &parent)) {
            // A checkout inside somebody's private home, say.
            parent = outside(self.dirs);
            if let Err(error) = fs::create_dir(&parent) {
                // Everybody may write there: what is found must be ours, and no link.
                let ours = fs::symlink_metadata(&parent).is_ok_and(|seen| {
                    seen.is_dir() && seen.uid() == rustix::process::geteuid().as_raw()
                });
                if !ours {
                    return Err(error)
                        .with_context(|| format!("cannot create {}", parent.display()));
                }
            }
            paths::make_dir(&parent, 0o711)?;
        }
        let folder = parent.join(process);
        paths::remove_dir(&folder)?;
        paths::make_dir(&folder, 0o700)?;
        give(&folder, user)?;
        Ok(folder)
    }

    pub(super) fn spec(
        &self,
        name: &str,
        program: PathBuf,
        folder: PathBuf,
        ending: Ending,
    ) -> Spec {
        Spec {
            name: name.to_owned(),
            kind: self.kind,
            program,
            args: Vec::new(),
            env: BTreeMap::new(),
            folder,
            log: self.dirs.log(name),
            user: None,
            ending,
        }
    }

    pub(super) fn run(&mut self, spec: &Spec) -> Result<()> {
        paths::remove_file(&spec.log)?;
        let child = process::start(self.dirs, spec, self.hold)?;
        self.children.push((spec.name.clone(), child));
        Ok(())
    }
}

/// Where data go whose server's user may not enter the work tree: one folder for each checkout.
pub(super) fn outside(dirs: &Dirs) -> PathBuf {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in dirs.root.as_os_str().as_encoded_bytes() {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    }
    Path::new("/var/tmp").join(format!("tenure-stores-{hash:016x}"))
}
