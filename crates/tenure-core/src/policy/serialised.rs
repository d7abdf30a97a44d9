//! The form of a policy in configuration files: milliseconds, each optional.

use std::time::Duration;

use crate::contract::error::Error;

#[derive(serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Policy {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lease_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    heartbeat_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    request_timeout_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    retry_interval_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    stop_grace_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    jitter_percent: Option<u8>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    drift_ppm: Option<u32>,
}

impl From<super::Policy> for Policy {
    fn from(policy: super::Policy) -> Self {
        let millis = |d: Duration| Some(u64::try_from(d.as_millis()).unwrap_or(u64::MAX));
        Self {
            lease_ms: millis(policy.lease),
            heartbeat_ms: millis(policy.heartbeat),
            request_timeout_ms: millis(policy.request_timeout),
            retry_interval_ms: millis(policy.retry_interval),
            stop_grace_ms: millis(policy.stop_grace),
            jitter_percent: Some(policy.jitter_percent),
            drift_ppm: Some(policy.drift_ppm),
        }
    }
}

impl TryFrom<Policy> for super::Policy {
    type Error = Error;

    fn try_from(policy: Policy) -> Result<Self, Error> {
        let millis = |given: Option<u64>| given.map(Duration::from_millis);
        super::PolicyBuilder {
            base: super::Policy::default(),
            lease: millis(policy.lease_ms),
            heartbeat: millis(policy.heartbeat_ms),
            request_timeout: millis(policy.request_timeout_ms),
            retry_interval: millis(policy.retry_interval_ms),
            stop_grace: millis(policy.stop_grace_ms),
            jitter_percent: policy.jitter_percent,
            drift_ppm: policy.drift_ppm,
        }
        .build()
    }
}
