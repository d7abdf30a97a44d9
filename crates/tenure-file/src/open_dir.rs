//! An open directory. All that is done in it is done by its descriptor, and no link is followed:
//! a link that another user puts in its place leads nobody elsewhere.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fd::{AsFd as _, OwnedFd};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::errors::{Action, During as _, StoreError};

/// A directory that was opened, and which it is.
#[derive(Debug)]
pub(crate) struct OpenDir {
    fd: OwnedFd,
    path: PathBuf,
    stat: Stat,
}

const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::CLOEXEC);

impl OpenDir {
    /// Opens the directory that the path leads to. Who may have put links into the path is
    /// checked by [`trust`](crate::trust).
    pub(crate) fn open(path: &Path) -> Result<Self, StoreError> {
        let opened = rustix::fs::open(path, DIRECTORY, Mode::empty());
        Self::of(opened, path.to_owned())
    }

    /// Opens a directory in this one.
    pub(crate) fn directory(&self, name: &str) -> Result<Self, StoreError> {
        let flags = DIRECTORY | OFlags::NOFOLLOW;
        let opened = match rustix::fs::openat(&self.fd, name, flags, Mode::empty()) {
            // What Linux says of a link that is to be a directory.
            Err(Errno::NOTDIR) if self.leads_elsewhere(name) => Err(Errno::LOOP),
            opened => opened,
        };
        Self::of(opened, self.path(name))
    }

    fn leads_elsewhere(&self, name: &str) -> bool {
        let is_symlink = |stat: Stat| FileType::from_raw_mode(stat.st_mode) == FileType::Symlink;
        self.stat_of(name).is_ok_and(is_symlink)
    }

    fn of(opened: rustix::io::Result<OwnedFd>, path: PathBuf) -> Result<Self, StoreError> {
        let open = || {
            let fd = opened?;
            let stat = rustix::fs::fstat(&fd)?;
            Ok((fd, stat))
        };
        let (fd, stat) = open()
            .map_err(|error: Errno| io::Error::from(error))
            .during(Action::List, &path)?;
        Ok(Self { fd, path, stat })
    }

    /// Owner, group and mode when it was opened.
    pub(crate) fn stat(&self) -> &Stat {
        &self.stat
    }

    pub(crate) fn own_path(&self) -> &Path {
        &self.path
    }

    /// Where that name is, to be shown.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Opens a file for reading without ever waiting: a pipe put in its place must not hang us.
    pub(crate) fn open_plain(&self, name: &str) -> io::Result<File> {
        self.open_file(name, OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty())
    }

    /// Opens whatever has this name only to ask which file it is: needs no permission to read it.
    pub(crate) fn open_handle(&self, name: &str) -> io::Result<File> {
        #[cfg(target_os = "linux")]
        let flags = OFlags::PATH;
        #[cfg(not(target_os = "linux"))]
        let flags = OFlags::RDONLY | OFlags::NONBLOCK;
        self.open_file(name, flags, Mode::empty())
    }

    /// Makes a new file. Whatever the umask, it gives others no more than its directory does.
    pub(crate) fn create(&self, name: &str) -> io::Result<File> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
        let file = self.open_file(name, flags, Mode::RUSR | Mode::WUSR)?;
        let mode = Mode::from_raw_mode(self.stat.st_mode & 0o066) | Mode::RUSR | Mode::WUSR;
        rustix::fs::fchmod(&file, mode)?;
        Ok(file)
    }

    fn open_file(&self, name: &str, flags: OFlags, mode: Mode) -> io::Result<File> {
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(rustix::fs::openat(&self.fd, name, flags, mode)?.into())
    }

    /// Makes a directory.
    pub(crate) fn make(&self, name: &str, mode: Mode) -> io::Result<()> {
        Ok(rustix::fs::mkdirat(&self.fd, name, mode)?)
    }

    /// Gives this directory to a group, and sets its mode whatever the umask.
    pub(crate) fn share(&self, group: Option<u32>, mode: Mode) -> io::Result<()> {
        if let Some(group) = group {
            let group = rustix::fs::Gid::from_raw(group);
            rustix::fs::fchown(&self.fd, None, Some(group))?;
        }
        Ok(rustix::fs::fchmod(&self.fd, mode)?)
    }

    /// Gives a file a second name (a hard link); fails if something has it.
    pub(crate) fn name_again(&self, from: &str, to: &str) -> io::Result<()> {
        let flags = AtFlags::empty();
        Ok(rustix::fs::linkat(&self.fd, from, &self.fd, to, flags)?)
    }

    pub(crate) fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        Ok(rustix::fs::renameat(&self.fd, from, &self.fd, to)?)
    }

    /// Renames, unless something has the new name. A file system that cannot do that in one step
    /// puts it in the place of an empty directory: a writer in that one finds it gone.
    pub(crate) fn rename_new(&self, from: &str, to: &str) -> io::Result<()> {
        #[cfg(target_os = "linux")]
        {
            let flags = rustix::fs::RenameFlags::NOREPLACE;
            match rustix::fs::renameat_with(&self.fd, from, &self.fd, to, flags) {
                Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {}
                renamed => return Ok(renamed?),
            }
        }
        self.rename(from, to)
    }

    pub(crate) fn remove(&self, name: &str) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(&self.fd, name, AtFlags::empty())?)
    }

    pub(crate) fn remove_directory(&self, name: &str) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(&self.fd, name, AtFlags::REMOVEDIR)?)
    }

    /// What has this name; a link itself, not what it leads to.
    pub(crate) fn stat_of(&self, name: &str) -> io::Result<Stat> {
        Ok(rustix::fs::statat(
            &self.fd,
            name,
            AtFlags::SYMLINK_NOFOLLOW,
        )?)
    }

    /// The names in it, as they stand at one [moment](crate::listing).
    pub(crate) fn names(&self) -> io::Result<Vec<String>> {
        crate::listing::names(self.fd.as_fd())
    }

    pub(crate) fn sync(&self) -> io::Result<()> {
        Ok(rustix::fs::fsync(&self.fd)?)
    }
}
