//! Fencing tokens: the number by which a resource tells a new leader from an old one.

use std::fmt;

use crate::contract::error::{Error, ErrorKind, Operation};

/// A number that belongs to one term and is larger than that of every earlier term of its lock.
///
/// The leader sends it along with each write; the resource remembers the largest it has seen and
/// refuses anything smaller. How far "larger" reaches (over deletion, failover, restore) is the
/// store's [`FencingGuarantee`](crate::FencingGuarantee).
///
/// It fits into an `i64`. The lower 48 bits come from the store; above them stands the
/// [`Generation`], which an operator raises when a service moves to another store, so that tokens
/// go on rising although the new store counts from its own start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct FencingToken(u64);

const COUNTER_BITS: u32 = 48;
const COUNTER_MASK: u64 = (1 << COUNTER_BITS) - 1;

impl FencingToken {
    /// The token for a store's counter, in generation 0.
    ///
    /// Fails with [`Corrupted`](ErrorKind::Corrupted) above 2^48 - 1: at 10,000 writes a second
    /// a store gets there after 890 years, so such a number is not a counter.
    pub fn from_counter(counter: u64) -> Result<Self, Error> {
        if counter > COUNTER_MASK {
            return Err(Error::new(
                ErrorKind::Corrupted,
                Operation::Acquire,
                format!(
                    "the store's counter stands at {counter}, beyond the 48 bits of a fencing token"
                ),
            ));
        }
        Ok(Self(counter))
    }

    /// The store's counter, without the generation.
    pub const fn counter(self) -> u64 {
        self.0 & COUNTER_MASK
    }

    /// The generation.
    pub const fn generation(self) -> Generation {
        // The upper 16 bits hold at most 15 set ones, see `Generation::new`.
        #[allow(clippy::cast_possible_truncation)]
        Generation((self.0 >> COUNTER_BITS) as u16)
    }

    /// The same counter in another generation.
    #[must_use]
    pub const fn in_generation(self, generation: Generation) -> Self {
        Self(self.counter() | ((generation.0 as u64) << COUNTER_BITS))
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

impl fmt::Display for FencingToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How often a lock has moved to another store, 0 to 32767; see [`FencingToken`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Generation(u16);

impl Generation {
    /// The largest generation: with it a token still fits into an `i64`.
    pub const MAX: u16 = i16::MAX.cast_unsigned();

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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_higher_generation_outranks_every_counter() {
        let old = FencingToken::from_counter(COUNTER_MASK).unwrap();
        let new = FencingToken::from_counter(1)
            .unwrap()
            .in_generation(Generation::new(1).unwrap());
        assert!(new > old);
        assert_eq!(new.counter(), 1);
        assert_eq!(new.generation().get(), 1);
    }

    #[test]
    fn the_largest_token_is_a_positive_i64() {
        let token = FencingToken::from_counter(COUNTER_MASK)
            .unwrap()
            .in_generation(Generation::new(Generation::MAX).unwrap());
        assert_eq!(token.as_i64(), i64::MAX);
        assert!(FencingToken::from_counter(COUNTER_MASK + 1).is_err());
        assert!(Generation::new(Generation::MAX + 1).is_err());
    }
}
