//! Lock names, identities and published values: what may stand in them on every store.

use std::fmt;
use std::sync::{Arc, OnceLock};

use crate::contract::error::Error;
use crate::contract::process::{PerProcess, random_u64};

/// The name of a lock, valid on every store: a lowercase RFC 1123 subdomain of at most 253 bytes.
///
/// That is one or more labels of `a-z`, `0-9` and `-`, joined by dots, each starting and ending
/// with a letter or digit. Kubernetes object names have this form; nothing in it needs quoting on
/// any other store.
///
/// ```
/// # use tenure_core::LockName;
/// assert!(LockName::new("billing.nightly-batch").is_ok());
/// assert!(LockName::new("Billing/Batch").is_err());
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(try_from = "String", into = "String"))]
pub struct LockName(Arc<str>);

impl LockName {
    /// The longest name, in bytes.
    pub const MAX_BYTES: usize = 253;

    /// A checked name, or an [`InvalidInput`](crate::ErrorKind::InvalidInput) error that says
    /// what is wrong with it.
    pub fn new(name: impl AsRef<str>) -> Result<Self, Error> {
        let name = name.as_ref();
        let problem = if name.is_empty() {
            "is empty".to_owned()
        } else if name.len() > Self::MAX_BYTES {
            format!(
                "is {} bytes long, at most {} are allowed",
                name.len(),
                Self::MAX_BYTES
            )
        } else if let Some(character) = name.chars().find(|c| !is_name_character(*c)) {
            format!("holds {character:?}; allowed are a-z, 0-9, '-' and '.'")
        } else if name.split('.').any(|label| !is_label(label)) {
            "has a part between dots that is empty or starts or ends with '-'".to_owned()
        } else {
            return Ok(Self(name.into()));
        };
        // `escape_debug` keeps control characters of bad input out of terminals and logs.
        let shown: String = name.chars().take(60).flat_map(char::escape_debug).collect();
        Err(Error::invalid_input(format!(
            "the lock name \"{shown}\" {problem}; use something like \"team.batch-job\""
        )))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn is_name_character(c: char) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.'
}

fn is_label(label: &str) -> bool {
    !label.is_empty() && !label.starts_with('-') && !label.ends_with('-')
}

/// Who a candidate is: 1 to 253 visible ASCII characters, unique among all candidates.
///
/// Two candidates with equal identities still never share a term, since a term is tied to the
/// campaign that won it; but `status` and logs cannot tell them apart.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(try_from = "String", into = "String"))]
pub struct Identity(Arc<str>);

impl Identity {
    /// The longest identity, in characters.
    pub const MAX_CHARS: usize = 253;

    /// A checked identity, or an [`InvalidInput`](crate::ErrorKind::InvalidInput) error.
    pub fn new(identity: impl AsRef<str>) -> Result<Self, Error> {
        let identity = identity.as_ref();
        let problem = if identity.is_empty() {
            "is empty".to_owned()
        } else if identity.len() > Self::MAX_CHARS {
            format!(
                "is {} bytes long, at most {} are allowed",
                identity.len(),
                Self::MAX_CHARS
            )
        } else if let Some(character) = identity.chars().find(|c| !c.is_ascii_graphic()) {
            format!("holds {character:?}; only visible ASCII characters are allowed")
        } else {
            return Ok(Self(identity.into()));
        };
        let shown: String = identity
            .chars()
            .take(60)
            .flat_map(char::escape_debug)
            .collect();
        Err(Error::invalid_input(format!(
            "the identity \"{shown}\" {problem}; use a pod or host name"
        )))
    }

