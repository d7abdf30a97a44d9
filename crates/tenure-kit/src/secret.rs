//! Passwords and tokens: where they come from, and how they stay unseen.

use std::borrow::Cow;
use std::fmt;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};

use tenure_core::ErrorKind;

use crate::limits::MAX_SECRET_BYTES;
use crate::store_error::{StoreError, blocking};

/// What stands in place of a secret.
const HIDDEN: &str = "***";

/// Words in the name of a parameter that say that its value is a secret.
const SECRET_WORDS: [&str; 5] = ["pass", "secret", "token", "credential", "pwd"];

/// Further names of parameters whose values are secrets, in lower case.
static SECRET_NAMES: RwLock<Vec<String>> = RwLock::new(Vec::new());

/// From now on [`redact`] hides the values of the parameter `name`, in the whole process.
///
/// For secrets whose names do not say so: `redact` hides those that hold `pass`, `secret`, `token`,
/// `credential` or `pwd` anyway. What is hidden once stays hidden. `tenure::Registry` calls this for
/// the stores that are added to it.
pub fn hide_parameter(name: &str) {
    let name = name.to_ascii_lowercase();
    let mut names = SECRET_NAMES.write().unwrap_or_else(PoisonError::into_inner);
    if !is_known(&names, &name) && !name.is_empty() {
        names.push(name);
    }
}

fn is_known(names: &[String], name: &str) -> bool {
    names.iter().any(|known| known == name)
}

/// A password or token: its value, a file that holds it, or a variable of the environment.
///
/// A backend reads it at each new connection, so that it can change under a running service.
/// `Debug` shows the file, or the variable if its name can be one, and never a value.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Source);

#[derive(Clone, PartialEq, Eq)]
enum Source {
    Value(String),
    File(PathBuf),
    Environment(String),
}

impl Secret {
    /// The secret itself.
    pub fn value(secret: impl Into<String>) -> Self {
        Self(Source::Value(secret.into()))
    }

    /// A file that holds the secret and nothing else, as orchestrators mount them. A line break at
    /// its end is left out; it holds at most [`MAX_SECRET_BYTES`].
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Self(Source::File(path.into()))
    }

    /// The name of a variable of the process's environment: letters, digits and `_`, no digit
    /// first. Another one is refused when it is read, and never shown: it may be the secret.
    pub fn environment(variable: impl Into<String>) -> Self {
        Self(Source::Environment(variable.into()))
    }

    /// The file that holds it, if one does: for a client that reads it again on its own.
    pub fn as_file(&self) -> Option<&Path> {
        match &self.0 {
            Source::File(path) => Some(path),
            _ => None,
        }
    }

    /// Reads it. `setting` is what the secret is called in the configuration, such as `password`.
    ///
    /// Fails with [`Misconfigured`](ErrorKind::Misconfigured); the error names the setting, and the
    /// file or the variable. Reads the file on a thread for blocking calls: it may be on a network
    /// file system. Needs a tokio runtime; dropping the future leaves the read to end on its own.
    pub async fn read<R>(&self, setting: &str) -> Result<String, StoreError<R>> {
        match &self.0 {
            Source::Value(value) => Ok(value.clone()),
            Source::File(path) => {
                let path = path.clone();
                let read = blocking(move || read_text(&path).map_err(|why| (path, why))).await?;
                read.map_err(|(path, why)| {
                    let path = path.display();
                    misconfigured(format!("{setting}_file: {path} {why}"))
                })
            }
            Source::Environment(variable) => {
                self.check(setting).map_err(misconfigured)?;
                std::env::var(variable).map_err(|error| {
                    let why = match error {
                        std::env::VarError::NotPresent => "is not set",
                        std::env::VarError::NotUnicode(_) => "is not valid UTF-8",
                    };
                    misconfigured(format!("{setting}_env: the variable {variable} {why}"))
                })
            }
        }
    }

    /// Refuses a variable whose name cannot be one. The message does not show it.
    pub(crate) fn check(&self, setting: &str) -> Result<(), String> {
        match &self.0 {
            Source::Environment(variable) if !is_variable(variable) => Err(format!(
                "{setting}_env is the name of an environment variable (letters, digits and '_'), \
                 not the secret itself; what it says now is no such name"
            )),
            _ => Ok(()),
        }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Source::Value(_) => f.write_str("Value(***)"),
            Source::File(path) => f.debug_tuple("File").field(path).finish(),
            Source::Environment(variable) if is_variable(variable) => {
                f.debug_tuple("Environment").field(variable).finish()
            }
            Source::Environment(_) => f.write_str("Environment(***)"),
        }
    }
}

