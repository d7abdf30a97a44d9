//! Services of `pg_service.conf`: parameters under a name, as libpq reads them.

use std::io;
use std::path::{Path, PathBuf};

use tenure_core::Error;
use tenure_kit::Url;

/// Where the files are that libpq would read, after the user's own.
const SYSTEM: [&str; 2] = [
    "/etc/pg_service.conf",
    "/etc/postgresql-common/pg_service.conf",
];

/// A file larger than this is none.
const MOST_BYTES: u64 = 1 << 20;

/// What a service may say. The file is libpq's: it sets none of our own parameters.
const KNOWN: [&str; 15] = [
    "application_name",
    "channel_binding",
    "connect_timeout",
    "dbname",
    "host",
    "options",
    "passfile",
    "password",
    "port",
    "sslcert",
    "sslkey",
    "sslmode",
    "sslrootcert",
    "target_session_attrs",
    "user",
];

/// What changes nothing here: we keep connections alive by heartbeats, and use no Kerberos.
const IGNORED: [&str; 9] = [
    "client_encoding",
    "fallback_application_name",
    "gssencmode",
    "keepalives",
    "keepalives_count",
    "keepalives_idle",
    "keepalives_interval",
    "sslcompression",
    "tcp_user_timeout",
];

/// What a service says: names and values, in the order of the file.
#[derive(Default)]
pub(super) struct Service(Vec<(String, String)>);

impl Service {
    /// That of the URL's parameter `service`, or of `PGSERVICE`; of none, if there is neither.
    ///
    /// It stands in the file that `PGSERVICEFILE` names, or in `~/.pg_service.conf`; if not there, in
    /// `pg_service.conf` of `PGSYSCONFDIR` or of the system.
    pub(super) fn of(
        url: &mut Url,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, Error> {
        let named = url.take("service")?.filter(|name| !name.is_empty());
        let Some(name) = named.or_else(|| variable("PGSERVICE")) else {
            return Ok(Self::default());
        };
        for (file, must_exist) in files(variable) {
            let Some(text) = read(&file, must_exist)? else {
                continue;
            };
            let found = section(&text, &name).map_err(|problem| {
                Error::misconfigured(format!("{}: {problem}", file.display()))
            })?;
            if let Some(found) = found {
                warn_of_readers(&file, &found);
                return Ok(Self(found));
            }
        }
        Err(Error::misconfigured(format!(
            "the service \"{}\" is in no pg_service.conf; name the file that has it in \
             PGSERVICEFILE",
            name.escape_debug()
        )))
    }

    /// What it says of `name`; the first line counts.
    pub(super) fn says(&self, name: &str) -> Option<&str> {
        let mut lines = self.0.iter();
        lines
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.as_str())
            .filter(|value| !value.is_empty())
    }

    /// Adds what the URL does not say itself. What it says of hosts and their ports counts before
    /// `PGHOST` and `PGPORT`, and is asked for by [`says`](Self::says).
    pub(super) fn add_to(&self, url: &mut Url) -> Result<(), Error> {
        let has_path = !url.path()?.is_empty();
        let has_password = url.password().is_some()
            || ["password", "password_file", "password_env"]
                .iter()
                .any(|name| url.has(name));
        for (name, value) in &self.0 {
            let is_said = match name.as_str() {
                // The name carries the candidate's identity.
                "host" | "port" | "application_name" => true,
                "user" => url.user().is_some(),
                "password" => has_password,
                "dbname" => has_path,
                "sslrootcert" => url.has("ca"),
                "sslcert" => url.has("client_cert"),
                "sslkey" => url.has("client_key"),
                _ => false,
            };
            if !is_said && !url.has(name) {
                url.add(name, value);
            }
        }
        Ok(())
    }
}

/// The files to look into, and whether each must be there.
fn files(variable: impl Fn(&str) -> Option<String>) -> Vec<(PathBuf, bool)> {
    let own = match (variable("PGSERVICEFILE"), variable("HOME")) {
        (Some(named), _) => Some((PathBuf::from(named), true)),
        (None, home) => home.map(|home| (PathBuf::from(home).join(".pg_service.conf"), false)),
    };
    let system: Vec<PathBuf> = match variable("PGSYSCONFDIR") {
        Some(directory) => vec![PathBuf::from(directory).join("pg_service.conf")],
        None => SYSTEM.map(PathBuf::from).to_vec(),
    };
    own.into_iter()
        .chain(system.into_iter().map(|file| (file, false)))
        .collect()
}

fn read(file: &Path, must_exist: bool) -> Result<Option<String>, Error> {
    let found = match std::fs::metadata(file) {
        Ok(found) => found,
        // One that cannot be looked at is not there, as for libpq: the home may be another user's.
        Err(_) if !must_exist => return Ok(None),
        Err(error) => return Err(unreadable(file, &error)),
    };
    if !found.is_file() || found.len() > MOST_BYTES {
        let what = io::Error::other("it is no file of a megabyte at most");
        return Err(unreadable(file, &what));
    }
    let text = std::fs::read_to_string(file).map_err(|error| unreadable(file, &error))?;
    Ok(Some(text))
}

fn unreadable(file: &Path, error: &io::Error) -> Error {
    Error::misconfigured(format!("{} cannot be read: {error}", file.display()))
}

