//! User, database and password of a new connection, from where libpq would take them.

use std::io;
use std::path::{Path, PathBuf};

use tenure_core::ErrorKind;
use tenure_kit::Address;
use tokio::task::spawn_blocking;

use crate::config::PostgresConfig;
use crate::errors::StoreError;

/// As whom, and where to.
pub(crate) struct Account {
    pub(crate) user: Option<String>,
    pub(crate) database: Option<String>,
    pub(crate) password: Option<String>,
}

impl Account {
    /// Read for each connection, so that a password can change under a running service.
    pub(crate) async fn read(
        config: &PostgresConfig,
        address: &Address,
    ) -> Result<Self, StoreError> {
        let user = config
            .credentials
            .user
            .clone()
            .or_else(|| variable("PGUSER"));
        let database = config.database.clone().or_else(|| variable("PGDATABASE"));
        let of_user = user.as_deref().unwrap_or_default();
        let of_database = database.as_deref().unwrap_or(of_user);
        Ok(Self {
            password: password(config, address, of_database, of_user).await?,
            user,
            database,
        })
    }
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

async fn password(
    config: &PostgresConfig,
    address: &Address,
    database: &str,
    user: &str,
) -> Result<Option<String>, StoreError> {
    if let Some(password) = &config.credentials.password {
        return password.read("password").await.map(Some);
    }
    // Before the file, as in libpq.
    if let Some(password) = variable("PGPASSWORD") {
        return Ok(Some(password));
    }
    let named = config.passfile.clone();
    let named = named.or_else(|| variable("PGPASSFILE").map(PathBuf::from));
    let is_named = named.is_some();
    let usual = || variable("HOME").map(|home| PathBuf::from(home).join(".pgpass"));
    if let Some(file) = named.or_else(usual) {
        // On a thread for blocking calls: the file may be on a network file system.
        let reading = spawn_blocking(move || read_passfile(&file, is_named)).await;
        let text = reading.map_err(|_| StoreError::runtime_is_gone())??;
        let wanted = [address.host(), &address.port().to_string(), database, user];
        if let Some(password) = find_password(&text, wanted) {
            return Ok(Some(password));
        }
    }
    Ok(None)
}

/// The file's text; none if there is no such file where `~/.pgpass` usually is.
///
/// Fails if others may read it, as libpq does not use it then.
fn read_passfile(file: &Path, is_named: bool) -> Result<String, StoreError> {
    let name = file.display();
    let wrong = |what: String| {
        let message = format!("passfile: {name} {what}");
        StoreError::new(ErrorKind::Misconfigured, message)
    };
    if others_may_read(file) {
        return Err(wrong(format!("can be read by others; chmod 600 {name}")));
    }
    match std::fs::read_to_string(file) {
        Ok(text) => Ok(text),
        Err(error) if !is_named && error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(wrong(format!("cannot be read: {error}"))),
    }
}

#[cfg(unix)]
fn others_may_read(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;

    let found = std::fs::metadata(file);
    found.is_ok_and(|found| found.permissions().mode() & 0o077 != 0)
}

#[cfg(not(unix))]
fn others_may_read(_: &Path) -> bool {
    false
}

/// The password of the first line whose four fields are `wanted` or `*`.
fn find_password(passfile: &str, wanted: [&str; 4]) -> Option<String> {
    passfile
        .lines()
        .filter(|line| !line.starts_with('#'))
        .find_map(|line| {
            let mut fields = vec![String::new()];
            let mut characters = line.chars();
            while let Some(c) = characters.next() {
                match c {
                    '\\' => fields.last_mut()?.extend(characters.next()),
                    ':' if fields.len() < 5 => fields.push(String::new()),
                    c => fields.last_mut()?.push(c),
                }
            }
            let [fields @ .., password] = fields.as_slice() else {
                return None;
            };
            let fits = fields.len() == 4
                && fields
                    .iter()
                    .zip(wanted)
                    .all(|(field, wanted)| field == "*" || field == wanted);
            fits.then(|| password.clone())
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn a_passfile_that_others_may_read_is_refused() {
        use std::os::unix::fs::PermissionsExt as _;

        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pgpass");
        std::fs::write(&file, "*:*:*:*:secret\n").unwrap();
        let may = |mode| std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode));
        may(0o644).unwrap();
        let error = read_passfile(&file, true).unwrap_err();
        assert!(error.message().contains("chmod 600"), "{error:?}");
        may(0o600).unwrap();
        assert!(read_passfile(&file, true).unwrap().contains("secret"));
        let missing = dir.path().join("missing");
        assert_eq!(read_passfile(&missing, false).unwrap(), "");
        read_passfile(&missing, true).unwrap_err();
    }

    #[test]
    fn passfiles_are_read_as_libpq_reads_them() {
        let file = "# a comment\nh:1:db:ann:one\n*:*:db:ann:t\\:wo:\nshort:line\n";
        let find = |host, port| find_password(file, [host, port, "db", "ann"]);
        assert_eq!(find("h", "1").as_deref(), Some("one"));
        assert_eq!(find("h", "2").as_deref(), Some("t:wo:"));
        assert_eq!(find_password(file, ["h", "1", "db", "bob"]), None);
    }
}
