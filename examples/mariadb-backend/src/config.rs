//! The URL, and the errors of the driver.

use std::io;
use std::time::Duration;

use mysql::consts::CapabilityFlags;
use mysql::{DriverError, Opts, OptsBuilder};
use tenure_core::{Error, ErrorKind};
use tenure_kit::{Address, Credentials, StoreError, Url, limits};

/// Where the locks are: `mariadb://user:password@host:3306/database`.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    server: Address,
    credentials: Credentials,
    database: String,
    timeout: Duration,
    /// Whether connecting makes the tables.
    pub(crate) create: bool,
}

impl Config {
    /// Reads a URL. No I/O.
    pub(crate) fn from_parsed(mut url: Url) -> Result<Self, Error> {
        let timeout = url.take_duration(&["request_timeout"])?;
        let config = Self {
            server: one(url.addresses(3306)?)?,
            credentials: url.take_credentials()?,
            database: url.path()?,
            timeout: timeout.unwrap_or(Duration::from_secs(5)),
            create: url.take_switch("create")?.unwrap_or(true),
        };
        limits::check_timeout("request_timeout", config.timeout)?;
        if config.database.is_empty() || config.database.contains('/') {
            return Err(Error::invalid_input(
                "the URL names no database; use mariadb://host:3306/database",
            ));
        }
        url.finish()?;
        Ok(config)
    }

    /// The options of the driver. Reads the password again for each connection.
    pub(crate) async fn options(&self) -> Result<OptsBuilder, StoreError> {
        let password = self.credentials.read_password().await?;
        Ok(OptsBuilder::new()
            .ip_or_hostname(Some(self.server.host()))
            .tcp_port(self.server.port())
            .user(self.credentials.user.as_deref())
            .pass(password)
            .db_name(Some(&self.database))
            .tcp_connect_timeout(Some(self.timeout))
            .read_timeout(Some(self.timeout))
            .write_timeout(Some(self.timeout))
            // A statement says which rows it found, not only which it changed.
            .additional_capabilities(CapabilityFlags::CLIENT_FOUND_ROWS)
            // Else the driver moves to the Unix socket that a server on this host names.
            .prefer_socket(false))
    }
}

/// The same with other time for each answer.
pub(crate) fn patient(options: OptsBuilder, limit: Duration) -> Opts {
    options.read_timeout(Some(limit)).into()
}

/// The locks of one server are unknown to all others.
fn one(mut servers: Vec<Address>) -> Result<Address, Error> {
    match (servers.pop(), servers.is_empty()) {
        (Some(server), true) => Ok(server),
        _ => Err(Error::invalid_input(
            "the URL names several servers; name the one that all candidates use",
        )),
    }
}

/// What a caller can do about an error of the driver.
pub(crate) fn failed(error: mysql::Error) -> StoreError {
    const TIMED_OUT: [io::ErrorKind; 2] = [io::ErrorKind::WouldBlock, io::ErrorKind::TimedOut];
    let (kind, message) = match &error {
        mysql::Error::MySqlError(error) => match error.code {
            1044 | 1045 | 1142 | 1227 => (
                ErrorKind::Forbidden,
                "the server refuses this user; GRANT CREATE, SELECT, INSERT, UPDATE, DELETE ON the \
                 database to it",
            ),
            1049 => (ErrorKind::Misconfigured, "the database does not exist"),
            1146 => (
                ErrorKind::Misconfigured,
                "the tables do not exist; connect once without create=off",
            ),
            1290 | 1792 | 1836 => (
                ErrorKind::Misconfigured,
                "the server is read-only; name the one that is written to",
            ),
            _ => (ErrorKind::Unavailable, "the server did not do it"),
        },
        mysql::Error::IoError(error) if TIMED_OUT.contains(&error.kind()) => {
            (ErrorKind::Timeout, "the server did not answer in time")
        }
        mysql::Error::DriverError(DriverError::ConnectTimeout) => {
            (ErrorKind::Timeout, "the server was not reached in time")
        }
        _ => (
            ErrorKind::Unavailable,
            "the connection to the server failed",
        ),
    };
    StoreError::new(kind, message).with_source(error)
}
