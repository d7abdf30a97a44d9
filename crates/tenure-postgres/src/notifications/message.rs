//! What sessions tell each other on the channel of this library.

use std::time::Duration;

use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};
use tenure_core::{FencingToken, Holder};
use tokio_postgres::Notification;

use crate::key::AdvisoryKey;

/// The channel on which sessions tell each other of locks.
pub(crate) const CHANNEL: &str = "tenure";

/// What is encoded of a value that the database cannot hold as it is, beside what is not ASCII.
const ENCODED: &AsciiSet = &CONTROLS.add(b'%');

/// What a holder has said of its term.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Announcement {
    pub(crate) pid: i32,
    pub(crate) lock: String,
    pub(crate) lease: Duration,
    pub(crate) token: FencingToken,
    pub(crate) identity: String,
    pub(crate) value: Option<String>,
}

impl Announcement {
    pub(crate) fn holder(&self) -> Holder {
        let mut holder = Holder::new(self.identity.clone());
        holder.token = Some(self.token);
        holder.value.clone_from(&self.value);
        holder
    }

    /// At most 4 kB, of the 8 kB that a notification can carry. Where the database cannot hold
    /// every character, the value is encoded; older versions see none then.
    pub(crate) fn message(&self, key: AdvisoryKey, holds_all_characters: bool) -> String {
        let value = match &self.value {
            Some(value) if holds_all_characters || value.is_ascii() => format!("={value}"),
            Some(value) => format!("%{}", utf8_percent_encode(value, ENCODED)),
            None => "-".to_owned(),
        };
        format!(
            "1 led {key} {} {} {} {} {value}",
            self.lease.as_millis(),
            self.token,
            self.lock,
            self.identity,
        )
    }
}

/// What sessions tell each other.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Message {
    /// The lock was released.
    Free(AdvisoryKey),
    /// An observer wants to know of the term.
    Ask(AdvisoryKey),
    Led(AdvisoryKey, Announcement),
}

pub(crate) fn free_message(key: AdvisoryKey) -> String {
    format!("1 free {key}")
}

pub(crate) fn ask_message(key: AdvisoryKey) -> String {
    format!("1 ask {key}")
}

/// `None` for what other versions or other programs say.
pub(crate) fn read(notification: &Notification) -> Option<Message> {
    if notification.channel() != CHANNEL {
        return None;
    }
    parse(notification.process_id(), notification.payload())
}

pub(crate) fn parse(pid: i32, payload: &str) -> Option<Message> {
    let mut words = payload.splitn(4, ' ');
    let (version, verb, key) = (words.next()?, words.next()?, words.next()?);
    if version != "1" {
        return None;
    }
    let key = AdvisoryKey::parse(key)?;
    match verb {
        "free" => Some(Message::Free(key)),
        "ask" => Some(Message::Ask(key)),
        "led" => {
            let mut words = words.next()?.splitn(5, ' ');
            let mut next = || words.next();
            let announcement = Announcement {
                pid,
                lease: Duration::from_millis(next()?.parse().ok()?),
                token: FencingToken::from_counter(next()?.parse().ok()?).ok()?,
                lock: next()?.to_owned(),
                identity: next()?.to_owned(),
                value: read_value(next()?),
            };
            Some(Message::Led(key, announcement))
        }
        _ => None,
    }
}

fn read_value(text: &str) -> Option<String> {
    if let Some(encoded) = text.strip_prefix('%') {
        let decoded = percent_decode_str(encoded).decode_utf8();
        return decoded.ok().map(Into::into);
    }
    text.strip_prefix('=').map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use tenure_core::LockName;

    use super::*;

    #[test]
    fn messages_are_read_as_they_were_written() {
        let lock = LockName::new("a.b").unwrap();
        let announcement = Announcement {
            pid: 7,
            lock: lock.as_str().to_owned(),
            lease: Duration::from_secs(20),
            token: FencingToken::from_counter(42).unwrap(),
            identity: "pod-1".to_owned(),
            value: Some("http://a b/ -=".to_owned()),
        };
        for key in [AdvisoryKey::Big(-5), AdvisoryKey::Pair(-1, 3)] {
            assert_eq!(parse(7, &free_message(key)), Some(Message::Free(key)));
            assert_eq!(parse(7, &ask_message(key)), Some(Message::Ask(key)));
            let odd = Some("100% é 🦀".to_owned());
            for value in [None, Some(String::new()), announcement.value.clone(), odd] {
                let mut announcement = announcement.clone();
                announcement.value = value;
                let read = |message: String| parse(7, &message);
                let plain = read(announcement.message(key, true));
                let encoded = announcement.message(key, false);
                assert!(encoded.is_ascii(), "{encoded}");
                assert_eq!(plain, read(encoded));
                assert_eq!(plain, Some(Message::Led(key, announcement)));
            }
        }
        for foreign in [
            "",
            "1",
            "1 free",
            "1 free x",
            "2 free 5",
            "1 led 5 x",
            "1 led 5 1 2 a",
        ] {
            assert_eq!(parse(7, foreign), None, "{foreign}");
        }
    }
}
