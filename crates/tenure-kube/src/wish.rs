//! A wish that a leader resign: an annotation beside the record, which is no part of its mark.

use std::time::Duration;

use tenure_core::{BootClock, Clock as _, FencingToken, Wish};

use crate::time::WallTime;

/// The annotation in which a leader is asked to resign: the token of its term, a space, and the time
/// at which the wish ends.
pub const WISH_ANNOTATION: &str = "tenure/resign";

/// The text of the annotation.
///
/// The leader compares the end with its own wall clock. That decides about no lock: where the clocks
/// differ, a wish for this very term counts for longer, or for less.
pub(crate) struct WishText;

impl WishText {
    /// A wish for the term with `token` that counts for `lasts` from now on.
    pub(crate) fn write(token: FencingToken, lasts: Duration) -> String {
        format!("{token} {}", WallTime::now().plus(lasts).to_micro_time())
    }

    pub(crate) fn read(annotation: Option<&str>) -> Option<Wish> {
        let (token, until) = annotation?.split_once(' ')?;
        let token = FencingToken::from_counter(token.parse().ok()?).ok()?;
        let left = WallTime::from_now(until)?;
        Some(Wish::new(token, BootClock.now() + left))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_nothing_else() {
        let token = FencingToken::from_counter(41).unwrap();
        let text = WishText::write(token, Duration::from_secs(60));
        let wish = WishText::read(Some(&text)).unwrap();
        assert!(wish.counts_for(token, BootClock.now()), "{text}");
        assert!(!wish.counts_for(token, BootClock.now() + Duration::from_secs(61)));
        for other in ["", "41", "41 soon", "-1 2021-12-07T15:38:32.000001Z"] {
            assert_eq!(WishText::read(Some(other)), None, "{other}");
        }
        let over = WishText::read(Some("41 2021-12-07T15:38:32.000001Z")).unwrap();
        assert!(!over.counts_for(token, BootClock.now()));
    }
}
