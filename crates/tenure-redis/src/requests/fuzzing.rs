//! What the server that holds a lock answers.

use redis::Value;
use tenure_core::{CampaignId, Candidate, Identity, LockName};

use super::acquire::Acquire;
use super::script::Answer;
use crate::errors::StoreError;
use crate::keys::KeyNames;

/// Whether `answer` is one of the script that takes a lock.
pub(crate) fn is_outcome(answer: Value) -> bool {
    let (Ok(identity), Ok(lock)) = (Identity::new("pod-1"), LockName::new("lock")) else {
        return false;
    };
    let attempt = Acquire {
        keys: &KeyNames::of("tenure:", &lock),
        candidate: &Candidate::new(identity, CampaignId::new(1)),
        lease: 20_000,
        replicas: None,
    };
    let outcome = Answer::of(answer).and_then(|answer| attempt.outcome(&answer, None));
    outcome.inspect_err(holds_no_control).is_ok()
}

fn holds_no_control(error: &StoreError) {
    assert!(
        !error.message().contains(char::is_control),
        "a terminal would obey: {error:?}"
    );
}
