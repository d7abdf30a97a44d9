//! Keys and errors of etcd.

use tenure_etcd::fuzzing;

use crate::{inputs, plant, rules};

/// The lease and the create revision of a key, the key and a line's end, and its value.
pub(crate) fn key(input: &[u8]) {
    let Some((lease, rest)) = inputs::number(input) else {
        return;
    };
    let Some((revision, rest)) = inputs::number(rest) else {
        return;
    };
    let mut parts = rest.splitn(2, |byte| *byte == b'\n');
    let (key, value) = (
        parts.next().unwrap_or_default(),
        parts.next().unwrap_or_default(),
    );
    let found = fuzzing::first_key(key, value, lease.cast_signed(), revision.cast_signed());
    if let Some(holder) = found {
        rules::holder(&holder);
        let token = holder.token.map(tenure_core::FencingToken::as_u64);
        plant::at(token == Some(9), &holder.value.unwrap_or_default());
    }
}

/// A status code and a server's text.
pub(crate) fn status(input: &[u8]) {
    let Some((code, text)) = input.split_first() else {
        return;
    };
    let Some(text) = inputs::text(text) else {
        return;
    };
    let message = fuzzing::status(i32::from(*code % 17), text);
    rules::message(&message);
    plant::at(message.contains("defragment"), text);
}
