//! What is kept in step.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;

use serde::{Deserialize, Serialize};

/// A configuration, as the central store numbers them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Config {
    /// Higher is newer; 0 before the first.
    pub(crate) revision: u64,
    pub(crate) content: String,
}

/// A configuration on its way to a replica, or as that has applied it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Applied {
    /// The fencing token of the leader that wrote it.
    pub(crate) token: u64,
    pub(crate) config: Config,
}

impl Applied {
    /// What the file holds; nothing yet is revision 0.
    pub(crate) fn load(path: &Path) -> io::Result<Self> {
        match fs::read(path) {
            Ok(bytes) => Ok(serde_json::from_slice(&bytes)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error),
        }
    }

    /// Replaces the file as a whole: whoever is killed meanwhile leaves the old one or the new.
    pub(crate) fn store(&self, path: &Path) -> io::Result<()> {
        let temporary = path.with_extension("new");
        let mut file = File::create(&temporary)?;
        file.write_all(&serde_json::to_vec(self)?)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    }
}
