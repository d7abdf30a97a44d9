//! What the machine does over several steps, a behaviour a test.

mod transitions;

use std::time::Duration;

use super::{Cause, Command, Failure, Input, Machine, Settings};
use crate::contract::backend::Hint;
use crate::contract::capabilities::Wakeup;
use crate::contract::clock::Time;
use crate::policy::Policy;

const SECOND: Duration = Duration::from_secs(1);

fn at(seconds: u64) -> Time {
    Time::from_nanos((1_000_000 + seconds) * 1_000_000_000)
}

fn machine() -> Machine {
    let settings = Settings {
        wakeup: Wakeup::Push,
        drain_limit: 21 * SECOND,
        answered: false,
        probed: false,
        seed: 1,
    };
    Machine::new(Policy::default(), settings)
}

fn handle(machine: &mut Machine, now: Time, input: Input) -> Vec<Command> {
    let mut commands = Vec::new();
    machine.handle(now, input, &mut commands);
    commands
}

fn leader() -> Machine {
    let mut machine = machine();
    assert_eq!(
        handle(&mut machine, at(0), Input::Campaign),
        [Command::Acquire]
    );
    let (proven_at, lease) = (at(0), 20 * SECOND);
    let commands = handle(&mut machine, at(0), Input::Held { proven_at, lease });
    assert!(matches!(commands[..], [Command::Elect(_)]), "{commands:?}");
    machine
}

/// A process that is stopped over the end of its drain limit wakes with a heartbeat overdue:
/// its timer must not stay due, or the engine would spin until the validity ends.
#[test]
fn a_heartbeat_that_is_not_sent_any_more_does_not_keep_its_timer_due() {
    let mut machine = leader();
    handle(&mut machine, at(1), Input::Stop(Cause::Shutdown));
    handle(&mut machine, at(10), Input::Timer);
    let (proven_at, lease) = (at(10), 20 * SECOND);
    handle(&mut machine, at(10), Input::Renewed { proven_at, lease });
    let stopped_until = at(23);
    assert_eq!(handle(&mut machine, stopped_until, Input::Timer), []);
    assert!(machine.next_wake().is_some_and(|wake| wake > stopped_until));
}

#[test]
fn an_answer_from_before_the_end_does_not_bring_the_term_back() {
    let mut machine = leader();
    let commands = handle(&mut machine, at(10), Input::Timer);
    assert!(
        matches!(commands[..], [Command::Renew { .. }]),
        "{commands:?}"
    );
    let (proven_at, lease) = (at(10), 20 * SECOND);
    let commands = handle(&mut machine, at(25), Input::Renewed { proven_at, lease });
    assert_eq!(commands, [Command::End(Cause::Expired), Command::Overrun]);
    assert_eq!(
        handle(&mut machine, at(26), Input::WorkEnded),
        [Command::Release]
    );
}

#[test]
fn an_election_won_too_late_is_asked_for_again() {
    let mut machine = machine();
    handle(&mut machine, at(0), Input::Campaign);
    let (proven_at, lease) = (at(0), 20 * SECOND);
    let commands = handle(&mut machine, at(19), Input::Held { proven_at, lease });
    assert_eq!(commands, [Command::Acquire]);
}

#[test]
fn a_lease_too_short_for_the_policy_is_given_back() {
    let mut machine = machine();
    handle(&mut machine, at(0), Input::Campaign);
    let (proven_at, lease) = (at(0), 10 * SECOND);
    let commands = handle(&mut machine, at(0), Input::Held { proven_at, lease });
    assert_eq!(commands, [Command::GiveUp, Command::Withdraw]);
}

const OVERDUE: Input = Input::Overdue { goes_on: true };

/// The answer to the first attempt may come after the next one has begun.
#[test]
fn a_proof_that_did_for_the_first_attempt_does_for_those_after_it() {
    let mut machine = leader();
    let asked = |commands: &[Command]| match commands {
        [Command::Renew { not_before, .. }] => *not_before,
        other => panic!("{other:?}"),
    };
    let first = asked(&handle(&mut machine, at(10), Input::Timer));
    assert_eq!(asked(&handle(&mut machine, at(13), OVERDUE)), first);
    let (proven_at, lease) = (at(13), 20 * SECOND);
    handle(&mut machine, at(14), Input::Renewed { proven_at, lease });
    assert!(asked(&handle(&mut machine, at(23), Input::Timer)) > first);
}

