//! TLS settings: which files, and what is in them.

use std::fmt;
use std::path::{Path, PathBuf};

use tenure_core::{Error, ErrorKind};

use crate::limits::MAX_PEM_BYTES;
use crate::secret::read_bounded;
use crate::store_error::{StoreError, blocking};
use crate::url::Url;

#[cfg(feature = "rustls")]
#[doc(hidden)]
pub mod client;

/// How a TLS connection is made: the same settings on every store.
///
/// The files are read at each new connection, so that certificates can be renewed under a running
/// service. No I/O before that.
///
/// ```
/// use tenure_kit::Tls;
///
/// let tls = Tls::new()
///     .ca("/etc/redis/ca.pem")
///     .client_cert("/etc/redis/client.pem")
///     .client_key("/etc/redis/client.key")
///     .server_name("redis.internal");
/// assert!(tls.check().is_ok());
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    ca: Option<PathBuf>,
    client_cert: Option<PathBuf>,
    client_key: Option<PathBuf>,
    server_name: Option<String>,
}

/// Other names by which a store's own tools know the TLS settings, for URLs.
#[derive(Clone, Copy, Debug, Default)]
pub struct TlsNames<'a> {
    /// Of `ca`.
    pub ca: &'a [&'a str],
    /// Of `client_cert`.
    pub client_cert: &'a [&'a str],
    /// Of `client_key`.
    pub client_key: &'a [&'a str],
    /// Of `server_name`.
    pub server_name: &'a [&'a str],
}

impl Tls {
    /// TLS that trusts what the host's system trusts.
    pub fn new() -> Self {
        Self::default()
    }

    /// Trusts the certificate authorities in this PEM file, and not those of the system.
    #[must_use]
    pub fn ca(mut self, file: impl Into<PathBuf>) -> Self {
        self.ca = Some(file.into());
        self
    }

    /// Shows the server the certificate in this PEM file, with its chain. Needs
    /// [`client_key`](Self::client_key) too.
    #[must_use]
    pub fn client_cert(mut self, file: impl Into<PathBuf>) -> Self {
        self.client_cert = Some(file.into());
        self
    }

    /// The PEM file with the private key of [`client_cert`](Self::client_cert).
    #[must_use]
    pub fn client_key(mut self, file: impl Into<PathBuf>) -> Self {
        self.client_key = Some(file.into());
        self
    }

    /// The name that the server's certificate is for, if it is not the host in the address.
    #[must_use]
    pub fn server_name(mut self, name: impl Into<String>) -> Self {
        self.server_name = Some(name.into());
        self
    }

    /// The name that the certificate of a server at `host` must be for.
    pub fn name_of<'a>(&'a self, host: &'a str) -> &'a str {
        self.server_name.as_deref().unwrap_or(host)
    }

    /// The server's name that was set, if any.
    pub fn name(&self) -> Option<&str> {
        self.server_name.as_deref()
    }

    /// The error of a crate that was built without TLS. `of` is the crate's name.
    pub fn not_built_in(of: &str) -> Error {
        Error::misconfigured(format!(
            "TLS is not compiled in; turn on the feature \"ring\" or \"aws-lc-rs\" of {of}"
        ))
    }

