//! `tenure step-down`.

mod support;

use rustix::process::Signal;
use support::{ENDLESS, Place, stderr, stdout};

#[test]
fn the_leader_resigns_when_it_is_asked_and_the_next_candidate_leads() {
    let place = Place::new();
    place.make_store();
    let nobody = place.tenure("step-down").output().unwrap();
    assert_eq!(nobody.status.code(), Some(1), "{nobody:?}");
    assert_eq!(stdout(&nobody), "nobody leads job\n");

    // Its lease is long, its heartbeat is not.
    let options = |id| ["--id", id, "--lease", ENDLESS, "--heartbeat", "200ms"];
    let script = "trap 'echo $TENURE_IDENTITY >> stopped; exit 0' TERM; sleep 1000 & wait";
    let _alice = place.start(&options("alice"), script);
    place.until_led_by("alice");
    let _bob = place.start(&options("bob"), script);
    let asked = place.tenure("step-down").output().unwrap();
    assert_eq!(asked.status.code(), Some(0), "{asked:?}");
    let text = stdout(&asked);
    assert!(
        text.starts_with("the term of alice with token 1 is over; "),
        "{text}"
    );
    assert_eq!(place.line("stopped"), "alice");
    place.until_led_by("bob");
}

/// As one of an older version does.
#[test]
fn a_leader_that_takes_no_notice_has_an_exit_code_of_its_own() {
    let place = Place::new();
    place.make_store();
    let alice = place.start(&["--id", "alice", "--lease", ENDLESS], "exec sleep 1000");
    place.until_led_by("alice");
    alice.signal(Signal::STOP);
    let mut asking = place.tenure("step-down");
    let asked = asking.args(["--timeout", "1s"]).output().unwrap();
    assert_eq!(asked.status.code(), Some(76), "{asked:?}");
    assert!(
        stdout(&asked).contains("alice was asked to resign and still leads"),
        "{asked:?}"
    );
    alice.signal(Signal::CONT);
}

#[test]
fn a_store_that_cannot_carry_a_wish_says_so() {
    let Ok(url) = std::env::var("TENURE_TEST_POSTGRES_URL") else {
        return;
    };
    let place = Place::on(&format!("{url}?quarantine=off"));
    let _alice = place.start(&["--id", "alice", "--lease", "30s"], "exec sleep 1000");
    place.until_led_by("alice");
    let asked = place.tenure("step-down").output().unwrap();
    assert_eq!(asked.status.code(), Some(2), "{asked:?}");
    assert!(
        stderr(&asked).contains("cannot be asked to resign"),
        "{asked:?}"
    );
}

/// A record of Kubernetes tells its token from the first heartbeat on.
#[cfg(feature = "kube-lease")]
#[tokio::test]
async fn a_leader_that_has_sent_no_heartbeat_yet_is_asked_with_its_first() {
    let Some(server) = tenure_testkit::kube::Server::start().await else {
        return;
    };
    let kubeconfig = std::env::var("TENURE_TEST_KUBECONFIG").unwrap();
    let url = format!("kube-lease://{}?kubeconfig={kubeconfig}", server.namespace);
    let place = Place::on(&url);
    let options = ["--id", "alice", "--lease", ENDLESS, "--heartbeat", "3s"];
    let _alice = place.start(&options, "exec sleep 1000");
    place.until_led_by("alice");
    let asked = place.tenure("step-down").output().unwrap();
    assert_eq!(asked.status.code(), Some(0), "{asked:?}");
    assert!(
        stdout(&asked).starts_with("the term of alice "),
        "{asked:?}"
    );
}
