//! The names of a lock's keys and of its channel.
//!
//! In a cluster all keys that a script uses must be in one slot. The slot of a key is that of its
//! hash tag: what stands between its first `{` and the next `}`. A key without a tag has the slot
//! of its whole name.

use tenure_core::{Error, LockName};

/// The longest key that an application may give to a lock, in bytes.
const MAX_KEY_BYTES: usize = 512;

/// All follow from the name of the lock's key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KeyNames {
    lock: String,
}

impl KeyNames {
    /// Those of a lock that was given no key.
    pub(crate) fn of(prefix: &str, lock: &LockName) -> Self {
        Self {
            lock: format!("{prefix}:{{{lock}}}"),
        }
    }

    /// Those of an election that exists already, under this key.
    pub(crate) fn at(key: String) -> Result<Self, Error> {
        if key.is_empty() || key.len() > MAX_KEY_BYTES || key.chars().any(char::is_control) {
            return Err(Error::invalid_input(format!(
                "the key of a lock is empty, is longer than {MAX_KEY_BYTES} bytes or holds control \
                 characters"
            )));
        }
        if hash_tag(&key).is_none() && key.contains('}') {
            return Err(Error::invalid_input(
                "the key of a lock has a } but no hash tag like {tag}, so in a cluster no fence \
                 could be in its slot; use another key",
            ));
        }
        Ok(Self { lock: key })
    }

    /// The key that holds the lock's value while it is held.
    pub(crate) fn lock(&self) -> &str {
        &self.lock
    }

    /// The key of its fence.
    pub(crate) fn fence(&self) -> String {
        beside(&self.lock, "fence")
    }

    /// The key of the number of failovers that the last term knew of, where there are sentinels.
    pub(crate) fn failovers(&self) -> String {
        beside(&self.lock, "failovers")
    }

    /// The channel on which its releases are told.
    pub(crate) fn channel(&self) -> String {
        beside(&self.lock, "released")
    }

    /// Whether a key of one lock is a key of the other.
    pub(crate) fn meet(&self, other: &Self) -> bool {
        let names = |keys: &Self| [keys.lock.clone(), keys.fence(), keys.failovers()];
        let theirs = names(other);
        names(self).iter().any(|name| theirs.contains(name))
    }

    /// What a user must be allowed, as access control lists have it.
    pub(crate) fn patterns(&self) -> String {
        let (key, others) = (literal(&self.lock), literal(&beside(&self.lock, "")));
        format!("~{key} ~{others}* &{others}*")
    }
}

/// The name of something else of the lock with this key, in the same slot.
///
/// The two forms end differently, so that no two keys have one fence: `{a}` and `a` would.
pub(crate) fn beside(key: &str, what: &str) -> String {
    match hash_tag(key) {
        Some(_) => format!("{key}:{what}"),
        None => format!("{{{key}}}.{what}"),
    }
}

/// The part of a key that decides its slot, if it is not the whole key.
pub(crate) fn hash_tag(key: &str) -> Option<&str> {
    let (_, rest) = key.split_once('{')?;
    let (tag, _) = rest.split_once('}')?;
    (!tag.is_empty()).then_some(tag)
}

/// A pattern that matches this text alone.
fn literal(text: &str) -> String {
    let mut pattern = String::new();
    for c in text.chars() {
        if "*?[]\\".contains(c) {
            pattern.push('\\');
        }
        pattern.push(c);
    }
    pattern
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(key: &str) -> KeyNames {
        KeyNames::at(key.to_owned()).unwrap()
    }

    #[test]
    fn all_keys_of_a_lock_have_one_hash_tag() {
        let lock = LockName::new("job").unwrap();
        let own = KeyNames::of("tenure", &lock);
        assert_eq!(own.lock(), "tenure:{job}");
        assert_eq!(own.fence(), "tenure:{job}:fence");
        // Joined by its key, a lock of this library is the same election.
        assert_eq!(at("tenure:{job}"), own);
        for (key, tag) in [
            ("WantNumberOne", "WantNumberOne"),
            ("a/b c", "a/b c"),
            ("a{b", "a{b"),
            ("x{y}z{w}", "y"),
        ] {
            let keys = at(key);
            assert_eq!(hash_tag(key).unwrap_or(key), tag);
            for name in [keys.fence(), keys.failovers()] {
                assert_eq!(hash_tag(&name), Some(tag), "{name}");
            }
        }
        for wrong in ["", "a}b", "{}a", "a\nb", &"x".repeat(MAX_KEY_BYTES + 1)] {
            assert!(KeyNames::at(wrong.to_owned()).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn locks_meet_when_a_key_of_one_is_a_key_of_the_other() {
        assert!(at("a").meet(&at("a")));
        assert!(at("a").meet(&at("{a}.fence")));
        assert!(at("x{a}:failovers").meet(&at("x{a}")));
        assert!(!at("a").meet(&at("{a}")), "{:?}", at("a").fence());
        assert!(!at("a").meet(&at("b")));
    }

    #[test]
    fn patterns_match_the_keys_alone() {
        assert_eq!(
            at("my_leader").patterns(),
            "~my_leader ~{my_leader}.* &{my_leader}.*"
        );
        assert_eq!(at("a*{b}").patterns(), r"~a\*{b} ~a\*{b}:* &a\*{b}:*");
    }
}