const UNANSWERED: Input = Input::Failed(Failure {
    permanent: false,
    retry_after: None,
    unanswered: true,
});

#[test]
fn a_call_without_an_answer_gives_the_next_one_twice_the_time() {
    let mut machine = candidate();
    for limit in [3, 6] {
        assert_eq!(machine.time_limit(), limit * SECOND);
        assert_eq!(handle(&mut machine, at(0), UNANSWERED), []);
        let next = machine.next_wake().unwrap();
        assert_eq!(handle(&mut machine, next, Input::Timer), [Command::Acquire]);
    }
    // No term can live with more: heartbeat and answer are to come before the work must stop.
    let longest = machine.time_limit();
    assert!((8 * SECOND..9 * SECOND).contains(&longest), "{longest:?}");
    // What was asked may hold the lock for nobody.
    assert_eq!(
        handle(&mut machine, at(20), UNANSWERED),
        [Command::Withdraw]
    );
    assert_eq!(machine.time_limit(), 3 * SECOND);
    handle(&mut machine, at(21), Input::Done);
    let next = machine.next_wake().unwrap();
    assert_eq!(handle(&mut machine, next, Input::Timer), [Command::Probe]);
    assert_eq!(
        handle(&mut machine, next, Input::Health(true)),
        [Command::Reenter, Command::Acquire]
    );
}

#[test]
fn an_answer_of_any_kind_ends_the_doubling() {
    let mut machine = candidate();
    handle(&mut machine, at(0), UNANSWERED);
    assert_eq!(machine.time_limit(), 6 * SECOND);
    handle(&mut machine, at(1), Input::Failed(Failure::default()));
    assert_eq!(machine.time_limit(), 3 * SECOND);
}

const THROTTLED: Input = Input::Failed(Failure {
    permanent: false,
    retry_after: Some(Duration::from_secs(600)),
    unanswered: false,
});

fn candidate() -> Machine {
    let mut machine = machine();
    handle(&mut machine, at(0), Input::Campaign);
    machine
}

#[test]
fn a_candidate_waits_a_heartbeat_at_most_whatever_the_store_asks_for() {
    let mut machine = candidate();
    handle(&mut machine, at(0), THROTTLED);
    assert_eq!(machine.next_wake(), Some(at(10)));
}

#[test]
fn nor_does_it_wait_past_the_end_of_the_holders_lease() {
    let mut machine = candidate();
    let free_in = Some(4 * SECOND);
    handle(&mut machine, at(0), Input::Taken { free_in });
    handle(&mut machine, at(1), Input::Hint(Hint::MayBeFree));
    handle(&mut machine, at(1), THROTTLED);
    assert_eq!(machine.next_wake(), Some(at(4)));
}

#[test]
fn a_hint_ends_a_pause_once_the_retry_interval_has_passed() {
    let mut machine = candidate();
    handle(&mut machine, at(0), THROTTLED);
    assert_eq!(
        handle(&mut machine, at(0), Input::Hint(Hint::MayBeFree)),
        []
    );
    let soon = machine.next_wake().unwrap();
    assert!(soon <= at(1), "{soon:?}");
    let commands = handle(&mut machine, at(2), Input::Hint(Hint::MayBeFree));
    assert_eq!(commands, [Command::Acquire]);
}

/// What the notification says is held may be what the failed call has written, without our knowing.
#[test]
fn no_hint_puts_off_the_attempt_after_a_failure() {
    let mut machine = candidate();
    handle(&mut machine, at(0), Input::Failed(Failure::default()));
    let retry_at = machine.next_wake();
    // The timer is late, and the notification is read first.
    let held = Input::Hint(Hint::HeldFor(20 * SECOND));
    assert_eq!(handle(&mut machine, at(2), held), []);
    assert_eq!(machine.next_wake(), retry_at);
    assert_eq!(
        handle(&mut machine, at(2), Input::Timer),
        [Command::Acquire]
    );
}

