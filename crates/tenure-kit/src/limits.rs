//! Bounds for the sizes and durations of settings.

use std::time::Duration;

use tenure_core::Error;

/// The shortest time limit that a setting may have.
pub const MIN_TIMEOUT: Duration = Duration::from_millis(1);

/// The longest time limit that a setting may have.
pub const MAX_TIMEOUT: Duration = Duration::from_secs(3600);

/// The largest file that holds a secret, in bytes.
pub const MAX_SECRET_BYTES: u64 = 64 * 1024;

/// The largest file that holds certificates or a key, in bytes. The authorities of a whole system
/// take about 250 KiB.
pub const MAX_PEM_BYTES: u64 = 4 * 1024 * 1024;

/// So much of a user's or a server's text is shown, in characters.
const MAX_SHOWN: usize = 300;
const MAX_SHORTENED: usize = 40;

/// Fails with [`InvalidInput`](tenure_core::ErrorKind::InvalidInput) unless `value` is from
/// [`MIN_TIMEOUT`] to [`MAX_TIMEOUT`]. `setting` is the name that the user knows it by.
pub fn check_timeout(setting: &str, value: Duration) -> Result<(), Error> {
    check_duration(setting, value, MIN_TIMEOUT, MAX_TIMEOUT)
}

/// Fails with [`InvalidInput`](tenure_core::ErrorKind::InvalidInput) unless `value` is from `least`
/// to `most`.
pub fn check_duration(
    setting: &str,
    value: Duration,
    least: Duration,
    most: Duration,
) -> Result<(), Error> {
    if (least..=most).contains(&value) {
        return Ok(());
    }
    Err(Error::invalid_input(format!(
        "the {setting} of {value:?} is outside {least:?} to {most:?}"
    )))
}

/// The beginning of a text that a server sent, up to 300 characters. Control characters are
/// escaped, so that they do not reach terminals and logs.
pub fn shown(text: &str) -> String {
    escaped(text, MAX_SHOWN)
}

/// The first 40 characters of what a user typed, escaped in the same way: enough to recognise it.
pub fn shortened(text: &str) -> String {
    escaped(text, MAX_SHORTENED)
}

fn escaped(text: &str, most: usize) -> String {
    let mut shown = String::new();
    for c in text.chars().take(most) {
        if c.is_control() {
            shown.extend(c.escape_debug());
        } else {
            shown.push(c);
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_limit_of_nothing_is_refused_by_its_name() {
        check_timeout("connect_timeout", Duration::from_secs(2)).unwrap();
        for wrong in [Duration::ZERO, Duration::from_secs(3601)] {
            let error = check_timeout("connect_timeout", wrong).unwrap_err();
            assert!(error.message().contains("connect_timeout"), "{error}");
            assert!(error.message().contains("1ms to 3600s"), "{error}");
        }
    }

    #[test]
    fn texts_of_others_are_escaped_and_cut() {
        let text = shown(&"\u{1b}[31m\"é".repeat(1000));
        assert!(text.starts_with("\\u{1b}[31m\"é"), "{text}");
        assert!(text.len() < 2000, "{text}");
        assert_eq!(shortened(&"x".repeat(100)).len(), 40);
    }
}
