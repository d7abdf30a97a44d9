//! Admission webhooks that change what a term depends on. For both kinds of object.

use serde_json::Value;
use tenure_core::{ErrorKind, LockBackend, Occupancy, Renewal};

use super::faulty_api::{FaultyApi, Mutation};
use crate::terms::{LONG, candidate, held, lock};

/// Removes the annotation of this name.
pub fn without(object: &mut Value, annotation: &str) {
    if let Some(annotations) = object["metadata"]["annotations"].as_object_mut() {
        annotations.remove(annotation);
    }
}

/// A term does not begin where `mutation` takes from the object what is named `part`; the claim is
/// given back. `behind` writes by way of `api`.
pub async fn no_term_begins(
    api: &FaultyApi,
    behind: &dyn LockBackend,
    mutation: Mutation,
    part: &str,
) {
    let name = format!("mutated-{:x}", fastrand::u32(..));
    let us = candidate("us", 1);
    let is_told = |error: &tenure_core::Error| {
        assert_eq!(error.kind(), ErrorKind::Misconfigured, "{error}");
        for part in [part, &name, "webhook"] {
            assert!(error.message().contains(part), "{part}: {error}");
        }
    };
    api.mutate(mutation);
    // The write that makes the object, and one that takes it.
    for _ in 0..2 {
        let outcome = behind.acquire(&lock(&name), &us, LONG).await;
        is_told(&outcome.unwrap_err());
        assert_eq!(behind.holder(&lock(&name)).await.unwrap(), Occupancy::Free);
    }
    api.mend();
    let grant = held(behind.acquire(&lock(&name), &us, LONG).await.unwrap());
    // A webhook that comes later ends the term at once: others may lead from now on.
    api.mutate(mutation);
    let renewal = behind.renew(&grant, behind.clock().now()).await.unwrap();
    assert!(matches!(renewal, Renewal::Lost { .. }), "{renewal:?}");
    api.mend();
}
