//! The user that a server runs as: `PostgreSQL` refuses to run as root.

use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::shell::capture;

/// The user that a server runs as, where it must not be root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct User {
    pub(crate) name: String,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// Whom to run as: nobody else when this is no root.
pub(super) fn ordinary_user() -> Result<Option<User>> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    for name in ["postgres", "nobody"] {
        let id = |flag| -> Option<u32> {
            let answer = capture(Command::new("id").args([flag, name])).ok()?;
            answer.trim().parse().ok()
        };
        if let (Some(uid), Some(gid)) = (id("-u"), id("-g")) {
            return Ok(Some(User {
                name: name.to_owned(),
                uid,
                gid,
            }));
        }
    }
    bail!("PostgreSQL refuses to run as root, and there is no user `postgres` or `nobody`")
}

pub(super) fn run_as(command: &mut Command, user: Option<&User>) {
    if let Some(user) = user {
        command.uid(user.uid).gid(user.gid);
    }
}

/// Makes a file or folder the user's own.
pub(super) fn give(path: &Path, user: Option<&User>) -> Result<()> {
    let Some(user) = user else { return Ok(()) };
    chown(path, Some(user.uid), Some(user.gid))
        .with_context(|| format!("cannot give {} to {}", path.display(), user.name))
}

/// Whether a user may pass through a folder and all those above it.
pub(super) fn can_reach(user: &User, folder: &Path) -> bool {
    folder.ancestors().all(|folder| {
        fs::metadata(folder).is_ok_and(|seen| {
            let bit = if seen.uid() == user.uid {
                0o100
            } else if seen.gid() == user.gid {
                0o010
            } else {
                0o001
            };
            seen.mode() & bit != 0
        })
    })
}
