//! Fencing tokens: the number by which a resource tells a new leader from an old one.

use std::fmt;

use crate::contract::error::{Error, ErrorKind, Operation};

/// A number that belongs to one term and is larger than that of every earlier term of its lock.
///
/// The leader sends it along with each write; the resource remembers the largest it has seen and
/// refuses anything smaller. How far "larger" reaches (over deletion, failover, restore) is the
/// store's [`FencingGuarantee`](crate::FencingGuarantee).
///
/// It fits into an `i64`. It is the number that the store gives the term, plus
/// [`Generation::STEP`] for each [`Generation`]. An operator raises the generation when a service
/// moves to another store, so that tokens go on rising although the new store counts from its own
/// start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(try_from = "u64", into = "u64"))]
pub struct FencingToken(u64);

impl FencingToken {
    /// The largest token: the largest `i64`.
    pub const MAX: Self = Self(i64::MAX.cast_unsigned());

    /// The token for a store's counter, in generation 0.
    ///
    /// Fails with [`Unsupported`](ErrorKind::Unsupported) above [`MAX`](Self::MAX). A number is
    /// never cut: two terms would get one token.
    pub fn from_counter(counter: u64) -> Result<Self, Error> {
        if counter > Self::MAX.0 {
            return Err(too_large(&counter));
        }
        Ok(Self(counter))
    }

    /// The token that a term of generation 0 with this one has in `generation`.
    ///
    /// Fails with [`Misconfigured`](ErrorKind::Misconfigured) where the sum is above
    /// [`MAX`](Self::MAX).
    pub fn in_generation(self, generation: Generation) -> Result<Self, Error> {
        let room = Self::MAX.0 - self.0;
        if generation.first_token() > room {
            return Err(Error::new(
                ErrorKind::Misconfigured,
                Operation::Acquire,
                format!(
                    "the generation {} is too high: the store counts at {self}, and a fencing \
                     token is at most {}; the highest generation for it is {}",
                    generation.0,
                    Self::MAX,
                    room / Generation::STEP
                ),
            ));
        }
        Ok(Self(self.0 + generation.first_token()))
    }

    /// The token in generation 0 of the term that has this one in `generation`; `None` if no term
    /// of that generation can have it.
    pub const fn without_generation(self, generation: Generation) -> Option<Self> {
        match self.0.checked_sub(generation.first_token()) {
            Some(counter) => Some(Self(counter)),
            None => None,
        }
    }

    /// How many steps of [`Generation::STEP`] this token holds.
    ///
    /// Every token of a higher generation is larger than this token. It is the generation that the
    /// token was raised to, unless the store counts beyond one step.
    pub const fn generation(self) -> Generation {
        // At most 2^15 - 1, since a token is below 2^63.
        #[allow(clippy::cast_possible_truncation)]
        Generation((self.0 / Generation::STEP) as u16)
    }

    /// Whether the two can be the tokens of one term in different generations.
    pub const fn equals_but_for_generation(self, other: Self) -> bool {
        self.0.abs_diff(other.0).is_multiple_of(Generation::STEP)
    }

    /// The number to send along with a write.
    pub const fn as_u64(self) -> u64 {
        self.0
    }

    /// The same number for columns that are signed; never negative.
    pub const fn as_i64(self) -> i64 {
        self.0.cast_signed()
    }
}

/// A store's number that no token is made of.
pub(crate) fn too_large(number: &dyn fmt::Display) -> Error {
    Error::new(
        ErrorKind::Unsupported,
        Operation::Acquire,
        format!(
            "the store counts at {number}, and a fencing token is at most {}; elect on a store \
             with smaller numbers",
            FencingToken::MAX
        ),
    )
}

impl TryFrom<u64> for FencingToken {
    type Error = Error;

    fn try_from(number: u64) -> Result<Self, Error> {
        Self::from_counter(number)
    }
}

impl From<FencingToken> for u64 {
    fn from(token: FencingToken) -> Self {
        token.0
    }
}

impl fmt::Display for FencingToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How often a lock has moved to another store, 0 to 32767; see [`FencingToken`].
///
/// One more is enough where the earlier store counts below [`STEP`](Self::STEP). After a store
/// that counts beyond it, as a Kubernetes cluster with `resourceVersion`s of 19 digits does, the
/// next generation is one above [`FencingToken::generation`] of its last token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Generation(u16);

