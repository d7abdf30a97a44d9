//! The record as text in the annotation, read as client-go reads it: by the rules of Go's
//! `encoding/json`.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;
use tenure_kube::{ElectionRecord, WallTime};

/// The fields of client-go's record, in its order. Go sorts a field under one of these names also
/// when it is written in other cases.
const HOLDER: &str = "holderIdentity";
const LEASE: &str = "leaseDurationSeconds";
const ACQUIRED: &str = "acquireTime";
const RENEWED: &str = "renewTime";
const TRANSITIONS: &str = "leaderTransitions";

/// Go refuses lists and objects that lie deeper in each other.
const MAX_DEPTH: usize = 10_000;

/// A record as it was found.
#[derive(Debug, Default)]
pub(crate) struct Text {
    /// A duration that is not there is 0.
    pub(crate) record: ElectionRecord,
    /// The fields of other programs, each as it stands there.
    others: Vec<(String, Box<RawValue>)>,
}

impl Text {
    /// Reads `text`, or says what keeps client-go and us from reading it.
    pub(crate) fn read(text: &str) -> Result<Self, String> {
        let whole: &RawValue =
            serde_json::from_str(text).map_err(|error| format!("is no JSON: {error}"))?;
        if depth(text) > MAX_DEPTH {
            return Err(format!("has values that lie more than {MAX_DEPTH} deep"));
        }
        match whole.get().as_bytes().first() {
            Some(b'n') => Ok(Self::default()),
            Some(b'{') => {
                let fields: Fields<'_> = serde_json::from_str(whole.get())
                    .map_err(|error| format!("is no JSON: {error}"))?;
                Self::of(fields)
            }
            _ => Err(format!("is {}, not an object", shown(whole))),
        }
    }

    /// The last of several fields of one name counts, and `null` leaves a text or a number as the
    /// fields before have set it.
    fn of(Fields(fields): Fields<'_>) -> Result<Self, String> {
        let mut text = Self::default();
        let mut problem = None;
        for (name, value) in fields {
            if let Err(wrong) = text.set(name, value) {
                problem.get_or_insert(wrong);
            }
        }
        match problem {
            None => Ok(text),
            Some(problem) if text.record.holder.is_empty() => Err(problem),
            Some(problem) => Err(format!(
                "{problem}; it names the holder {:?}",
                text.record.holder
            )),
        }
    }

    fn set(&mut self, name: String, value: &RawValue) -> Result<(), String> {
        let record = &mut self.record;
        let wrong = |name: &str, wanted: &str| {
            let value = shown(value);
            Err(format!("has {value} as its {name}, which is not {wanted}"))
        };
        let is = |field: &str| name.chars().map(folded).eq(field.chars().map(folded));
        if is(HOLDER) {
            match string(value) {
                Some(holder) => record.holder = holder,
                None if is_null(value) => {}
                None => return wrong(HOLDER, "a text"),
            }
            return Ok(());
        }
        for (field, number) in [
            (LEASE, &mut record.lease_seconds),
            (TRANSITIONS, &mut record.transitions),
        ] {
            if is(field) {
                match value.get().parse() {
                    Ok(value) => *number = value,
                    Err(_) if is_null(value) => {}
                    Err(_) => return wrong(field, "a whole number of 64 bits"),
                }
                return Ok(());
            }
        }
        for (field, time) in [
            (ACQUIRED, &mut record.acquired),
            (RENEWED, &mut record.renewed),
        ] {
            if is(field) {
                let read = string(value).and_then(|text| WallTime::parse(&text));
                *time = match read {
                    Some(read) => (!read.is_zero()).then(|| read.to_time()),
                    None if is_null(value) => None,
                    None => return wrong(field, "a time of RFC 3339"),
                };
                return Ok(());
            }
        }
        self.others.push((name, value.to_owned()));
        Ok(())
    }

