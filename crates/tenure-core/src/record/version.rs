//! [`Version`]: what tells one write of a record from another.

use std::fmt;
use std::sync::Arc;

use crate::contract::error::Error;
use crate::contract::token::{FencingToken, Generation, too_large};

/// The version of a record, as its store gives it: a decimal number of any length.
///
/// A store makes it from a number, or from decimal text ([`parse`](Self::parse)). Two versions are
/// compared for equality. No one counts with them: how far a store's versions are apart is its own
/// matter.
///
/// The version of the write that begins a term becomes the term's [`FencingToken`], which holds
/// numbers up to [`FencingToken::MAX`]. A lock with larger versions can be read, but not acquired.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Version(Repr);

/// One number has one form, so that equal numbers are equal.
#[derive(Clone, PartialEq, Eq, Hash)]
enum Repr {
    Number(u64),
    /// Above `u64::MAX`.
    Digits(Arc<str>),
}

impl Version {
    /// Reads decimal text: digits without a sign and without a leading zero, or `0`. `None` for
    /// any other text.
    pub fn parse(text: &str) -> Option<Self> {
        let canonical = text == "0" || !text.starts_with('0');
        if text.is_empty() || !canonical || !text.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        Some(Self(match text.parse() {
            Ok(number) => Repr::Number(number),
            Err(_) => Repr::Digits(text.into()),
        }))
    }

    /// The number, if it has at most 64 bits: for a store that counts its versions itself.
    pub const fn as_u64(&self) -> Option<u64> {
        match self.0 {
            Repr::Number(number) => Some(number),
            Repr::Digits(_) => None,
        }
    }

    /// The fencing token of the term that the write of this version begins, in `generation`.
    ///
    /// Fails with [`Unsupported`](crate::ErrorKind::Unsupported) above [`FencingToken::MAX`], and as
    /// [`FencingToken::in_generation`] does.
    pub(super) fn token(&self, generation: Generation) -> Result<FencingToken, Error> {
        let counter = self.as_u64().ok_or_else(|| too_large(self))?;
        let token = FencingToken::from_counter(counter)?;
        token.in_generation(generation)?;
        Ok(token)
    }

    /// Whether the next version can still become a token: asked before a write, because no later
    /// version fits where this one does not.
    pub(super) fn check_next(&self, generation: Generation) -> Result<(), Error> {
        let next = self.as_u64().and_then(|number| number.checked_add(1));
        let next = next.map(Self::from).ok_or_else(|| too_large(self))?;
        next.token(generation).map(drop)
    }
}

impl From<u64> for Version {
    fn from(number: u64) -> Self {
        Self(Repr::Number(number))
    }
}

impl PartialEq<u64> for Version {
    fn eq(&self, number: &u64) -> bool {
        self.as_u64() == Some(*number)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Repr::Number(number) => number.fmt(f),
            Repr::Digits(digits) => f.write_str(digits),
        }
    }
}

impl fmt::Debug for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::error::ErrorKind;

    #[test]
    fn versions_of_any_length_are_equal_when_their_numbers_are() {
        for text in ["0", "7", "1753647547040015001", "18446744073709551615"] {
            let number: u64 = text.parse().unwrap();
            assert_eq!(Version::parse(text), Some(Version::from(number)));
            assert_eq!(Version::from(number).to_string(), text);
        }
        let long = "1".repeat(60);
        let version = Version::parse(&long).unwrap();
        assert_eq!(
            (version.to_string(), version.as_u64()),
            (long.clone(), None)
        );
        assert_eq!(Version::parse(&long), Some(version));
        assert_ne!(Version::parse(&long), Version::parse(&"1".repeat(61)));
    }

    #[test]
    fn what_is_no_decimal_number_is_no_version() {
        for text in ["", "007", "00", "-1", "+1", " 1", "1.5", "0x1f", "\u{0661}"] {
            assert_eq!(Version::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_version_without_a_token_is_refused_before_it_is_reached() {
        let none = Generation::default();
        let max = FencingToken::MAX.as_u64();
        assert_eq!(Version::from(max).token(none).unwrap(), FencingToken::MAX);
        assert!(Version::from(max - 1).check_next(none).is_ok());
        for version in [
            Version::from(max),
            Version::from(u64::MAX),
            Version::parse("18446744073709551616").unwrap(),
        ] {
            let error = version.check_next(none).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{version}");
        }
        let highest = Generation::new(Generation::MAX).unwrap();
        assert!(
            Version::from(Generation::STEP - 2)
                .check_next(highest)
                .is_ok()
        );
        let error = Version::from(Generation::STEP - 1).check_next(highest);
        assert_eq!(error.unwrap_err().kind(), ErrorKind::Misconfigured);
    }
}