fn is_variable(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

fn misconfigured<R>(message: String) -> StoreError<R> {
    StoreError::new(ErrorKind::Misconfigured, message)
}

fn read_text(path: &Path) -> Result<String, String> {
    let bytes = read_bounded(path, MAX_SECRET_BYTES)?;
    let text = String::from_utf8(bytes).map_err(|_| "is not valid UTF-8".to_owned())?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

/// A small file. The error finishes a sentence that begins with its name.
pub(crate) fn read_bounded(path: &Path, most: u64) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(most + 1).read_to_end(&mut bytes))
        .map_err(|error| format!("cannot be read: {error}"))?;
    if bytes.len() as u64 > most {
        return Err(format!("is larger than {} KiB", most / 1024));
    }
    Ok(bytes)
}

/// Who connects: a user and a password, either of which may be missing.
///
/// `Debug` hides the password, and a user without one: it may be a password that was written in its
/// place.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Credentials {
    /// The user.
    pub user: Option<String>,
    /// The password.
    pub password: Option<Secret>,
}

impl Credentials {
    /// Whether there is a user and no password.
    pub fn is_user_alone(&self) -> bool {
        self.user.is_some() && self.password.is_none()
    }

    /// Reads the password, if there is one: see [`Secret::read`].
    pub async fn read_password<R>(&self) -> Result<Option<String>, StoreError<R>> {
        match &self.password {
            Some(password) => password.read("password").await.map(Some),
            None => Ok(None),
        }
    }

    fn shown_user(&self) -> Option<&str> {
        let user = self.user.as_deref()?;
        Some(self.password.as_ref().map_or(HIDDEN, |_| user))
    }

    /// As it stands in front of a URL's hosts.
    pub(crate) fn shown(&self) -> String {
        let user = self.shown_user().unwrap_or_default();
        match self.password {
            Some(_) => format!("{user}:{HIDDEN}@"),
            None if user.is_empty() => String::new(),
            None => format!("{user}@"),
        }
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("user", &self.shown_user())
            .field("password", &self.password)
            .finish()
    }
}

/// `text` with what may be a secret in its URLs replaced by `***`: user and password, and the
/// values of parameters such as `password=`.
///
/// For logs and error messages. It hides too much rather than too little. A password that should
/// have been percent-encoded may hold any character, also a line's end. So everything goes between
/// the first `://` of a line and the last `@` before the next line with a `://`. Where that `@` may
/// stand within a parameter's secret, all that follows goes too. The same holds within one line for
/// a URL without `//`.
///
/// ```
/// assert_eq!(
///     tenure_kit::redact("redis://user:s3cret@host:6379/0"),
///     "redis://***@host:6379/0",
/// );
/// ```
#[must_use]
pub fn redact(text: &str) -> Cow<'_, str> {
    if !text.contains(':') {
        return Cow::Borrowed(text);
    }
    // A URL may be broken into lines: those without one of their own may belong to the one before.
    let mut parts: Vec<String> = Vec::new();
    for line in text.split('\n') {
        match parts.last_mut() {
            Some(part) if part.contains("://") && !line.contains("://") => {
                part.push('\n');
                part.push_str(line);
            }
            _ => parts.push(line.to_owned()),
        }
    }
    let parts: Vec<String> = parts.iter().map(|part| redact_part(part)).collect();
    Cow::Owned(parts.join("\n"))
}

