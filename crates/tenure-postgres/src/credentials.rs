//! User, database and password of a new connection, from where libpq would take them.

use std::path::PathBuf;

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
    let passfile = config.passfile.clone();
    if let Some(file) = passfile.or_else(|| variable("PGPASSFILE").map(PathBuf::from)) {
        let name = file.display().to_string();
        // On a thread for blocking calls: the file may be on a network file system.
        let reading = spawn_blocking(move || std::fs::read_to_string(file)).await;
        let text = reading.map_err(|_| StoreError::runtime_is_gone())?;
        let text = text.map_err(|error| {
            let message = format!("passfile: {name} cannot be read: {error}");
            StoreError::new(ErrorKind::Misconfigured, message)
        })?;
        let wanted = [address.host(), &address.port().to_string(), database, user];
        if let Some(password) = find_password(&text, wanted) {
            return Ok(Some(password));
        }
    }
    Ok(variable("PGPASSWORD"))
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