/// libpq reads a password there whatever the file's mode; in a password file it does not.
fn warn_of_readers(file: &Path, found: &[(String, String)]) {
    use std::os::unix::fs::MetadataExt as _;

    let has_password = found.iter().any(|(name, _)| name == "password");
    if has_password && std::fs::metadata(file).is_ok_and(|it| it.mode() & 0o077 != 0) {
        tracing::warn!(
            file = %file.display(),
            "others may read the password in this file: chmod 600 it, or use passfile"
        );
    }
}

/// The lines of the first section with this name; `None` if there is none.
///
/// The problem names a line by its number: its text may hold a password.
fn section(text: &str, name: &str) -> Result<Option<Vec<(String, String)>>, String> {
    let mut found: Option<Vec<(String, String)>> = None;
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(header) = line.strip_prefix('[') {
            if found.is_some() {
                break;
            }
            let is_it = header
                .strip_prefix(name)
                .is_some_and(|rest| rest.starts_with(']'));
            found = is_it.then(Vec::new);
            continue;
        }
        let Some(found) = &mut found else {
            continue;
        };
        let number = number + 1;
        if line.starts_with("ldap") {
            return Err(format!(
                "line {number} asks an LDAP server, which is not supported"
            ));
        }
        let Some((key, value)) = line.split_once('=') else {
            return Err(format!("line {number} is not of the form name=value"));
        };
        if key == "service" {
            return Err(format!("line {number} names a service in a service"));
        }
        if IGNORED.contains(&key) {
            continue;
        }
        if !KNOWN.contains(&key) {
            return Err(format!(
                "line {number} sets a parameter that is not supported in a service"
            ));
        }
        found.push((key.to_owned(), value.to_owned()));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::super::PostgresConfig;
    use super::*;

    const FILE: &str = "# comment\n[other]\nhost=no\n\n [app] \n host=a,b\nport=1,2\nuser=ann\n\
                        password=s3cret\ndbname=jobs\nconnect_timeout=7\nuser=bob\n\
                        application_name=x\nkeepalives=1\n[app]\nhost=never\n";

    fn config(url: &str, variables: &[(&str, &str)]) -> Result<PostgresConfig, Error> {
        let variable = |name: &str| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        let mut url = Url::parse(url)?;
        let config = PostgresConfig::read_with(&mut url, variable)?;
        url.finish()?;
        Ok(config)
    }

    #[test]
    fn a_service_says_what_the_url_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("services");
        std::fs::write(&file, FILE).unwrap();
        let file = file.to_str().unwrap();
        let read = |url: &str, more: &[(&str, &str)]| {
            let mut variables = vec![("PGSERVICEFILE", file), ("PGHOST", "x"), ("PGPORT", "9")];
            variables.extend(more);
            config(url, &variables).unwrap()
        };
        let expected =
            PostgresConfig::from_url("postgres://ann:s3cret@a:1,b:2/jobs?connect_timeout=7");
        let expected = expected.unwrap();
        assert!(read("postgres://?service=app", &[]) == expected);
        assert!(read("postgres://", &[("PGSERVICE", "app")]) == expected);
        // What the URL says comes first; PGHOST and PGPORT last.
        let said = "postgres://eve:other@h:7/db?service=app&connect_timeout=3";
        let plain = PostgresConfig::from_url("postgres://eve:other@h:7/db?connect_timeout=3");
        assert!(read(said, &[]) == plain.unwrap());
        let of_environment = read("postgres://u@/d", &[]);
        assert_eq!(of_environment.hosts[0].to_string(), "x:9");
    }

    #[test]
    fn what_is_wrong_with_a_service_is_said_without_its_lines() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("services");
        let refused = |text: &str, wanted: &str| {
            std::fs::write(&file, text).unwrap();
            let variables = [("PGSERVICEFILE", file.to_str().unwrap())];
            let error = config("postgres://?service=app", &variables).unwrap_err();
            assert!(error.message().contains(wanted), "{text}: {error}");
            assert!(!error.message().contains("s3cret"), "{error}");
        };
        refused("[other]\nhost=a\n", "is in no pg_service.conf");
        refused(
            "[app]\npassword s3cret\n",
            "line 2 is not of the form name=value",
        );
        refused(
            "[app]\nservice=other\n",
            "line 2 names a service in a service",
        );
        refused("[app]\nldap://s3cret/x\n", "line 2 asks an LDAP server");
        refused("[app]\nhost=a,b\nport=1,2,3\n", "3 ports for 2 hosts");
        refused("[app]\nno_such_thing=1\n", "line 2 sets a parameter");
        // Only the URL can do without a lease, or join another lock.
        refused("[app]\nserver_lease=off\n", "line 2 sets a parameter");
        refused("[app]\nlock_key=a:1\n", "line 2 sets a parameter");
        // A password of base64 behind a forgotten sign.
        refused("[app]\npassword s3cret==\n", "line 2 sets a parameter");
        std::fs::remove_file(&file).unwrap();
        let variables = [("PGSERVICEFILE", file.to_str().unwrap())];
        let error = config("postgres://?service=app", &variables).unwrap_err();
        assert!(error.message().contains("cannot be read"), "{error}");
    }
}
