//! A directory of this host, or of a small disk that can be full.

use std::fs;
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use tenure_conformance::async_trait;
use tenure_conformance::proxy::FaultProxy;

use crate::fault::Fault;
use crate::stores::topology::{Applies, LOCK, Store, beyond, within};

/// The topologies `file` and `file-small-disk`.
pub(super) struct File {
    directory: PathBuf,
    disk: Option<Disk>,
}

/// A file system of its own; unmounted on drop.
struct Disk(PathBuf);

/// The size of a small disk.
const SIZE: &str = "size=1m";

impl Disk {
    /// `None` where this user may not mount one.
    fn mount(at: &Path) -> Option<Self> {
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", SIZE, "tenure-chaos"]);
        let mounted = mount.arg(at).stderr(Stdio::null()).status();
        let mounted = mounted.is_ok_and(|status| status.success());
        mounted.then(|| Self(at.to_owned()))
    }

    fn ballast(&self) -> PathBuf {
        self.0.join("ballast")
    }

    /// Writes until there is no room.
    fn fill(&self) -> Result<String> {
        let mut ballast = fs::File::create(self.ballast())?;
        loop {
            match ballast.write_all(&[0; 4096]) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::StorageFull => {
                    return Ok(error.to_string());
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _gone = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

impl File {
    pub(super) fn start(directory: &Path) -> Result<Self> {
        let directory = directory.join("store");
        fs::create_dir(&directory)?;
        Ok(Self {
            directory,
            disk: None,
        })
    }

    /// `None` where this user may not mount a disk.
    pub(super) fn on_small_disk(directory: &Path) -> Result<Option<Self>> {
        let disk = directory.join("disk");
        fs::create_dir(&disk)?;
        let Some(mounted) = Disk::mount(&disk) else {
            return Ok(None);
        };
        let directory = disk.join("store");
        fs::create_dir(&directory)?;
        Ok(Some(Self {
            directory,
            disk: Some(mounted),
        }))
    }

    fn lock(&self) -> PathBuf {
        self.directory.join(LOCK)
    }

    /// The newest record.
    fn record(&self) -> Result<PathBuf> {
        let mut newest = None;
        for entry in fs::read_dir(self.lock())? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            // Versions have leading zeros, so they sort as text.
            if name.starts_with("record-") {
                newest = newest.max(Some(name));
            }
        }
        let name = newest.context("no record")?;
        Ok(self.lock().join(name))
    }
}

#[async_trait]
impl Store for File {
    fn name(&self) -> &'static str {
        if self.disk.is_some() {
            "file-small-disk"
        } else {
            "file"
        }
    }

    fn url(&self, _candidate: usize) -> String {
        format!("file://{}", self.directory.display())
    }

    fn proxies(&self, _candidate: usize) -> &[FaultProxy] {
        &[]
    }

    fn faults(&self) -> Vec<Applies> {
        const REMOVED: &str = "file: removing a lock's directory takes the lock from its leader, \
                               which notices at its next heartbeat";
        let full = self.disk.iter().map(|_| within(Fault::DiskFull));
        let mut all: Vec<Applies> = full.collect();
        all.extend([
            within(Fault::RecordCorrupted),
            within(Fault::ForeignWriter),
            beyond(Fault::KeyDeleted, REMOVED),
        ]);
        all
    }

    fn forgets_tokens(&self, fault: Fault) -> bool {
        fault == Fault::KeyDeleted
    }

    async fn strike(&mut self, fault: Fault, _lasts: Duration) -> Result<String> {
        match fault {
            Fault::RecordCorrupted => {
                let record = self.record()?;
                fs::write(&record, b"\0garbage\xff")?;
                Ok(format!("wrote garbage to {}", record.display()))
            }
            Fault::ForeignWriter => {
                let path = self.lock().join("foreign");
                fs::write(&path, "a file that is no record")?;
                Ok(format!("made {}", path.display()))
            }
            Fault::KeyDeleted => {
                // A candidate may make a file meanwhile.
                while self.lock().exists() {
                    let _again = fs::remove_dir_all(self.lock());
                }
                Ok("the lock's directory is gone".to_owned())
            }
            Fault::DiskFull => self.disk.as_ref().context("no disk of its own")?.fill(),
            _ => bail!("{fault} does not apply"),
        }
    }

    async fn heal(&mut self, fault: Fault) -> Result<String> {
        if let (Fault::DiskFull, Some(disk)) = (fault, &self.disk) {
            fs::remove_file(disk.ballast())?;
        }
        if fault == Fault::ForeignWriter {
            let path = self.lock().join("foreign");
            ensure!(path.exists(), "somebody removed {}", path.display());
            fs::remove_file(path)?;
        }
        Ok(String::new())
    }
}