fn redact_part(part: &str) -> String {
    let Some((before, after)) = part.split_once("://") else {
        return redact_bare(part);
    };
    let before = redact_bare(before);
    match after.rsplit_once('@') {
        Some((hidden, _)) if has_secret_parameter(hidden) => format!("{before}://{HIDDEN}"),
        Some((_, host)) => format!("{before}://{HIDDEN}@{}", redact_parameters(host)),
        None => format!("{before}://{}", redact_parameters(after)),
    }
}

/// A URL whose `//` is missing, by mistake or because its scheme has none: `redis:user:secret@host`.
fn redact_bare(line: &str) -> String {
    let mut colons = line.match_indices(':').map(|(at, _)| at);
    let Some(colon) = colons.find(|at| is_scheme_end(line, *at)) else {
        return line.to_owned();
    };
    let (scheme, rest) = line.split_at(colon + 1);
    match rest.rsplit_once('@') {
        Some((hidden, _)) if has_secret_parameter(hidden) => format!("{scheme}{HIDDEN}"),
        Some((_, host)) => format!("{scheme}{HIDDEN}@{}", redact_parameters(host)),
        None => format!("{scheme}{}", redact_parameters(rest)),
    }
}

/// Whether a scheme stands before the colon at `colon`, and something of its URL behind it.
fn is_scheme_end(line: &str, colon: usize) -> bool {
    let is_of_scheme = |c: char| c.is_ascii_alphanumeric() || "+-.".contains(c);
    let before = &line[..colon];
    let scheme = &before[before.trim_end_matches(is_of_scheme).len()..];
    let behind = line[colon + 1..].chars().next();
    scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && behind.is_some_and(|c| !c.is_whitespace())
}

/// Whether a parameter that holds a secret stands in `text`, which may end within it.
fn has_secret_parameter(text: &str) -> bool {
    text.split_once(['?', '&'])
        .is_some_and(|(_, parameters)| has_secret(parameters))
}

/// The `?` may be missing, when it stood before an `@` in a parameter.
fn redact_parameters(text: &str) -> String {
    let Some(end) = text.find(['?', '&']) else {
        return text.to_owned();
    };
    let (location, query) = text.split_at(end);
    let mut after_secret = false;
    let parameters: Vec<String> = query
        .split('&')
        .map(|parameter| {
            let redacted = redact_parameter(parameter, after_secret);
            after_secret |= has_secret(parameter);
            redacted
        })
        .collect();
    format!("{location}{}", parameters.join("&"))
}

/// What stands alone after a secret may be its end, behind a `&` that should have been encoded.
fn redact_parameter(parameter: &str, after_secret: bool) -> String {
    match parameter.split_once('=') {
        Some((name, _)) if has_secret(parameter) => format!("{name}={HIDDEN}"),
        None if after_secret => HIDDEN.to_owned(),
        _ => parameter.to_owned(),
    }
}

/// Whether a value in there belongs to a name that says that it is a secret. All before the last
/// `=` counts as a name: there may be a second one where a `&` was mistyped.
fn has_secret(parameters: &str) -> bool {
    parameters
        .rsplit_once('=')
        .is_some_and(|(names, _)| is_secret(names))
}

/// Whether a parameter's name says that its value is a secret.
fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    if SECRET_WORDS.iter().any(|word| name.contains(word)) {
        return true;
    }
    let names = SECRET_NAMES.read().unwrap_or_else(PoisonError::into_inner);
    let mut parts = name.split(['?', '&', '=']);
    parts.any(|part| is_known(&names, part))
}

/// Whether a parameter's value is the secret itself, and not the place where it is.
pub(crate) fn holds_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let is_place = name.ends_with("_file")
        || name.ends_with("_env")
        || ["passfile", "token_sequence"].contains(&name.as_str());
    is_secret(&name) && !is_place
}

#[cfg(test)]
mod tests;
