//! [`Wish`]: a leader is asked to resign.

use crate::contract::clock::Time;
use crate::contract::token::FencingToken;

/// A wish that a leader resign: see [`LockBackend::ask_to_resign`](crate::LockBackend::ask_to_resign).
///
/// It names the term by its token. So a wish that comes late never ends the term of the next
/// leader, nor a later term of the same one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Wish {
    /// The token of the term that is to end.
    pub token: FencingToken,
    /// From then on it counts no more, on the backend's clock.
    pub until: Time,
}

impl Wish {
    /// A wish that counts until `until`, a time of the backend's clock.
    pub fn new(token: FencingToken, until: Time) -> Self {
        Self { token, until }
    }

    /// Whether the leader of the term with `token` is to resign, at `now`.
    pub fn counts_for(&self, token: FencingToken, now: Time) -> bool {
        self.token == token && now < self.until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wish_counts_for_its_own_term_until_its_end() {
        let token = |number| FencingToken::from_counter(number).unwrap();
        let wish = Wish::new(token(7), Time::from_nanos(100));
        assert!(wish.counts_for(token(7), Time::from_nanos(99)));
        assert!(!wish.counts_for(token(7), Time::from_nanos(100)), "over");
        assert!(
            !wish.counts_for(token(8), Time::from_nanos(99)),
            "another term"
        );
    }
}
