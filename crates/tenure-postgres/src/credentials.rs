//! User, database and password of a new connection, from where libpq would take them.

use std::path::Path;

use tenure_core::ErrorKind;

use crate::config::{Address, PostgresConfig};
use crate::errors::StoreError;

/// As whom, and where to.
pub(crate) struct Credentials {
    pub(crate) user: Option<String>,
    pub(crate) database: Option<String>,
    pub(crate) password: Option<String>,
}

impl Credentials {
    /// Read for each connection, so that a password can change under a running service.
    pub(crate) async fn read(
        config: &PostgresConfig,
        address: &Address,
    ) -> Result<Self, StoreError> {
        let user = config.user.clone().or_else(|| variable("PGUSER"));
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
    if let Some(password) = &config.password {
        return Ok(Some(password.clone()));
    }
    let unreadable = |file: &Path, error: std::io::Error| {
        let message = format!(
            "the password file {} cannot be read: {error}",
            file.display()
        );
        StoreError::new(ErrorKind::Misconfigured, message).caused_by(error)
    };
    if let Some(file) = &config.password_file {
        let text = read(file).await.map_err(|error| unreadable(file, error))?;
        return Ok(Some(text.trim_end_matches(['\r', '\n']).to_owned()));
    }
    let passfile = config.passfile.clone();
    if let Some(file) = passfile.or_else(|| variable("PGPASSFILE").map(Into::into)) {
        let text = read(&file)
            .await
            .map_err(|error| unreadable(&file, error))?;
        let port = address.port.to_string();
        let wanted = [&address.host, &port, database, user];
        if let Some(password) = find_password(&text, wanted) {
            return Ok(Some(password));
        }
    }
    Ok(variable("PGPASSWORD"))
}

/// On a thread for blocking calls: the file may be on a network file system.
async fn read(file: &Path) -> std::io::Result<String> {
    let file = file.to_owned();
    tokio::task::spawn_blocking(move || std::fs::read_to_string(file))
        .await
        .unwrap_or_else(|error| Err(std::io::Error::other(error)))
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

    #[test]
    fn passfiles_are_read_as_libpq_reads_them() {
        let file = "# a comment\nh:1:db:ann:one\n*:*:db:ann:t\\:wo:\nshort:line\n";
        let find = |host, port| find_password(file, [host, port, "db", "ann"]);
        assert_eq!(find("h", "1").as_deref(), Some("one"));
        assert_eq!(find("h", "2").as_deref(), Some("t:wo:"));
        assert_eq!(find_password(file, ["h", "1", "db", "bob"]), None);
    }
}
