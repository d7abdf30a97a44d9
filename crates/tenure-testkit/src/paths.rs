//! Where things are: the workspace, and the folder of the stores inside its target folder.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The workspace's root folder.
pub fn workspace() -> PathBuf {
    // Set by `cargo run`; the built-in path serves a binary that is called directly.
    let manifest = std::env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    manifest
        .ancestors()
        .nth(2)
        .map_or_else(|| manifest.clone(), Path::to_path_buf)
}

/// The folders of the stores.
#[derive(Debug, Clone)]
pub struct Dirs {
    /// `target/stores`
    pub root: PathBuf,
}

impl Dirs {
    /// Names the folders, and creates them when they are missing.
    pub fn open() -> Result<Self> {
        Self::at(workspace().join("target").join("stores"))
    }

    /// The same in a folder of the caller's choice.
    pub fn at(root: PathBuf) -> Result<Self> {
        let dirs = Self { root };
        // A server that runs as a user of its own must pass through, and has nothing to list.
        make_dir(&dirs.root, 0o711)?;
        make_dir(&dirs.run(), 0o700)?;
        make_dir(&dirs.logs(), 0o755)?;
        make_dir(&dirs.secrets(), 0o700)?;
        make_dir(&dirs.data(), 0o711)?;
        Ok(dirs)
    }

    /// Specifications and records of processes.
    pub fn run(&self) -> PathBuf {
        self.root.join("run")
    }

    /// One log a process; kept over `down`.
    pub fn logs(&self) -> PathBuf {
        self.root.join("logs")
    }

    /// Passwords, tokens and kubeconfigs, for nobody but the user who started the stores.
    pub fn secrets(&self) -> PathBuf {
        self.root.join("secrets")
    }

    /// The servers' own folders.
    pub fn data(&self) -> PathBuf {
        self.root.join("data")
    }

    /// What runs, in one file.
    pub fn state(&self) -> PathBuf {
        self.root.join("state.json")
    }

    /// The log of one process.
    pub fn log(&self, process: &str) -> PathBuf {
        self.logs().join(format!("{process}.log"))
    }
}

/// Creates a folder with its parents and sets its mode.
pub fn make_dir(path: &Path, mode: u32) -> Result<()> {
    fs::create_dir_all(path)
        .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(mode)))
        .with_context(|| format!("cannot create the folder {}", path.display()))
}

/// Writes a file that is there whole or not at all, with the given mode.
pub fn write_file(path: &Path, mode: u32, content: &[u8]) -> Result<()> {
    let part = path.with_extension(format!("part-{}", std::process::id()));
    let write = || -> std::io::Result<()> {
        let _ = fs::remove_file(&part);
        let mut file = std::os::unix::fs::OpenOptionsExt::mode(
            fs::OpenOptions::new().write(true).create_new(true),
            mode,
        )
        .open(&part)?;
        std::io::Write::write_all(&mut file, content)?;
        // The mode given at opening is cut by the umask.
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        drop(file);
        fs::rename(&part, path)
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

/// Removes a folder and what is in it; one that is missing is fine.
pub fn remove_dir(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// Removes a file; one that is missing is fine.
pub fn remove_file(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}
