//! Keys and values, as Go's `concurrency.Election` and `etcdctl elect` lay them out.
//!
//! A candidate's key is the election's name, a slash, and the candidate's lease in lowercase
//! hexadecimal. The one with the smallest create revision leads. The value is a candidate's
//! proposal: here its identity, and after a space what it publishes, if anything. Identities have
//! no spaces. Election never depends on the value.
//!
//! While a candidate of this library waits, `waiting` follows its identity. It removes the word in
//! the transaction that finds its key to be the first: so a candidate that died while it waited is
//! not shown as the leader when its turn comes. Others lead by being first, without that word.
//!
//! A tab, `resign=` and a time may follow a leader's value: until then it is asked to resign.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use etcd_client::{Compare, CompareOp, GetOptions, KeyValue, SortOrder, SortTarget, Txn, TxnOp};
use tenure_core::{Candidate, Error, ErrorKind, FencingToken, Holder};

use crate::errors::StoreError;

/// Neither an identity nor a published value holds a tab.
const WAITING: &str = "\twaiting";

/// What stands before the end of a wish that the leader resign, in milliseconds since 1970.
const WISH: &str = "\tresign=";

/// So much of an identity is told, in characters: ours are shorter, and any program may write here.
const MOST_OF_IDENTITY: usize = 1024;

/// The key of the candidate with this lease, in the election whose keys begin so.
pub(crate) fn candidate(election: &str, lease: i64) -> String {
    format!("{election}{lease:x}")
}

/// The election whose candidate has this key: what is before the lease.
pub(crate) fn election_of(key: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(key).ok()?;
    let (election, lease) = text.split_at(text.rfind('/')? + 1);
    let is_lease = !lease.is_empty() && lease.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_lease.then_some(election)
}

/// Whether a key of one election would take part in the other.
pub(crate) fn meet(one: &String, other: &String) -> bool {
    one.starts_with(other) || other.starts_with(one)
}

/// The value of a leader.
pub(crate) fn proposal(candidate: &Candidate) -> String {
    let identity = &candidate.identity;
    match &candidate.value {
        Some(value) => format!("{identity} {value}"),
        None => identity.to_string(),
    }
}

/// The value of a candidate that has not confirmed its term.
pub(crate) fn waiting(candidate: &Candidate) -> String {
    format!("{}{WAITING}", candidate.identity)
}

/// The value with the wish that its leader resign, which ends `lasts` from now.
///
/// The leader compares the end with its own wall clock. That decides about no lock: where the clocks
/// differ, a wish for this very term counts for longer, or for less.
pub(crate) fn with_wish(value: &[u8], lasts: Duration) -> String {
    let text = String::from_utf8_lossy(value);
    let ends = since_1970().saturating_add(lasts).as_millis();
    format!("{}{WISH}{ends}", without_wish(&text))
}

/// How long the wish in a value counts yet; zero for one that is over, or has no time.
pub(crate) fn wish(value: &[u8]) -> Option<Duration> {
    let text = std::str::from_utf8(value).ok()?;
    let (_, ends) = text.rsplit_once(WISH)?;
    let ends = Duration::from_millis(ends.parse().unwrap_or_default());
    Some(ends.saturating_sub(since_1970()))
}

fn without_wish(text: &str) -> &str {
    text.rsplit_once(WISH).map_or(text, |(text, _)| text)
}

fn since_1970() -> Duration {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap_or_default()
}

/// Who stands first in a queue, as its key tells; any program can have written it.
pub(crate) enum First {
    Leader(Holder),
    /// A candidate that has not confirmed its term yet, and never will if it is dead.
    Waiter(Holder),
    /// A key that hangs on no lease. Nobody is elected past it, and it never ends.
    Obstacle(Vec<u8>),
}

impl First {
    pub(crate) fn of(kv: &KeyValue) -> Result<Self, Error> {
        Self::read(kv.key(), kv.value(), kv.lease(), kv.create_revision())
    }

    pub(crate) fn read(
        key: &[u8],
        value: &[u8],
        lease: i64,
        create_revision: i64,
    ) -> Result<Self, Error> {
        if lease == 0 {
            return Ok(Self::Obstacle(key.to_vec()));
        }
        let text = String::from_utf8_lossy(value);
        let holder = |identity: &str| {
            let told: String = identity.chars().take(MOST_OF_IDENTITY).collect();
            Holder::new(told)
        };
        if let Some(identity) = text.strip_suffix(WAITING) {
            return Ok(Self::Waiter(holder(identity)));
        }
        let text = without_wish(&text);
        let (identity, value) = match text.split_once(' ') {
            Some((identity, value)) => (identity, Some(value.to_owned())),
            None => (text, None),
        };
        let mut holder = holder(identity);
        holder.value = value;
        holder.token = Some(token(create_revision)?);
        Ok(Self::Leader(holder))
    }
}

