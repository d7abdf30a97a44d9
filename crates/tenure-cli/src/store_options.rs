//! Which lock on which store: options that many commands share.

#![allow(
    clippy::doc_markdown,
    reason = "these comments are the help text, which is not Markdown"
)]

use std::path::PathBuf;

use clap::Args;

use crate::backend_file;
use crate::failure::Failure;

/// Which store.
#[derive(Args, Debug)]
#[group(required = true, multiple = true)]
pub(crate) struct BackendArgs {
    /// The store's URL, such as "file:///directory" for the processes of one host, or
    /// "redis://host:6379"
    #[arg(
        long,
        env = "TENURE_BACKEND",
        hide_env_values = true,
        value_name = "URL"
    )]
    backend: Option<String>,
    /// A file with the store's URL, which other users may not read
    ///
    /// Its group may read it, since Kubernetes mounts secrets so for a container that is not root. The
    /// group may not write it: who writes it chooses the store.
    #[arg(long, env = "TENURE_BACKEND_FILE", value_name = "FILE")]
    backend_file: Option<PathBuf>,
}

impl BackendArgs {
    /// The store's URL. Warns before anything else is done with it where other users see it.
    pub(crate) fn url(&self) -> Result<String, Failure> {
        match (&self.backend, &self.backend_file) {
            (Some(_), Some(_)) => Err(Failure::new(
                "the store's URL is given twice; give --backend (TENURE_BACKEND) or --backend-file \
                 (TENURE_BACKEND_FILE), and unset the other",
            )),
            (_, Some(path)) => backend_file::read(path),
            (url, None) => {
                let url = url.clone().unwrap_or_default();
                backend_file::warn_of_password_in_arguments(&url);
                Ok(url)
            }
        }
    }
}

/// Which lock on which store.
#[derive(Args, Debug)]
pub(crate) struct LockArgs {
    #[command(flatten)]
    pub(crate) backend: BackendArgs,
    /// The lock's name, the same for all candidates: lowercase letters, digits, '-' and '.'
    #[arg(long, env = "TENURE_LOCK", value_name = "NAME")]
    pub(crate) lock: String,
}
