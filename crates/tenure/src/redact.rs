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
/// the first `://` and the last `@` goes.
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
        Some((_, host)) => format!("{before}://{HIDDEN}@{}", redact_parameters(host)),
        None => format!("{before}://{}", redact_parameters(after)),
    }
}

fn redact_parameters(text: &str) -> String {
    let Some((location, query)) = text.split_once('?') else {
        return text.to_owned();
    };
    let parameters: Vec<String> = query.split('&').map(redact_parameter).collect();
    format!("{location}?{}", parameters.join("&"))
}

fn redact_parameter(parameter: &str) -> String {
    let Some((name, _)) = parameter.split_once('=') else {
        return parameter.to_owned();
    };
    let lower = name.to_ascii_lowercase();
    if SECRET_WORDS.iter().any(|word| lower.contains(word)) {
        format!("{name}={HIDDEN}")
    } else {
        parameter.to_owned()
    }
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
            (
                "error: 'redis://u:p@h'\nnext line",
                "error: 'redis://***@h'\nnext line",
            ),
        ] {
            assert_eq!(redact(text), expected, "{text}");
        }
    }
}
