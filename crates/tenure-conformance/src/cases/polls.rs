//! Calls that are dropped after a number of polls.

use crate::verdict::{Stop, Verdict, fail};

/// How often a call is polled at most before it has to be done.
const MOST_POLLS: usize = 200;

/// Repeats a round whose `call` is dropped after 0, 1, 2 and more polls, until it says that the
/// call was done.
pub(super) async fn at_each_poll(
    call: &str,
    mut round: impl AsyncFnMut(usize) -> Result<bool, Stop>,
) -> Verdict {
    for polls in 0..MOST_POLLS {
        if round(polls).await? {
            return Ok(());
        }
    }
    fail!("{call} was not done after {MOST_POLLS} polls")
}