    /// The name of one of the settings that are set, if any: for a message that says that they need
    /// TLS.
    pub fn first_setting(&self) -> Option<&'static str> {
        [
            ("ca", self.ca.is_some()),
            ("client_cert", self.client_cert.is_some()),
            ("client_key", self.client_key.is_some()),
            ("server_name", self.server_name.is_some()),
        ]
        .into_iter()
        .find_map(|(name, is_set)| is_set.then_some(name))
    }

    /// Takes the settings out of a URL, by their names and by a store's own.
    ///
    /// Fails with [`InvalidInput`](ErrorKind::InvalidInput) as [`check`](Self::check) does, and
    /// when one is given twice.
    pub fn take_from(url: &mut Url, own: TlsNames<'_>) -> Result<Self, Error> {
        let mut take = |name, own: &[&str]| url.take_any(&[&[name], own].concat());
        let tls = Self {
            ca: take("ca", own.ca)?.map(PathBuf::from),
            client_cert: take("client_cert", own.client_cert)?.map(PathBuf::from),
            client_key: take("client_key", own.client_key)?.map(PathBuf::from),
            server_name: take("server_name", own.server_name)?,
        };
        tls.check()?;
        Ok(tls)
    }

    /// Fails with [`InvalidInput`](ErrorKind::InvalidInput) when a certificate is without its key,
    /// a key without its certificate, or a setting empty. No I/O.
    pub fn check(&self) -> Result<(), Error> {
        let paths = [&self.ca, &self.client_cert, &self.client_key];
        let mut paths = paths.into_iter().flatten();
        if paths.any(|path| path.as_os_str().is_empty()) || self.server_name.as_deref() == Some("")
        {
            return Err(Error::invalid_input(
                "one of ca, client_cert, client_key and server_name is empty; leave it out",
            ));
        }
        if self.client_cert.is_some() != self.client_key.is_some() {
            return Err(Error::invalid_input(
                "client_cert and client_key belong together; give both or none",
            ));
        }
        Ok(())
    }

    /// Reads the files.
    ///
    /// Fails with [`Misconfigured`](ErrorKind::Misconfigured) when one cannot be read or holds
    /// nothing of what it should; the error names the setting and the file. Reads on a thread for
    /// blocking calls. Needs a tokio runtime; dropping the future leaves the read to end on its own.
    pub async fn read<D>(&self) -> Result<TlsMaterial, StoreError<D>> {
        let tls = self.clone();
        blocking(move || tls.read_now())
            .await?
            .map_err(misconfigured)
    }

    fn read_now(&self) -> Result<TlsMaterial, String> {
        const CERTIFICATE: &str = "CERTIFICATE";
        const KEY: &str = "PRIVATE KEY";
        let read = |setting, path: &Option<PathBuf>, holds| {
            path.as_deref()
                .map(|path| read_pem(setting, path, holds))
                .transpose()
        };
        Ok(TlsMaterial {
            ca: read("ca", &self.ca, CERTIFICATE)?,
            client_cert: read("client_cert", &self.client_cert, CERTIFICATE)?,
            client_key: read("client_key", &self.client_key, KEY)?,
        })
    }
}

/// What the files of [`Tls`] hold, as PEM. `Debug` shows none of it.
pub struct TlsMaterial {
    /// The authorities to trust; without them those of the system.
    pub ca: Option<Vec<u8>>,
    /// The certificate to show.
    pub client_cert: Option<Vec<u8>>,
    /// Its key; there when the certificate is.
    pub client_key: Option<Vec<u8>>,
}

impl fmt::Debug for TlsMaterial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsMaterial").finish_non_exhaustive()
    }
}

fn misconfigured<D>(message: String) -> StoreError<D> {
    StoreError::new(ErrorKind::Misconfigured, message)
}

fn read_pem(setting: &str, path: &Path, holds: &str) -> Result<Vec<u8>, String> {
    let shown = path.display();
    let bytes = read_bounded(path, MAX_PEM_BYTES)
        .map_err(|problem| format!("{setting}: {shown} {problem}"))?;
    // `BEGIN PRIVATE KEY` and `BEGIN EC PRIVATE KEY` both hold a key.
    let is_there = String::from_utf8_lossy(&bytes).lines().any(|line| {
        line.strip_prefix("-----BEGIN ").is_some_and(|rest| {
            rest.trim_end()
                .strip_suffix("-----")
                .is_some_and(|label| label.ends_with(holds))
        })
    });
    if is_there {
        return Ok(bytes);
    }
    Err(format!(
        "{setting}: {shown} holds no {} in PEM form (-----BEGIN {holds}-----)",
        holds.to_ascii_lowercase()
    ))
}

#[cfg(test)]
mod tests;
