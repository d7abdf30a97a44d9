//! Changes one part of an input, so that what stands around it stays as it is: a text of JSON, or a
//! line.
//!
//! Most bytes that libFuzzer changes make an input that is refused at its first look.

use serde_json::Value;

/// The input with one of its texts as `change` makes it; `seed` chooses which. `None` if the input is
/// no JSON, or has no text.
pub fn change_a_text(
    input: &[u8],
    seed: u32,
    change: &mut dyn FnMut(&str) -> String,
) -> Option<Vec<u8>> {
    let mut value: Value = serde_json::from_slice(input).ok()?;
    let mut texts = Vec::new();
    collect(&mut value, &mut texts);
    let seed = usize::try_from(seed).ok()?;
    let chosen = seed.checked_rem(texts.len())?;
    let text = texts.swap_remove(chosen);
    // A record in an annotation is JSON within JSON.
    let rest = u32::try_from(seed / (texts.len() + 1)).ok()?;
    let within = change_a_text(text.as_bytes(), rest, change);
    *text = match within.and_then(|bytes| String::from_utf8(bytes).ok()) {
        Some(changed) => changed,
        None => change(text),
    };
    serde_json::to_vec(&value).ok()
}

/// The input with one of its lines as `change` makes it; `seed` chooses which. `None` if the input is
/// no text. A line's end is not changed.
pub fn change_a_line(
    input: &[u8],
    seed: u32,
    change: &mut dyn FnMut(&str) -> String,
) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(input).ok()?;
    let mut lines: Vec<&str> = text.split('\n').collect();
    let chosen = usize::try_from(seed).ok()? % lines.len();
    let line = lines.get_mut(chosen)?;
    let end = if line.ends_with('\r') { "\r" } else { "" };
    let changed = change(line.trim_end_matches('\r')).replace(['\r', '\n'], "") + end;
    *line = &changed;
    Some(lines.join("\n").into_bytes())
}

fn collect<'a>(value: &'a mut Value, texts: &mut Vec<&'a mut String>) {
    match value {
        Value::String(text) => texts.push(text),
        Value::Array(all) => all.iter_mut().for_each(|one| collect(one, texts)),
        Value::Object(all) => all.values_mut().for_each(|one| collect(one, texts)),
        _ => {}
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;

    fn changed(input: &str, seed: u32) -> Option<String> {
        let changed = change_a_text(input.as_bytes(), seed, &mut |text| format!("{text}!"));
        changed.map(|bytes| String::from_utf8(bytes).unwrap())
    }

    #[test]
    fn one_text_is_changed_and_the_rest_stays() {
        let input = r#"{"a":"x","b":[1,"y"]}"#;
        assert_eq!(changed(input, 0).unwrap(), r#"{"a":"x!","b":[1,"y"]}"#);
        assert_eq!(changed(input, 1).unwrap(), r#"{"a":"x","b":[1,"y!"]}"#);
    }

    #[test]
    fn a_text_within_a_text_is_changed() {
        let input = r#"{"a":"{\"b\":\"x\"}"}"#;
        assert_eq!(changed(input, 0).unwrap(), r#"{"a":"{\"b\":\"x!\"}"}"#);
    }

    #[test]
    fn one_line_is_changed_and_keeps_its_end() {
        let change = |seed| change_a_line(b"a\r\nb\nc", seed, &mut |line| format!("{line}\n!"));
        assert_eq!(change(0).unwrap(), b"a!\r\nb\nc");
        assert_eq!(change(4).unwrap(), b"a\r\nb!\nc");
    }

    #[test]
    fn what_has_no_text_is_left_to_others() {
        assert_eq!(changed("[1]", 0), None);
        assert_eq!(changed("no json", 0), None);
    }
}
