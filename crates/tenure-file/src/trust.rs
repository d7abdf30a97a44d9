//! Who else can change what is in a directory: they could depose leaders, and make a process of
//! root write where it should not.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, Stat};
use tenure_core::Error;

use crate::errors::{Action, During as _, StoreError, Unsafe};
use crate::open_dir::OpenDir;

const ROOT: u32 = 0;
const STICKY: u32 = 0o1000;
const GROUP_SHARES: u32 = 0o2070;
const OTHERS_WRITE: u32 = 0o002;

/// The group that candidates of several users have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Group {
    name: String,
    id: u32,
}

impl Group {
    /// Looks a group up in `/etc/group`; a number stands for itself.
    pub(crate) fn find(name: &str) -> Result<Self, StoreError> {
        let found = |id| Self {
            name: name.to_owned(),
            id,
        };
        // The highest number stands for no group at all.
        if let Ok(id) = name.parse()
            && id != u32::MAX
        {
            return Ok(found(id));
        }
        let path = Path::new("/etc/group");
        let groups = fs::read_to_string(path).during(Action::Read, path)?;
        let id = groups.lines().find_map(|line| {
            let mut fields = line.split(':');
            let is_it = fields.next() == Some(name);
            is_it.then(|| fields.nth(1)?.parse().ok()).flatten()
        });
        id.map(found).ok_or_else(|| {
            StoreError::Untrusted(Unsafe {
                problem: format!("/etc/group has no group {name}"),
                remedy: format!("create it (groupadd {name}), or give its number"),
            })
        })
    }
}

/// Who may use a directory, and who makes it.
#[derive(Clone, Debug)]
pub(crate) struct Sharing {
    user: u32,
    group: Option<Group>,
}

impl Sharing {
    /// This user alone, or with a group.
    pub(crate) fn new(group: Option<Group>) -> Self {
        let user = rustix::process::geteuid().as_raw();
        Self { user, group }
    }

    /// The mode of a directory that is made.
    pub(crate) fn mode(&self) -> Mode {
        Mode::from_raw_mode(if self.group.is_some() { 0o2770 } else { 0o700 })
    }

    /// The group to give it to.
    pub(crate) fn group_id(&self) -> Option<u32> {
        self.group.as_ref().map(|group| group.id)
    }

    /// Whether nobody but those who are asked for can change what is in `dir`. What is only wider
    /// than it has to be is told as a warning.
    pub(crate) fn judge(&self, dir: &OpenDir) -> Result<Option<Unsafe>, StoreError> {
        self.judge_stat(dir.stat(), dir.own_path())
    }

    fn judge_stat(&self, stat: &Stat, path: &Path) -> Result<Option<Unsafe>, StoreError> {
        let shown = path.display();
        let fix = self.remedy(path, stat.st_uid);
        if let Some(group) = &self.group {
            if stat.st_gid != group.id || stat.st_mode & GROUP_SHARES != GROUP_SHARES {
                return Err(StoreError::Untrusted(Unsafe {
                    problem: format!("{shown} is not shared with the group {}", group.name),
                    remedy: fix,
                }));
            }
        } else if !self.is_trusted(stat.st_uid) {
            let owner = stat.st_uid;
            return Err(StoreError::Untrusted(Unsafe {
                problem: format!("{shown} belongs to user {owner}, who can change what is in it"),
                remedy: format!(
                    "run this program as user {owner}, or share the directory with a group \
                     (?group=NAME in the URL); only if user {owner} uses it no more: {fix}"
                ),
            }));
        }
        let unwanted = if self.group.is_some() { 0o007 } else { 0o077 };
        if stat.st_mode & unwanted == 0 {
            return Ok(None);
        }
        let may = if stat.st_mode & unwanted & 0o022 == 0 {
            "read"
        } else {
            "change"
        };
        Ok(Some(Unsafe {
            problem: format!(
                "others may {may} what is in {shown}, and so delay or depose a leader"
            ),
            remedy: fix,
        }))
    }