    /// Client-go's text of `record`, followed by the fields of other programs that stand here.
    pub(crate) fn write(&self, record: &ElectionRecord) -> String {
        let time = |time: &Option<String>| time.clone().map_or(Value::Null, Value::from);
        let ours = [
            (HOLDER, Value::from(record.holder.as_str())),
            (LEASE, Value::from(record.lease_seconds)),
            (ACQUIRED, time(&record.acquired)),
            (RENEWED, time(&record.renewed)),
            (TRANSITIONS, Value::from(record.transitions)),
        ];
        let ours = ours.map(|(name, value)| format!("\"{name}\":{value}"));
        let others = self
            .others
            .iter()
            .map(|(name, value)| format!("{}:{}", Value::from(name.as_str()), value.get()));
        let fields: Vec<String> = ours.into_iter().chain(others).collect();
        escaped_as_in_go(&format!("{{{}}}", fields.join(",")))
    }
}

/// The fields of an object, in their order.
struct Fields<'a>(Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for Fields<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Each;
        impl<'de> Visitor<'de> for Each {
            type Value = Fields<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
                let mut fields = Vec::new();
                while let Some((GoString(name), value)) = map.next_entry()? {
                    fields.push((name, value));
                }
                Ok(Fields(fields))
            }
        }
        deserializer.deserialize_map(Each)
    }
}

/// A text of JSON, in which Go puts U+FFFD in the place of a surrogate that has no partner.
struct GoString(String);

impl<'de> Deserialize<'de> for GoString {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bytes;
        impl Visitor<'_> for Bytes {
            type Value = GoString;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text")
            }
            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<GoString, E> {
                Ok(GoString(without_surrogates(bytes)))
            }
        }
        // As bytes a surrogate without a partner is let through.
        deserializer.deserialize_bytes(Bytes)
    }
}

/// Surrogates without a partner stand there as three bytes each, which UTF-8 has no use for.
fn without_surrogates(bytes: &[u8]) -> String {
    const REPLACEMENT: &[u8] = "\u{fffd}".as_bytes();
    let mut text = bytes.to_vec();
    for start in 0..text.len() {
        if let Some([0xed, 0xa0..=0xbf, _]) = text.get(start..start + 3) {
            text[start..start + 3].copy_from_slice(REPLACEMENT);
        }
    }
    String::from_utf8_lossy(&text).into_owned()
}

fn string(value: &RawValue) -> Option<String> {
    let text: GoString = serde_json::from_str(value.get()).ok()?;
    Some(text.0)
}

fn is_null(value: &RawValue) -> bool {
    value.get() == "null"
}

/// Go's folding of names, as far as it bears on names of ASCII letters.
fn folded(character: char) -> char {
    match character {
        '\u{17f}' => 's',
        '\u{212a}' => 'k',
        other => other.to_ascii_lowercase(),
    }
}

/// How deep the lists and objects of a JSON text lie in each other.
fn depth(json: &str) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0);
    let (mut in_text, mut is_escaped) = (false, false);
    for byte in json.bytes() {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' => is_escaped = true,
            b'"' => in_text = !in_text,
            _ if in_text => {}
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    deepest
}

/// A value for an error: anybody can have written it, and it can be long.
fn shown(value: &RawValue) -> String {
    const MOST: usize = 40;
    let text: String = value.get().chars().take(MOST).collect();
    let end = if text.len() < value.get().len() {
        "..."
    } else {
        ""
    };
    // A text is escaped already, but for characters that turn a terminal's line around.
    let escaped = text.chars().map(|character| match character {
        ' '..='~' => character.to_string(),
        other => other.escape_default().to_string(),
    });
    format!("{}{end}", escaped.collect::<String>())
}

/// Go escapes what HTML would read, and two characters that `JavaScript` once could not; outside
/// of strings they do not stand in JSON.
fn escaped_as_in_go(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for character in json.chars() {
        match character {
            '<' => text.push_str("\\u003c"),
            '>' => text.push_str("\\u003e"),
            '&' => text.push_str("\\u0026"),
            '\u{2028}' => text.push_str("\\u2028"),
            '\u{2029}' => text.push_str("\\u2029"),
            other => text.push(other),
        }
    }
    text
}
