//! The value of a lock's key, as candidates and scripts write it.
//!
//! The lock's key holds `1 <campaign> <token> <lease in ms> <identity>[ <published value>]` and
//! expires with the lease. `1` is the format's version. None of the first five fields can hold a
//! space; the published value comes last because it can. A tab, `resign=` and the end of a wish
//! that the leader resign may follow.

use std::time::Duration;

use tenure_core::record::MAX_LEASE;
use tenure_core::{Candidate, FencingToken, Holder, Identity};

/// The beginning of a lock's value for as long as no candidate gets it.
const QUARANTINE: &str = "1 - ";

/// What stands before the end of a wish that the leader resign. Neither an identity nor a published
/// value holds a tab.
const WISH: &str = "\tresign=";

/// The value without the wish in it.
fn without_wish(value: &str) -> &str {
    value.rsplit_once(WISH).map_or(value, |(value, _)| value)
}

/// The end of the value, from the identity on.
pub(crate) fn identity_and_value(candidate: &Candidate) -> String {
    match &candidate.value {
        Some(value) => format!("{} {value}", candidate.identity),
        None => candidate.identity.to_string(),
    }
}

/// The lease that a lock's value names, of a term or of a quarantine: none
/// when this library would not have written it.
pub(crate) fn lease_in(value: &str) -> Option<Duration> {
    let mut fields = value.split(' ');
    if fields.next() != Some("1") {
        return None;
    }
    let lease = Duration::from_millis(fields.nth(2)?.parse().ok()?);
    (!lease.is_zero() && lease <= MAX_LEASE).then_some(lease)
}

/// Whom a lock's value names: no holder when it is not of this version, or in quarantine.
pub(crate) fn holder(value: &str, left: Duration) -> Option<Holder> {
    let mut fields = without_wish(value).splitn(6, ' ');
    if fields.next() != Some("1") {
        return None;
    }
    let campaign = fields.next()?;
    let token = fields.next()?.parse().ok();
    let _lease = fields.next()?;
    let identity = fields.next()?;
    if campaign == "-" || identity.len() > Identity::MAX_CHARS {
        return None;
    }
    let mut holder = Holder::new(identity);
    holder.token = token.and_then(|token| FencingToken::from_counter(token).ok());
    holder.value = fields.next().map(str::to_owned);
    // An expiry beyond the lease is no part of it, see `acquire::Outcome::Taken`.
    holder.expires_in = Some(left.min(lease_in(value).unwrap_or(MAX_LEASE)));
    Some(holder)
}

/// Who holds a lock whose value another program has written: its text is all that is known of it.
/// `None` in quarantine.
pub(crate) fn other_program(value: &str, left: Duration) -> Option<Holder> {
    if value.starts_with(QUARANTINE) {
        return None;
    }
    let text: String = value.chars().take(Identity::MAX_CHARS).collect();
    let mut holder = Holder::new(if text.is_empty() { "?" } else { &text });
    holder.expires_in = Some(left);
    Some(holder)
}

#[cfg(test)]
mod tests;
