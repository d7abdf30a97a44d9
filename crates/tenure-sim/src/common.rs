//! What the stores have in common.

use tenure_core::{Candidate, FencingGuarantee, PublishedValue, Rises};

/// What a candidate publishes.
pub fn value(candidate: &Candidate) -> Option<&str> {
    candidate.value.as_ref().map(PublishedValue::as_str)
}

/// A guarantee of tokens over a crash, and of none over a restore.
pub fn fencing(over_failover: Rises, over_deletion: Rises) -> FencingGuarantee {
    FencingGuarantee::none()
        .over_crash(Rises::Always)
        .over_failover(over_failover)
        .over_deletion(over_deletion)
}