    /// The default: `POD_NAME` or the host's name, and a random part drawn once per process. A
    /// child that is forked later has its own.
    ///
    /// The random part is there because host names repeat: with equal identities every process of
    /// a badly set up fleet would look like the same candidate (kubernetes#61151).
    ///
    /// Fails when the operating system gives no random number ([`random_u64`](crate::random_u64)).
    pub fn of_this_process() -> Result<Self, Error> {
        static IDENTITY: PerProcess<OnceLock<Identity>> = PerProcess::new();
        let known = IDENTITY.get_or_init(OnceLock::new);
        if let Some(identity) = known.get() {
            return Ok(identity.clone());
        }
        let host = std::env::var("POD_NAME")
            .ok()
            .filter(|name| !name.is_empty())
            .unwrap_or_else(host_name);
        let visible: String = host
            .chars()
            .filter(char::is_ascii_graphic)
            .take(200)
            .collect();
        let number = random_u64()? >> 32;
        let drawn = Self(format!("{visible}-{number:08x}").into());
        // Another thread may have been quicker; all of a process have one identity.
        Ok(known.get_or_init(|| drawn).clone())
    }

    /// The identity as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn host_name() -> String {
    rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned()
}

/// A short text that the leader publishes beside its identity, an address for instance.
///
/// At most 1024 bytes without control characters, so that it fits into every store's record.
#[derive(Clone, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(try_from = "String", into = "String"))]
pub struct PublishedValue(Arc<str>);

impl PublishedValue {
    /// The longest value, in bytes.
    pub const MAX_BYTES: usize = 1024;

    /// A checked value, or an [`InvalidInput`](crate::ErrorKind::InvalidInput) error.
    pub fn new(value: impl AsRef<str>) -> Result<Self, Error> {
        let value = value.as_ref();
        if value.len() > Self::MAX_BYTES {
            return Err(Error::invalid_input(format!(
                "the published value is {} bytes long, at most {} are allowed",
                value.len(),
                Self::MAX_BYTES
            )));
        }
        if let Some(character) = value.chars().find(|c| c.is_control()) {
            return Err(Error::invalid_input(format!(
                "the published value holds {character:?}; control characters are not allowed"
            )));
        }
        Ok(Self(value.into()))
    }

    /// The value as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

macro_rules! text_type {
    ($($name:ident),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl std::str::FromStr for $name {
            type Err = Error;

            fn from_str(text: &str) -> Result<Self, Error> {
                Self::new(text)
            }
        }

        impl TryFrom<&str> for $name {
            type Error = Error;

            fn try_from(text: &str) -> Result<Self, Error> {
                Self::new(text)
            }
        }

        impl TryFrom<String> for $name {
            type Error = Error;

            fn try_from(text: String) -> Result<Self, Error> {
                Self::new(text)
            }
        }

        impl From<$name> for String {
            fn from(text: $name) -> Self {
                text.0.as_ref().to_owned()
            }
        }
    )*};
}

text_type!(LockName, Identity, PublishedValue);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_names_are_kept_as_they_are() {
        for name in ["a", "0", "a-b.c-d", &"x".repeat(253)] {
            assert_eq!(LockName::new(name).unwrap().as_str(), name);
        }
    }

    #[test]
    fn bad_names_are_refused_with_what_is_wrong() {
        for (name, expected) in [
            ("", "is empty"),
            (&*"x".repeat(254), "254 bytes"),
            ("Upper", "'U'"),
            ("a/b", "'/'"),
            ("a..b", "part between dots"),
            ("..", "part between dots"),
            ("-a", "part between dots"),
            ("a-.b", "part between dots"),
            ("nul\0", "'\\0'"),
            ("größe", "'ö'"),
        ] {
            let message = LockName::new(name).unwrap_err().to_string();
            assert!(message.contains(expected), "{name:?}: {message}");
            assert!(!message.contains('\0'));
        }
    }

    #[test]
    fn identities_are_visible_ascii() {
        assert!(Identity::new("pod-1_2@host").is_ok());
        for bad in ["", "two words", "new\nline", "grün", &"x".repeat(254)] {
            assert!(Identity::new(bad).is_err(), "{bad:?}");
        }
        assert!(Identity::of_this_process().unwrap().as_str().len() > 9);
    }

    #[test]
    fn values_are_short_and_printable() {
        assert!(PublishedValue::new("http://10.0.0.1:8080/ grün").is_ok());
        assert!(PublishedValue::new("a\u{1b}[31m").is_err());
        assert!(PublishedValue::new("x".repeat(1025)).is_err());
    }
}
