//! What has to be true of every answer.

use tenure_core::{Error, Holder};

/// An error is for a person: it says something, and nothing that a terminal obeys.
pub(crate) fn error(error: &Error) {
    message(error.message());
}

pub(crate) fn message(message: &str) {
    assert!(!message.is_empty(), "an error says nothing");
    assert!(
        !message.contains(char::is_control),
        "a terminal would obey: {message:?}"
    );
    assert!(
        message.len() < 16_384,
        "an error of {} bytes",
        message.len()
    );
}

/// A holder has a name of a bounded length.
pub(crate) fn holder(holder: &Holder) {
    let length = holder.identity.chars().count();
    assert!(length <= 1024, "an identity of {length} characters");
}
