//! Parts of an input.

/// The first bytes as a number, and the rest.
pub(crate) fn number(input: &[u8]) -> Option<(u64, &[u8])> {
    let (number, rest) = input.split_first_chunk::<8>()?;
    Some((u64::from_le_bytes(*number), rest))
}

/// The input as text, if it is one.
pub(crate) fn text(input: &[u8]) -> Option<&str> {
    std::str::from_utf8(input).ok()
}

/// The first line, and the rest.
pub(crate) fn line(text: &str) -> (&str, &str) {
    text.split_once('\n').unwrap_or((text, ""))
}
