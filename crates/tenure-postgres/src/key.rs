//! From a lock's name to the advisory lock that stands for it.

use std::fmt;

use sha2::{Digest as _, Sha256};
use tenure_core::LockName;

/// What is hashed before the name, so that other uses of the same hash get other keys.
const DOMAIN: &[u8] = b"tenure:";

/// The first number of the (int, int) keys that tell that a session lives: "tenu" in ASCII. The
/// second is the session's process id at the server.
pub(crate) const ALIVE: i32 = 0x7465_6e75;

/// An advisory lock: one `bigint`, or two `int`s, which are separate key spaces.
///
/// Advisory locks have no names and no owners: every role of the database can take any of them.
/// By default the key of a lock is the first eight bytes of `SHA-256("tenure:" + name)`, big
/// endian, as a signed `bigint`; so programs in other languages can take part, and SQL can compute
/// it:
///
/// ```sql
/// select ('x' || left(encode(sha256('tenure:nightly-batch'), 'hex'), 16))::bit(64)::bigint;
/// ```
///
/// | name | key | with [`in_class`](Self::in_class) `(7, …)` |
/// |---|---|---|
/// | `nightly-batch` | 2623679654095918863 | 7,610873022 |
/// | `a` | -244021003847079895 | 7,-56815568 |
/// | `invoices.eu` | 103925153355898129 | 7,24196960 |
///
/// This derivation never changes. Two names share a key with a probability of one in 10^19; when
/// it is seen to happen, the later candidate gets a
/// [`Misconfigured`](tenure_core::ErrorKind::Misconfigured) error that says so. It is seen in one
/// process always, between processes once the holder's name has been heard (see the crate's
/// documentation).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum AdvisoryKey {
    /// `pg_advisory_lock(bigint)`.
    Big(i64),
    /// `pg_advisory_lock(int, int)`.
    Pair(i32, i32),
}

impl AdvisoryKey {
    /// The default key of a lock.
    pub fn of(lock: &LockName) -> Self {
        Self::Big(first_eight(digest(lock)).cast_signed())
    }

    /// The key of a lock in the (int, int) key space: `class`, and the first four bytes of the
    /// same hash.
    pub fn in_class(class: i32, lock: &LockName) -> Self {
        let [a, b, c, d, ..] = digest(lock);
        Self::Pair(class, i32::from_be_bytes([a, b, c, d]))
    }

    /// Whether this is the lock's key by its name, and not one that the configuration has given it.
    pub(crate) fn is_derived_from(self, lock: &LockName) -> bool {
        self == match self {
            Self::Big(_) => Self::of(lock),
            Self::Pair(class, _) => Self::in_class(class, lock),
        }
    }

    /// The three parameters of the statements: a `bigint`, or two `int`s.
    pub(crate) fn parameters(self) -> (Option<i64>, Option<i32>, Option<i32>) {
        match self {
            Self::Big(key) => (Some(key), None, None),
            Self::Pair(class, object) => (None, Some(class), Some(object)),
        }
    }

    /// How `pg_locks` shows it: its two numbers in one, and `objsubid`.
    pub(crate) fn in_pg_locks(self) -> (i64, i16) {
        match self {
            Self::Big(key) => (key, 1),
            Self::Pair(class, object) => {
                let low = i64::from(object.cast_unsigned());
                ((i64::from(class) << 32) | low, 2)
            }
        }
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        match text.split_once(',') {
            Some((class, object)) => Some(Self::Pair(class.parse().ok()?, object.parse().ok()?)),
            None => text.parse().ok().map(Self::Big),
        }
    }
}

/// As the arguments of `pg_advisory_lock`.
impl fmt::Display for AdvisoryKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Big(key) => key.fmt(f),
            Self::Pair(class, object) => write!(f, "{class},{object}"),
        }
    }
}

fn digest(lock: &LockName) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(DOMAIN);
    hash.update(lock.as_str());
    hash.finalize().into()
}

fn first_eight(digest: [u8; 32]) -> u64 {
    let fold = |number: u64, byte: &u8| (number << 8) | u64::from(*byte);
    digest[..8].iter().fold(0, fold)
}

/// At most 63 bytes, which is all that the server keeps of an `application_name`: a longer
/// identity keeps its beginning, and the rest becomes 16 digits of its hash.
pub(crate) fn application_name(identity: &str) -> String {
    const LONGEST: usize = 63;
    const DIGITS: usize = 16;
    if identity.len() <= LONGEST {
        return identity.to_owned();
    }
    let hash = first_eight(Sha256::digest(identity).into());
    // Identities are visible ASCII.
    let kept: String = identity.chars().take(LONGEST - DIGITS - 1).collect();
    format!("{kept}#{hash:016x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_those_of_the_documentation() {
        for (name, key, object) in [
            ("nightly-batch", 2_623_679_654_095_918_863, 610_873_022),
            ("a", -244_021_003_847_079_895, -56_815_568),
            ("invoices.eu", 103_925_153_355_898_129, 24_196_960),
        ] {
            let lock = LockName::new(name).unwrap();
            assert_eq!(AdvisoryKey::of(&lock), AdvisoryKey::Big(key), "{name}");
            let in_class = AdvisoryKey::in_class(7, &lock);
            assert_eq!(in_class, AdvisoryKey::Pair(7, object), "{name}");
        }
    }

    #[test]
    fn keys_stand_in_pg_locks_as_the_server_puts_them() {
        assert_eq!(AdvisoryKey::Big(-1).in_pg_locks(), (-1, 1));
        assert_eq!(AdvisoryKey::Pair(1, -1).in_pg_locks(), (0x1_ffff_ffff, 2));
        for key in [AdvisoryKey::Big(-5), AdvisoryKey::Pair(-1, 7)] {
            assert_eq!(AdvisoryKey::parse(&key.to_string()), Some(key));
        }
    }

    #[test]
    fn long_identities_keep_their_beginning() {
        assert_eq!(application_name("pod-1"), "pod-1");
        let long = "x".repeat(253);
        let name = application_name(&long);
        assert_eq!(name.len(), 63);
        assert_ne!(name, application_name(&"x".repeat(252)));
    }
}