impl Generation {
    /// The largest generation: with it a token still fits into an `i64`.
    pub const MAX: u16 = i16::MAX.cast_unsigned();

    /// What one generation adds to a token: 2^48.
    pub const STEP: u64 = 1 << 48;

    /// A checked generation, or an [`InvalidInput`](ErrorKind::InvalidInput) error.
    pub fn new(generation: u16) -> Result<Self, Error> {
        if generation > Self::MAX {
            return Err(Error::invalid_input(format!(
                "the generation {generation} is above {}",
                Self::MAX
            )));
        }
        Ok(Self(generation))
    }

    /// The generation as a number.
    pub const fn get(self) -> u16 {
        self.0
    }

    /// What it adds to a token; at most 2^63 - 2^48.
    const fn first_token(self) -> u64 {
        self.0 as u64 * Self::STEP
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As a GKE cluster serves them.
    const LARGE: u64 = 1_753_647_547_040_015_001;

    fn token(counter: u64, generation: u16) -> FencingToken {
        let generation = Generation::new(generation).unwrap();
        let token = FencingToken::from_counter(counter).unwrap();
        token.in_generation(generation).unwrap()
    }

    #[test]
    fn a_higher_generation_outranks_every_counter() {
        let old = token(Generation::STEP - 1, 0);
        let new = token(1, 1);
        assert!(new > old);
        assert_eq!(new.generation().get(), 1);
        assert_eq!(new.without_generation(new.generation()), Some(token(1, 0)));
        assert_eq!(old.without_generation(new.generation()), None);
    }

    /// Tokens of earlier versions were `generation << 48 | counter`, with counters of 48 bits.
    #[test]
    fn tokens_of_small_counters_are_those_of_earlier_versions() {
        for generation in [0, 1, 7, Generation::MAX] {
            for counter in [0, 1, 12_345, Generation::STEP - 1] {
                let earlier = u64::from(generation) << 48 | counter;
                assert_eq!(token(counter, generation).as_u64(), earlier);
            }
        }
    }

    #[test]
    fn tokens_rise_with_the_counter_in_every_generation_from_small_to_large() {
        for generation in [0, 1, 7, 8192, 24_575] {
            let counters = [
                1,
                2,
                Generation::STEP - 1,
                Generation::STEP,
                LARGE,
                LARGE + 1,
            ];
            let largest = (1 << 61) - 1;
            let tokens: Vec<_> = counters
                .into_iter()
                .chain([largest])
                .map(|counter| token(counter, generation))
                .collect();
            assert!(tokens.is_sorted_by(|a, b| a < b), "{tokens:?}");
        }
    }

    #[test]
    fn a_generation_above_that_of_the_last_token_outranks_large_counters() {
        for last in [token(LARGE, 0), token(LARGE, 3), token(5, 3)] {
            let next = last.generation().get() + 1;
            assert!(token(0, next) > last, "{last} and {next}");
        }
        assert_eq!(token(LARGE, 0).generation().get(), 6230);
    }

    #[test]
    fn the_largest_token_is_a_positive_i64() {
        let token = token(Generation::STEP - 1, Generation::MAX);
        assert_eq!(token.as_i64(), i64::MAX);
        assert_eq!(token, FencingToken::MAX);
        assert!(Generation::new(Generation::MAX + 1).is_err());
    }

    #[test]
    fn what_does_not_fit_is_refused_and_never_cut() {
        let error = FencingToken::from_counter(FencingToken::MAX.as_u64() + 1).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        let large = FencingToken::from_counter(LARGE).unwrap();
        let error = large
            .in_generation(Generation::new(30_000).unwrap())
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Misconfigured);
        let highest = 26_537;
        assert!(error.message().contains(&highest.to_string()), "{error}");
        assert!(
            large
                .in_generation(Generation::new(highest).unwrap())
                .is_ok()
        );
        assert!(
            large
                .in_generation(Generation::new(highest + 1).unwrap())
                .is_err()
        );
    }

    #[test]
    fn a_term_is_known_again_in_another_generation() {
        assert!(token(LARGE, 3).equals_but_for_generation(token(LARGE, 0)));
        assert!(!token(LARGE, 3).equals_but_for_generation(token(LARGE + 1, 0)));
    }
}