    /// The same of a lock's directory, in which users must be able to remove each other's files.
    pub(crate) fn judge_lock(&self, dir: &OpenDir) -> Result<Option<Unsafe>, StoreError> {
        if dir.stat().st_mode & STICKY != 0 {
            let shown = dir.own_path().display();
            return Err(StoreError::Untrusted(Unsafe {
                problem: format!(
                    "{shown} has the sticky bit, so candidates of several users cannot remove each \
                     other's files, and it would grow with every heartbeat"
                ),
                remedy: format!("chmod -t {shown}"),
            }));
        }
        self.judge(dir)
    }

    /// Whether no other user can lead the path elsewhere. Called before anything is made there.
    pub(crate) fn judge_way(&self, path: &Path) -> Result<Option<Unsafe>, StoreError> {
        let mut warning = None;
        // Without a "/" or "/." at the end, with which a link is followed.
        let path = &path.components().collect::<PathBuf>();
        for step in path.ancestors().collect::<Vec<_>>().into_iter().rev() {
            let found = match fs::symlink_metadata(step) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => break,
                found => found.during(Action::Read, step)?,
            };
            let (shown, user) = (step.display(), found.uid());
            if found.is_symlink() && !self.is_trusted(user) {
                return Err(StoreError::Untrusted(Unsafe {
                    problem: format!(
                        "{shown} is a symbolic link of user {user}, who can lead it anywhere"
                    ),
                    remedy: "remove it, or use a path without it".to_owned(),
                }));
            }
            let is_open = found.mode() & OTHERS_WRITE != 0 && found.mode() & STICKY == 0;
            if step != path && found.is_dir() && (is_open || !self.is_trusted(user)) {
                warning = Some(Unsafe {
                    problem: format!(
                        "others can put another directory in the place of {}, since they may \
                         change {shown}",
                        path.display()
                    ),
                    remedy: "use a directory below one that only root or this user may change, \
                             such as /var/lib/my-service"
                        .to_owned(),
                });
            }
        }
        Ok(warning)
    }

    fn is_trusted(&self, user: u32) -> bool {
        user == ROOT || user == self.user
    }

    /// The command for a directory, and for all that is in it: a record that its maker alone may
    /// read would keep the lock from everybody else.
    fn remedy(&self, path: &Path, owner: u32) -> String {
        let path = quoted(path);
        match &self.group {
            Some(group) => format!(
                "chgrp -R {} {path} && chmod -R g+rwX,o= {path} && find {path} -type d -exec \
                 chmod g+s {{}} +",
                group.name
            ),
            None if owner == self.user => format!("chmod -R go= {path}"),
            None => format!("chown -R {} {path} && chmod -R go= {path}", self.user),
        }
    }
}

/// A path as a shell reads it.
fn quoted(path: &Path) -> String {
    let path = path.to_string_lossy();
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@".contains(c);
    if path.chars().all(is_plain) {
        path.into_owned()
    } else {
        format!(
            "'{}'",
            path.escape_debug().to_string().replace('\'', r"'\''")
        )
    }
}

/// Refuses what cannot be the name of a group, before any I/O.
pub(crate) fn check_group_name(name: &str) -> Result<(), Error> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
    if !name.is_empty() && name.bytes().all(is_plain) {
        return Ok(());
    }
    Err(Error::invalid_input(format!(
        "{:?} is not the name of a group: use letters, digits, '_', '-' and '.', or the group's \
         number",
        name.chars().take(64).collect::<String>()
    )))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn the_remedy_for_ones_own_directory_changes_no_owner() {
        let place = tempfile::TempDir::new().unwrap();
        fs::set_permissions(place.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let dir = OpenDir::open(place.path()).unwrap();
        let warning = Sharing::new(None).judge(&dir).unwrap().unwrap();
        assert!(warning.remedy.starts_with("chmod -R go="), "{warning}");
        let others = Sharing {
            user: 12345,
            group: None,
        };
        let remedy = others.remedy(place.path(), 65534);
        assert!(remedy.starts_with("chown -R 12345"), "{remedy}");
    }
}
