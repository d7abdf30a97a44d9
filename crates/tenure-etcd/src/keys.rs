//! Keys and values, as Go's `concurrency.Election` and `etcdctl elect` lay them out.
//!
//! A candidate's key is the election's name, a slash, and the candidate's lease in lowercase
//! hexadecimal. The one with the smallest create revision leads. The value is a candidate's
//! proposal: here its identity, and after a space what it publishes, if anything. Identities have
//! no spaces. Election never depends on the value.

use etcd_client::{GetOptions, KeyValue, SortOrder, SortTarget};
use tenure_core::{Error, FencingToken, Holder, LockName, PublishedValue};

/// What all candidates' keys of a lock begin with.
pub(crate) fn election(prefix: &str, lock: &LockName) -> String {
    format!("{prefix}{lock}/")
}

/// The key of the candidate with this lease.
pub(crate) fn candidate(prefix: &str, lock: &LockName, lease: i64) -> String {
    format!("{prefix}{lock}/{lease:x}")
}

/// The value of a candidate.
pub(crate) fn proposal(identity: &str, value: Option<&PublishedValue>) -> String {
    match value {
        Some(value) => format!("{identity} {value}"),
        None => identity.to_owned(),
    }
}

/// Who wrote this key; whoever it was, as any program can take part.
pub(crate) fn holder(kv: &KeyValue) -> Result<Holder, Error> {
    let text = String::from_utf8_lossy(kv.value());
    let (identity, value) = match text.split_once(' ') {
        Some((identity, value)) => (identity, Some(value.to_owned())),
        None => (&*text, None),
    };
    let mut holder = Holder::new(identity);
    holder.value = value;
    holder.token = Some(token(kv.create_revision())?);
    Ok(holder)
}

/// The fencing token of the term that began with this create revision.
pub(crate) fn token(create_revision: i64) -> Result<FencingToken, Error> {
    FencingToken::from_counter(u64::try_from(create_revision).unwrap_or(u64::MAX))
}

/// The create revision of the term with this token.
pub(crate) fn revision(token: FencingToken) -> i64 {
    // 48 bits.
    token.counter().cast_signed()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_those_of_the_go_client() {
        let lock = LockName::new("billing").unwrap();
        assert_eq!(
            candidate("", &lock, 0x694d_8b3b_2b9d_5f02),
            "billing/694d8b3b2b9d5f02"
        );
        // Go prints without padding.
        assert_eq!(candidate("locks/", &lock, 0x1f), "locks/billing/1f");
        assert_eq!(election("locks/", &lock), "locks/billing/");
    }

    #[test]
    fn a_proposal_begins_with_the_identity() {
        assert_eq!(proposal("pod-1", None), "pod-1");
        let value = PublishedValue::new("http://x y").unwrap();
        assert_eq!(proposal("pod-1", Some(&value)), "pod-1 http://x y");
    }
}