/// What is wrong with a key that hangs on no lease, and what removes it.
pub(crate) fn obstacle(key: &[u8]) -> StoreError {
    StoreError::new(
        ErrorKind::Corrupted,
        format!(
            "the key {} hangs on no lease, so it never ends, and nobody is elected past it; the \
             program that wrote it may lead: stop it first, and only then delete the key: `{}`",
            shown(key),
            deletion(key)
        ),
    )
}

/// The command that deletes a key.
pub(crate) fn deletion(key: &[u8]) -> String {
    let dashes = if key.starts_with(b"-") { "-- " } else { "" };
    format!("etcdctl del {dashes}{}", shown(key))
}

/// A key as a shell takes it; any program can have written it.
pub(crate) fn shown(key: &[u8]) -> String {
    let plain = |c: &u8| c.is_ascii_alphanumeric() || b"/.-_:@%+=,".contains(c);
    if !key.is_empty() && key.iter().all(plain) {
        return String::from_utf8_lossy(key).into_owned();
    }
    let quoted = |c: &u8| match *c {
        c @ (b'\'' | b'\\') => format!("\\{}", char::from(c)),
        c @ b' '..=b'~' => char::from(c).to_string(),
        c => format!("\\x{c:02x}"),
    };
    format!("$'{}'", key.iter().map(quoted).collect::<String>())
}

/// The fencing token of the term that began with this create revision.
pub(crate) fn token(create_revision: i64) -> Result<FencingToken, Error> {
    FencingToken::from_counter(u64::try_from(create_revision).unwrap_or(u64::MAX))
}

/// The create revision of the term with this token.
pub(crate) fn revision(token: FencingToken) -> i64 {
    token.as_i64()
}

/// The leader's key, among those that begin with the election's.
pub(crate) fn first() -> GetOptions {
    GetOptions::new()
        .with_prefix()
        .with_sort(SortTarget::Create, SortOrder::Ascend)
        .with_limit(1)
}

/// The newest key before the one with this create revision.
pub(crate) fn before(own: i64) -> GetOptions {
    GetOptions::new()
        .with_prefix()
        .with_sort(SortTarget::Create, SortOrder::Descend)
        .with_max_create_revision(own - 1)
        .with_limit(1)
        .with_keys_only()
}

/// No key of the election was created before this revision.
pub(crate) fn none_before(election: &str, own: i64) -> Compare {
    Compare::create_revision(election, CompareOp::Greater, own - 1).with_prefix()
}

/// The election has no key at all.
pub(crate) fn none(election: &str) -> Compare {
    Compare::create_revision(election, CompareOp::Equal, 0).with_prefix()
}

/// Does nothing, and is refused to a user who may not read and write these keys: etcd checks the
/// rights of a transaction before it looks at the condition, which never holds.
pub(crate) fn rights(some: impl Iterator<Item = impl Into<Vec<u8>> + Clone>) -> Txn {
    let (mut compares, mut puts) = (Vec::new(), Vec::new());
    for key in some {
        compares.push(Compare::create_revision(
            key.clone(),
            CompareOp::Equal,
            i64::MAX,
        ));
        puts.push(TxnOp::put(key, "", None));
    }
    Txn::new().when(compares).and_then(puts)
}

/// The same for all that a candidate does.
pub(crate) fn candidates_rights(election: &str, key: &str) -> Txn {
    rights([key].into_iter()).or_else([TxnOp::get(election, Some(first()))])
}

#[cfg(test)]
mod tests {
    use tenure_core::{CampaignId, Identity, PublishedValue};

    use super::*;

    #[test]
    fn keys_are_those_of_the_go_client() {
        assert_eq!(
            candidate("billing/", 0x694d_8b3b_2b9d_5f02),
            "billing/694d8b3b2b9d5f02"
        );
        // Go prints without padding.
        assert_eq!(candidate("locks/billing/", 0x1f), "locks/billing/1f");
    }

    #[test]
    fn a_key_names_its_election() {
        assert_eq!(election_of(b"/t/job/1a2b"), Some("/t/job/"));
        for other in ["/t/job/", "/t/job", "job", "/t/job/xyz"] {
            assert_eq!(election_of(other.as_bytes()), None, "{other}");
        }
    }

    #[test]
    fn a_proposal_begins_with_the_identity() {
        let identity = Identity::new("pod-1").unwrap();
        let candidate = Candidate::new(identity, CampaignId::new(1));
        assert_eq!(proposal(&candidate), "pod-1");
        assert_eq!(waiting(&candidate), "pod-1\twaiting");
        let candidate = candidate.with_value(PublishedValue::new("http://x y").unwrap());
        assert_eq!(proposal(&candidate), "pod-1 http://x y");
        assert_eq!(waiting(&candidate), "pod-1\twaiting");
    }

    #[test]
    fn a_key_is_shown_as_a_shell_takes_it() {
        assert_eq!(deletion(b"locks/job/1f"), "etcdctl del locks/job/1f");
        assert_eq!(
            deletion(b"job/it's \x1b\xff"),
            "etcdctl del $'job/it\\'s \\x1b\\xff'"
        );
        assert_eq!(deletion(b"-x"), "etcdctl del -- -x");
    }
}