#[test]
fn a_leader_waits_for_the_last_attempt_that_fits_at_most() {
    let mut machine = leader();
    handle(&mut machine, at(10), Input::Timer);
    handle(&mut machine, at(10), THROTTLED);
    let retry_at = machine.next_wake().unwrap();
    // Told to stop at 18.4 s, less a request timeout of 3 s.
    assert!(retry_at > at(15) && retry_at < at(16), "{retry_at:?}");
    let commands = handle(&mut machine, retry_at, Input::Timer);
    assert!(
        matches!(commands[..], [Command::Renew { .. }]),
        "{commands:?}"
    );
}

fn renewal(commands: &[Command]) -> Time {
    match commands {
        [Command::Renew { overdue_at, .. }] => *overdue_at,
        _ => panic!("{commands:?}"),
    }
}

/// Each attempt without an answer is followed by the next, and the last begins a second before the
/// work is told to stop: at 17.4 s.
#[test]
fn in_a_silent_outage_attempts_go_on_to_the_last_moment_that_helps() {
    let mut machine = leader();
    let mut now = machine.next_wake().unwrap();
    let mut overdue_at = renewal(&handle(&mut machine, now, Input::Timer));
    assert_eq!(
        overdue_at,
        now + 3 * SECOND,
        "the first has a request timeout"
    );
    while overdue_at < at(18) {
        now = overdue_at;
        overdue_at = renewal(&handle(&mut machine, now, OVERDUE));
        assert!(overdue_at <= now + SECOND, "{now:?}");
    }
    assert!(now > at(17), "{now:?}");
    let told = overdue_at;
    let commands = handle(&mut machine, told, Input::Timer);
    assert_eq!(commands, [Command::Cancel(Cause::HeartbeatsMissed)]);
}

#[test]
fn attempts_that_fail_at_once_go_on_as_long() {
    let mut machine = leader();
    let mut last = at(0);
    while let Some(now) = machine.next_wake()
        && now < at(18)
    {
        renewal(&handle(&mut machine, now, Input::Timer));
        handle(&mut machine, now, Input::Failed(Failure::default()));
        last = now;
    }
    assert!(last > at(17), "{last:?}");
}

/// A store that takes four seconds for each answer.
#[test]
fn a_late_answer_counts_from_its_proof() {
    let mut machine = leader();
    handle(&mut machine, at(10), Input::Timer);
    renewal(&handle(&mut machine, at(13), OVERDUE));
    let (proven_at, lease) = (at(10), 20 * SECOND);
    let commands = handle(&mut machine, at(14), Input::Renewed { proven_at, lease });
    let [Command::Extend(span)] = commands[..] else {
        panic!("{commands:?}");
    };
    assert!(span.valid_until < at(30), "{span:?}");
    let next = machine.next_wake().unwrap();
    assert!(next > at(19) && next <= at(20), "{next:?}");
}

#[test]
fn giving_back_waits_no_longer_than_its_own_deadline() {
    let mut machine = leader();
    handle(&mut machine, at(1), Input::WorkEnded);
    handle(&mut machine, at(15), THROTTLED);
    let retry_at = machine.next_wake().unwrap();
    assert!(retry_at <= at(18), "{retry_at:?}");
    assert_eq!(
        handle(&mut machine, retry_at, Input::Timer),
        [Command::Release],
        "a release that failed is tried again"
    );
    handle(&mut machine, retry_at, THROTTLED);
    assert!(machine.next_wake().unwrap() <= at(21));
    assert_eq!(
        handle(&mut machine, at(21), Input::Timer),
        [Command::Finish]
    );
}

#[test]
fn the_grant_with_the_newest_proof_counts_also_when_it_is_shorter() {
    let mut machine = leader();
    let renewed = |proven_at, lease| Input::Renewed {
        proven_at: at(proven_at),
        lease: lease * SECOND,
    };
    handle(&mut machine, at(10), Input::Timer);
    let commands = handle(&mut machine, at(10), renewed(10, 18));
    let Some(Command::Extend(span)) = commands.first() else {
        panic!("{commands:?}");
    };
    assert!(span.valid_until < at(28), "{span:?}");
    // An older answer shortens nothing.
    assert_eq!(handle(&mut machine, at(11), renewed(9, 8)), []);
    // Too short for a heartbeat: the work is told to stop in time.
    let commands = handle(&mut machine, at(12), renewed(12, 8));
    let Some(Command::Extend(short)) = commands.first() else {
        panic!("{commands:?}");
    };
    assert!(short.valid_until < at(20), "{short:?}");
    let retry_at = machine.next_wake().unwrap();
    assert!(retry_at < short.cancel_at, "it is renewed before that");
    let commands = handle(&mut machine, short.cancel_at, Input::Timer);
    assert_eq!(commands[0], Command::Cancel(Cause::HeartbeatsMissed));
}

