//! [`LeaseForm`]: how an election's record stands in a Lease.

use serde_json::{Value, json};
use tenure_kube::{ElectionRecord, Form, LEASES, Resource, WallTime};

/// How an election's record stands in a Lease.
#[derive(Debug)]
pub struct LeaseForm;

impl Form for LeaseForm {
    const RESOURCE: Resource = LEASES;
    const STORE: &'static str = "kube-lease";
    const LOCATION: &'static str = "the spec";

    fn read(object: &Value) -> Result<Option<ElectionRecord>, String> {
        let spec = &object["spec"];
        let text = |field: &str| spec[field].as_str().map(str::to_owned);
        let number = |field: &str| spec[field].as_i64().unwrap_or(0);
        let holder = text("holderIdentity").unwrap_or_default();
        let record = ElectionRecord::new(holder, number("leaseDurationSeconds"))
            .with_acquired(text("acquireTime"))
            .with_renewed(text("renewTime"))
            .with_transitions(number("leaseTransitions"));
        Ok(Some(record))
    }

    fn write(object: &mut Value, record: &ElectionRecord) {
        let spec = &mut object["spec"];
        if !spec.is_object() {
            *spec = json!({});
        }
        spec["holderIdentity"] = json!(record.holder);
        spec["leaseDurationSeconds"] = json!(record.lease_seconds);
        spec["acquireTime"] = json!(record.acquired);
        spec["renewTime"] = json!(record.renewed);
        spec["leaseTransitions"] = json!(record.transitions);
    }

    fn removal(namespace: &str, lock: &str) -> String {
        format!("kubectl delete lease {lock} --namespace {namespace}")
    }

    fn time(time: WallTime) -> String {
        time.to_micro_time()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_others_stay() {
        let mut lease = json!({
            "metadata": { "name": "x", "labels": { "a": "b" } },
            "spec": {
                "holderIdentity": "other",
                "leaseDurationSeconds": 15,
                "strategy": "OldestEmulationVersion",
                "preferredHolder": "third",
                "later": { "unknown": [1] },
            },
        });
        let mut record = LeaseForm::read(&lease).unwrap().unwrap();
        assert_eq!(
            (record.holder.as_str(), record.lease_seconds),
            ("other", 15)
        );
        "us".clone_into(&mut record.holder);
        LeaseForm::write(&mut lease, &record);
        assert_eq!(lease["spec"]["holderIdentity"], "us");
        assert_eq!(lease["spec"]["strategy"], "OldestEmulationVersion");
        assert_eq!(lease["spec"]["preferredHolder"], "third");
        assert_eq!(lease["spec"]["later"], json!({ "unknown": [1] }));
        assert_eq!(lease["metadata"]["labels"]["a"], "b");
    }

    #[test]
    fn a_lease_with_nothing_in_it_is_free() {
        for lease in [json!({}), json!({ "spec": {} }), json!({ "spec": null })] {
            assert_eq!(LeaseForm::read(&lease).unwrap().unwrap().holder, "");
        }
    }
}
