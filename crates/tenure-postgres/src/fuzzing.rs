//! Doors for the fuzz targets of this repository. No part of the interface: anything here may change.

use tenure_core::Holder;

use crate::notifications::message::{self, Message};

/// A notification's text: the holder that it announces, if it announces one.
///
/// What is announced is said again, and must be understood as the same.
pub fn notification(payload: &str) -> Option<Holder> {
    let Message::Led(key, announcement) = message::parse(7, payload)? else {
        return None;
    };
    for holds_all_characters in [true, false] {
        let said = announcement.message(key, holds_all_characters);
        let Some(Message::Led(again, heard)) = message::parse(7, &said) else {
            panic!("not understood by ourselves: {said:?}");
        };
        assert_eq!((again, &heard), (key, &announcement));
    }
    Some(announcement.holder())
}
