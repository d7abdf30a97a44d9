//! [`LeaseCandidate`]: who takes part in an election that the API server decides.

use std::fmt;

use tenure_core::{Error, Identity, LockName};

/// A candidate in an election that the API server decides (KEP-4355, coordinated leader election).
///
/// Its identity is the name of its object, so no two processes of a namespace may share it, and one
/// process takes part in one such election under it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseCandidate {
    pub(crate) identity: Identity,
    pub(crate) binary_version: String,
    pub(crate) emulation_version: String,
}

impl LeaseCandidate {
    /// `version` is the program's: three numbers, such as `1.4.0`. The API server prefers the
    /// oldest version, as [`emulating`](Self::emulating) says it.
    ///
    /// Fails with [`InvalidInput`](tenure_core::ErrorKind::InvalidInput) if the identity can be no
    /// object's name, or the version is none.
    pub fn new(identity: Identity, version: &str) -> Result<Self, Error> {
        if LockName::new(identity.as_str()).is_err() {
            return Err(Error::invalid_input(
                "the identity of a lease candidate is an object's name: a-z, 0-9, '-' and '.', \
                 with a letter or digit at both ends",
            ));
        }
        check(version)?;
        Ok(Self {
            identity,
            binary_version: version.to_owned(),
            emulation_version: version.to_owned(),
        })
    }

    /// The version as which the program behaves, where it is not its own.
    ///
    /// Fails with [`InvalidInput`](tenure_core::ErrorKind::InvalidInput).
    pub fn emulating(mut self, version: &str) -> Result<Self, Error> {
        check(version)?;
        version.clone_into(&mut self.emulation_version);
        Ok(self)
    }

    /// Who it is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Reads `NAME:VERSION` or `NAME:VERSION:EMULATED`.
    pub(crate) fn parse(text: &str) -> Result<Self, Error> {
        let parts: Vec<_> = text.split(':').collect();
        let ([name, version] | [name, version, _]) = parts[..] else {
            return Err(Error::invalid_input(
                "the URL's lease_candidate has not two or three parts; use \
                 lease_candidate=name:1.4.0",
            ));
        };
        let candidate = Self::new(Identity::new(name)?, version)?;
        match parts.get(2) {
            Some(emulated) => candidate.emulating(emulated),
            None => Ok(candidate),
        }
    }
}

impl fmt::Display for LeaseCandidate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.identity.as_str())
    }
}

fn check(version: &str) -> Result<(), Error> {
    let is_number = |part: &str| {
        let canonical = part == "0" || !part.starts_with('0');
        !part.is_empty()
            && part.len() <= 9
            && canonical
            && part.bytes().all(|byte| byte.is_ascii_digit())
    };
    if version.split('.').count() == 3 && version.split('.').all(is_number) {
        return Ok(());
    }
    Err(Error::invalid_input(
        "the version of a lease candidate is three numbers, such as 1.4.0",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_a_name_and_one_or_two_versions() {
        let read = LeaseCandidate::parse("web-0:1.4.0").unwrap();
        assert_eq!(
            (
                read.identity.as_str(),
                &*read.binary_version,
                &*read.emulation_version
            ),
            ("web-0", "1.4.0", "1.4.0")
        );
        let read = LeaseCandidate::parse("web-0:1.4.0:1.3.0").unwrap();
        assert_eq!(read.emulation_version, "1.3.0");
        for wrong in [
            "web-0",
            "web-0:1.4",
            "web-0:v1.4.0",
            "web-0:1.4.0:",
            "web-0:1.04.0",
            "Web:1.4.0",
            "a/b:1.4.0",
            ":1.4.0",
            "web-0:1.4.0:1.3.0:x",
        ] {
            assert!(LeaseCandidate::parse(wrong).is_err(), "{wrong}");
        }
    }
}