#[test]
fn a_grant_that_is_over_when_it_is_read_ends_the_term() {
    let mut machine = leader();
    handle(&mut machine, at(10), Input::Timer);
    let (proven_at, lease) = (at(10), SECOND);
    let commands = handle(&mut machine, at(12), Input::Renewed { proven_at, lease });
    assert!(
        commands.contains(&Command::End(Cause::Expired)),
        "{commands:?}"
    );
}

#[test]
fn work_that_runs_on_after_a_loss_is_reported() {
    let mut machine = leader();
    assert_eq!(
        handle(&mut machine, at(1), Input::Lost),
        [Command::End(Cause::Lost)]
    );
    assert_eq!(
        handle(&mut machine, at(6), Input::Timer),
        [Command::Overrun]
    );
    assert_eq!(
        handle(&mut machine, at(7), Input::WorkEnded),
        [Command::Finish]
    );
}

fn probed() -> Machine {
    let settings = Settings {
        wakeup: Wakeup::Push,
        drain_limit: 21 * SECOND,
        answered: false,
        probed: true,
        seed: 1,
    };
    let mut machine = Machine::new(Policy::default(), settings);
    let commands = handle(&mut machine, at(0), Input::Campaign);
    assert_eq!(commands, [Command::Probe]);
    machine
}

fn waiting() -> Machine {
    let mut machine = probed();
    let commands = handle(&mut machine, at(0), Input::Health(true));
    assert_eq!(commands, [Command::Acquire]);
    handle(&mut machine, at(0), Input::Taken { free_in: None });
    machine
}

#[test]
fn a_waiting_candidates_probe_is_asked_every_retry_interval() {
    let mut machine = waiting();
    for second in 1..5 {
        assert_eq!(machine.next_wake(), Some(at(second)));
        let commands = handle(&mut machine, at(second), Input::Timer);
        assert_eq!(commands, [Command::Probe]);
        assert_eq!(handle(&mut machine, at(second), Input::Health(true)), []);
    }
}

#[test]
fn one_that_says_no_withdraws_at_once_and_comes_back_under_a_new_number() {
    let mut machine = waiting();
    handle(&mut machine, at(1), Input::Timer);
    assert_eq!(
        handle(&mut machine, at(1), Input::Health(false)),
        [Command::Withdraw]
    );
    handle(&mut machine, at(1), Input::Done);
    // It flips back, but leaves at most once per heartbeat.
    for second in 2..11 {
        let commands = handle(&mut machine, at(second), Input::Timer);
        assert_eq!(commands, [Command::Probe], "{second}");
        assert_eq!(handle(&mut machine, at(second), Input::Health(true)), []);
    }
    handle(&mut machine, at(11), Input::Timer);
    assert_eq!(
        handle(&mut machine, at(11), Input::Health(true)),
        [Command::Reenter, Command::Probe]
    );
    assert_eq!(
        handle(&mut machine, at(11), Input::Health(true)),
        [Command::Acquire]
    );
}

#[test]
fn one_that_says_no_at_the_grant_does_not_lead() {
    let mut machine = probed();
    handle(&mut machine, at(0), Input::Health(true));
    let (proven_at, lease) = (at(0), 20 * SECOND);
    let commands = handle(&mut machine, at(1), Input::Held { proven_at, lease });
    assert_eq!(commands, [Command::Probe]);
    assert_eq!(
        handle(&mut machine, at(1), Input::Health(false)),
        [Command::Release]
    );
}

#[test]
fn one_that_never_asked_the_store_has_nothing_to_take_back() {
    let mut machine = probed();
    assert_eq!(handle(&mut machine, at(0), Input::Health(false)), []);
    handle(&mut machine, at(1), Input::Timer);
    assert_eq!(
        handle(&mut machine, at(1), Input::Health(true)),
        [Command::Reenter, Command::Probe]
    );
    let mut machine = probed();
    handle(&mut machine, at(0), Input::Health(false));
    assert_eq!(
        handle(&mut machine, at(0), Input::WorkEnded),
        [Command::Finish]
    );
}
