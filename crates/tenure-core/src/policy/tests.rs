//! The rules of a policy.

use super::*;

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn the_presets_hold_their_own_rules() {
    for policy in [
        Policy::default(),
        Policy::client_go(),
        Policy::fast(),
        Policy::patient(),
    ] {
        assert_eq!(policy.clone().check().unwrap(), policy);
    }
}

#[test]
fn the_default_is_the_example_of_the_invariants() {
    let policy = Policy::default();
    assert_eq!(policy.validity().as_millis(), 19_880);
    assert_eq!(policy.tolerance().lost_heartbeats, 0);
}

#[test]
fn client_go_is_told_to_stop_when_its_renew_deadline_is_over() {
    let policy = Policy::client_go();
    let stop = policy.validity().saturating_sub(policy.stop_grace());
    // A retry period after the last success, and a renew deadline of 10 s.
    assert_eq!(stop.as_secs(), 12);
    assert_eq!(policy.tolerance().outage.as_secs(), 8);
}

#[test]
fn a_store_outage_of_seven_seconds_is_survived_and_of_45_by_the_patient() {
    assert!(Policy::default().tolerance().outage > 7 * SECOND);
    assert!(Policy::patient().tolerance().outage > 45 * SECOND);
}

/// The first heartbeat of an outage may use up all the time there is.
#[test]
fn no_outage_is_promised_where_one_slow_heartbeat_takes_all_the_time() {
    let policy = Policy::builder().stop_grace(6 * SECOND);
    let policy = policy.build().unwrap();
    assert_eq!(policy.tolerance().outage, Duration::ZERO);
}

#[test]
fn validity_is_shorter_than_the_lease_by_twice_the_drift() {
    let policy = Policy::builder().drift_ppm(100_000).stop_grace(5 * SECOND);
    // 20 s * 0.9 / 1.1 = 16.4 s: too short for the default's heartbeat and timeout, and this grace.
    let message = policy.build().unwrap_err().to_string();
    assert!(message.contains("16.26"), "{message}");
}

#[test]
fn a_lease_alone_scales_the_rest() {
    let policy = Policy::builder().lease(10 * SECOND).build().unwrap();
    assert_eq!(policy.heartbeat(), 5 * SECOND);
    assert_eq!(policy.stop_grace(), Duration::from_millis(750));
}

#[test]
fn what_breaks_an_inequality_is_refused_with_the_numbers() {
    for (builder, expected) in [
        (Policy::builder().lease(Duration::ZERO), "0ns"),
        (Policy::builder().lease(Duration::MAX), "outside"),
        (Policy::builder().lease(u32::MAX * SECOND), "outside"),
        (Policy::builder().heartbeat(25 * SECOND), "25s"),
        (
            Policy::builder()
                .heartbeat(2 * SECOND)
                .request_timeout(3 * SECOND),
            "request timeout of 3s",
        ),
        (
            Policy::builder().stop_grace(19 * SECOND),
            "stop grace of 19s",
        ),
        (
            Policy::builder().retry_interval(Duration::ZERO),
            "retry interval",
        ),
        (Policy::builder().jitter_percent(101), "101 %"),
        (Policy::builder().drift_ppm(500_000), "500000 ppm"),
    ] {
        let message = builder.build().unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
    }
}

#[cfg(feature = "serde")]
#[test]
fn it_reads_back_what_it_wrote_and_checks_what_it_reads() {
    let written = serde_json::to_string(&Policy::fast()).unwrap();
    assert_eq!(
        serde_json::from_str::<Policy>(&written).unwrap(),
        Policy::fast()
    );
    assert!(serde_json::from_str::<Policy>(r#"{"lease_ms": 0}"#).is_err());
    assert!(serde_json::from_str::<Policy>(r#"{"lease": 5}"#).is_err());
}
