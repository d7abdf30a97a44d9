//! Text that may be shown although a URL with a password stands in it.

use std::borrow::Cow;

/// Words in the name of a URL's parameter that say that its value is a secret.
const SECRET_WORDS: [&str; 5] = ["pass", "secret", "token", "credential", "pwd"];

/// What stands in place of a secret.
const HIDDEN: &str = "***";

/// `text` with what may be a secret in its URLs replaced by `***`: user and password, and the
/// values of parameters such as `password=`.
///
/// For logs and error messages. It would rather hide too much than too little: a password that
/// should have been percent-encoded may hold any character, so in each line everything between
/// the first `://` and the last `@` goes. Where that `@` may stand within a parameter's secret, all
/// that follows goes too.
///
/// ```
/// assert_eq!(
///     tenure::redact("redis://user:s3cret@host:6379/0"),
///     "redis://***@host:6379/0",
/// );
/// ```
#[must_use]
pub fn redact(text: &str) -> Cow<'_, str> {
    if !text.contains("://") {
        return Cow::Borrowed(text);
    }
    let lines: Vec<String> = text.split('\n').map(redact_line).collect();
    Cow::Owned(lines.join("\n"))
}

fn redact_line(line: &str) -> String {
    let Some((before, after)) = line.split_once("://") else {
        return line.to_owned();
    };
    match after.rsplit_once('@') {
        Some((hidden, _)) if has_secret_parameter(hidden) => format!("{before}://{HIDDEN}"),
        Some((_, host)) => format!("{before}://{HIDDEN}@{}", redact_parameters(host)),
        None => format!("{before}://{}", redact_parameters(after)),
    }
}

/// Whether a parameter that holds a secret stands in `text`, which may end within it.
fn has_secret_parameter(text: &str) -> bool {
    text.split_once(['?', '&'])
        .is_some_and(|(_, parameters)| is_secret(parameters))
}

/// The `?` may be missing, when it stood before an `@` in a parameter.
fn redact_parameters(text: &str) -> String {
    let Some(end) = text.find(['?', '&']) else {
        return text.to_owned();
    };
    let (location, query) = text.split_at(end);
    let mut after_secret = false;
    let parameters: Vec<String> = query
        .split('&')
        .map(|parameter| {
            let redacted = redact_parameter(parameter, after_secret);
            after_secret |= is_secret(parameter);
            redacted
        })
        .collect();
    format!("{location}{}", parameters.join("&"))
}

/// What stands alone after a secret may be its end, behind a `&` that should have been encoded.
fn redact_parameter(parameter: &str, after_secret: bool) -> String {
    match parameter.split_once('=') {
        Some((name, _)) if is_secret(parameter) => format!("{name}={HIDDEN}"),
        None if after_secret => HIDDEN.to_owned(),
        _ => parameter.to_owned(),
    }
}

/// Whether a value in there belongs to a name that says that it is a secret. All before the last
/// `=` counts as a name: there may be a second one where a `&` was mistyped.
fn is_secret(parameters: &str) -> bool {
    parameters.rsplit_once('=').is_some_and(|(names, _)| {
        let names = names.to_ascii_lowercase();
        SECRET_WORDS.iter().any(|word| names.contains(word))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_hidden_and_the_rest_is_kept() {
        for (text, expected) in [
            ("no URL, a@b", "no URL, a@b"),
            ("file:///var/locks", "file:///var/locks"),
            ("etcd://host:2379/a", "etcd://host:2379/a"),
            ("etcd://u:p@a:1,b:2/x", "etcd://***@a:1,b:2/x"),
            ("redis://:p/a@s?s w\"o@h/0", "redis://***@h/0"),
            ("redis://token@h", "redis://***@h"),
            (
                "postgres://h/db?sslmode=require&password=p&user=u",
                "postgres://h/db?sslmode=require&password=***&user=u",
            ),
            (
                "postgres://h/db?SSLPassword=p#x",
                "postgres://h/db?SSLPassword=***",
            ),
            ("postgres://a@h/db?password=abc@hunter2", "postgres://***"),
            (
                "postgres://a@h/db?password=abc@hunter2&x=1",
                "postgres://***",
            ),
            (
                "postgres://h/db?x=1&sentinel_password=a@hunter2",
                "postgres://***",
            ),
            (
                "redis://h?sentinel_password=a/b",
                "redis://h?sentinel_password=***",
            ),
            ("postgres://u:p@h/db?user=a@b", "postgres://***@b"),
            (
                "postgres://h/db?password=ab&hunter2&x=1",
                "postgres://h/db?password=***&***&x=1",
            ),
            (
                "postgres://h/db?user=a@b&password=p&x=1",
                "postgres://***@b&password=***&x=1",
            ),
            ("postgres://h/db?x=1?password=p", "postgres://h/db?x=***"),
            (
                "error: 'redis://u:p@h'\nnext line",
                "error: 'redis://***@h'\nnext line",
            ),
        ] {
            assert_eq!(redact(text), expected, "{text}");
        }
    }
}
