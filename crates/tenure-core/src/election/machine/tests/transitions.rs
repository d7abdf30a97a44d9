//! The machine, transition by transition.
//!
//! A row reads: from this state, at this second, on this input, the machine asks for these commands
//! and is in that state. Each pair of state and input has a row, or stands under [`IMPOSSIBLE`]
//! with the reason why no driver gives it.
//!
//! Without jitter the default policy says: a lease of 20 s is valid for 19.88 s; the work is told
//! to stop after 18.38 s; a heartbeat every 10 s; a retry after 1 s.

use std::time::Duration;

use super::super::state::{Pending, State};
use super::super::{Cause, Command, Failure, Input, Machine, Settings};
use super::{SECOND, at, handle};
use crate::contract::backend::Hint;
use crate::contract::capabilities::Wakeup;
use crate::contract::clock::Time;
use crate::policy::Policy;

/// A state as a reader tells them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Is {
    /// Made, not started.
    Idle,
    /// A candidate without a health probe; `acquire` is under way.
    Asking,
    /// It waits for the holder's lease to end, or for a notification.
    Waiting,
    /// Its last call has failed.
    BackingOff,
    /// A candidate with a health probe, which was asked before `acquire`.
    ProbedFirst,
    /// Its `acquire` is under way.
    ProbedAsking,
    /// It waits.
    ProbedWaiting,
    /// The store has granted the lock, and the probe was asked once more.
    ProbedGranted,
    /// The probe has said no; `withdraw` or `release` is under way.
    Leaving,
    /// The same; nothing is left in the store.
    SittingOut,
    /// A leader between two heartbeats.
    Leading,
    /// A leader whose heartbeat is under way.
    Renewing,
    /// A leader whose work was told to stop; its heartbeat is under way.
    Stopping,
    /// The validity is over, and the work still runs.
    RanOut,
    /// The same, because the store said that the term is over.
    Lost,
    /// `release` is under way.
    Releasing,
    /// `withdraw` is under way.
    Withdrawing,
    /// Nothing more is done.
    Finished,
}

/// An input, with answers that fit the row's time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum On {
    Campaign,
    Timer,
    HintFree,
    HintHeld,
    HintsEnded,
    Held,
    Taken,
    Renewed,
    Overdue,
    Lost,
    Failed,
    Refused,
    Done,
    Stop,
    WorkEnded,
    RenewNow,
    Well,
    Unwell,
}

const INPUTS: [On; 18] = [
    On::Campaign,
    On::Timer,
    On::HintFree,
    On::HintHeld,
    On::HintsEnded,
    On::Held,
    On::Taken,
    On::Renewed,
    On::Overdue,
    On::Lost,
    On::Failed,
    On::Refused,
    On::Done,
    On::Stop,
    On::WorkEnded,
    On::RenewNow,
    On::Well,
    On::Unwell,
];

type Row = (Is, u64, On, &'static str, Is);

#[rustfmt::skip]
const TABLE: &[Row] = &[
    (Is::Idle,          0,  On::Campaign,   "Acquire",                       Is::Asking),

    (Is::Asking,        1,  On::Timer,      "",                              Is::Asking),
    (Is::Asking,        1,  On::HintFree,   "",                              Is::Asking),
    (Is::Asking,        1,  On::HintHeld,   "",                              Is::Asking),
    (Is::Asking,        1,  On::HintsEnded, "",                              Is::Asking),
    (Is::Asking,        1,  On::Held,       "Elect",                         Is::Leading),
    (Is::Asking,        1,  On::Taken,      "",                              Is::Waiting),
    (Is::Asking,        1,  On::Failed,     "",                              Is::BackingOff),
    (Is::Asking,        1,  On::Refused,    "GiveUp Withdraw",               Is::Withdrawing),
    (Is::Asking,        1,  On::WorkEnded,  "Withdraw",                      Is::Withdrawing),

    (Is::Waiting,       1,  On::Timer,      "",                              Is::Waiting),
    (Is::Waiting,       15, On::Timer,      "Acquire",                       Is::Asking),
    (Is::Waiting,       1,  On::HintFree,   "Acquire",                       Is::Asking),
    (Is::Waiting,       1,  On::HintHeld,   "",                              Is::Waiting),
    (Is::Waiting,       1,  On::HintsEnded, "",                              Is::Waiting),
    (Is::Waiting,       1,  On::WorkEnded,  "Withdraw",                      Is::Withdrawing),

    (Is::BackingOff,    1,  On::Timer,      "Acquire",                       Is::Asking),
    (Is::BackingOff,    0,  On::HintFree,   "",                              Is::BackingOff),
    (Is::BackingOff,    1,  On::HintFree,   "Acquire",                       Is::Asking),
    (Is::BackingOff,    1,  On::HintHeld,   "",                              Is::BackingOff),
    (Is::BackingOff,    0,  On::HintsEnded, "",                              Is::BackingOff),
    (Is::BackingOff,    0,  On::WorkEnded,  "Withdraw",                      Is::Withdrawing),

    (Is::ProbedFirst,   0,  On::Well,       "Acquire",                       Is::ProbedAsking),
    (Is::ProbedFirst,   0,  On::Unwell,     "",                              Is::SittingOut),

    (Is::ProbedAsking,  0,  On::Timer,      "",                              Is::ProbedAsking),
    (Is::ProbedAsking,  1,  On::Timer,      "Probe",                         Is::ProbedAsking),
    (Is::ProbedAsking,  1,  On::HintFree,   "",                              Is::ProbedAsking),
    (Is::ProbedAsking,  1,  On::HintHeld,   "",                              Is::ProbedAsking),
    (Is::ProbedAsking,  1,  On::HintsEnded, "",                              Is::ProbedAsking),
    (Is::ProbedAsking,  1,  On::Held,       "Probe",                         Is::ProbedGranted),
    (Is::ProbedAsking,  1,  On::Taken,      "",                              Is::ProbedWaiting),
    (Is::ProbedAsking,  1,  On::Failed,     "",                              Is::BackingOff),
    (Is::ProbedAsking,  1,  On::Refused,    "GiveUp Withdraw",               Is::Withdrawing),
    (Is::ProbedAsking,  1,  On::WorkEnded,  "Withdraw",                      Is::Withdrawing),
    (Is::ProbedAsking,  1,  On::Well,       "",                              Is::ProbedAsking),
    (Is::ProbedAsking,  1,  On::Unwell,     "Withdraw",                      Is::Leaving),

    (Is::ProbedWaiting, 1,  On::Timer,      "Probe",                         Is::ProbedWaiting),
    (Is::ProbedWaiting, 15, On::Timer,      "Probe",                         Is::ProbedFirst),
    (Is::ProbedWaiting, 1,  On::HintFree,   "Probe",                         Is::ProbedFirst),
    (Is::ProbedWaiting, 1,  On::HintHeld,   "",                              Is::ProbedWaiting),
    (Is::ProbedWaiting, 1,  On::HintsEnded, "",                              Is::ProbedWaiting),
    (Is::ProbedWaiting, 1,  On::WorkEnded,  "Withdraw",                      Is::Withdrawing),
    (Is::ProbedWaiting, 1,  On::Well,       "",                              Is::ProbedWaiting),
    (Is::ProbedWaiting, 1,  On::Unwell,     "Withdraw",                      Is::Leaving),

    (Is::ProbedGranted, 0,  On::Well,       "Elect",                         Is::Leading),
    (Is::ProbedGranted, 19, On::Well,       "Acquire",                       Is::ProbedAsking),
    (Is::ProbedGranted, 0,  On::Unwell,     "Release",                       Is::Leaving),

    (Is::Leaving,       2,  On::Timer,      "Probe",                         Is::Leaving),
    (Is::Leaving,       2,  On::Failed,     "",                              Is::Leaving),
    (Is::Leaving,       21, On::Failed,     "",                              Is::SittingOut),
    (Is::Leaving,       2,  On::Refused,    "",                              Is::Leaving),
    (Is::Leaving,       2,  On::Done,       "",                              Is::SittingOut),
    (Is::Leaving,       2,  On::WorkEnded,  "Withdraw",                      Is::Withdrawing),
    (Is::Leaving,       11, On::Well,       "",                              Is::Leaving),
    (Is::Leaving,       21, On::Well,       "Reenter Probe",                 Is::ProbedFirst),
    (Is::Leaving,       2,  On::Unwell,     "",                              Is::Leaving),

    (Is::SittingOut,    1,  On::Timer,      "",                              Is::SittingOut),
    (Is::SittingOut,    2,  On::Timer,      "Probe",                         Is::SittingOut),
    (Is::SittingOut,    2,  On::WorkEnded,  "Finish",                        Is::Finished),
    (Is::SittingOut,    10, On::Well,       "",                              Is::SittingOut),
    (Is::SittingOut,    11, On::Well,       "Reenter Probe",                 Is::ProbedFirst),
    (Is::SittingOut,    11, On::Unwell,     "",                              Is::SittingOut),

    (Is::Leading,       1,  On::Timer,      "",                              Is::Leading),
    (Is::Leading,       10, On::Timer,      "Renew",                         Is::Renewing),
    (Is::Leading,       19, On::Timer,      "Cancel(HeartbeatsMissed) Renew", Is::Stopping),
    (Is::Leading,       20, On::Timer,      "End(Expired) Overrun",          Is::RanOut),
    (Is::Leading,       1,  On::Lost,       "End(Lost)",                     Is::Lost),
    (Is::Leading,       1,  On::Stop,       "Cancel(Shutdown)",              Is::Stopping),
    (Is::Leading,       1,  On::WorkEnded,  "End(Resigned) Release",         Is::Releasing),
    (Is::Leading,       20, On::WorkEnded,  "End(Expired) Overrun Release",  Is::Releasing),
    (Is::Leading,       1,  On::RenewNow,   "Renew",                         Is::Renewing),

    (Is::Renewing,      11, On::Timer,      "",                              Is::Renewing),
    (Is::Renewing,      19, On::Timer,      "Cancel(HeartbeatsMissed)",      Is::Stopping),
    (Is::Renewing,      20, On::Timer,      "End(Expired) Overrun",          Is::RanOut),
    (Is::Renewing,      11, On::Renewed,    "Extend",                        Is::Leading),
    (Is::Renewing,      19, On::Renewed,    "Cancel(HeartbeatsMissed) Extend", Is::Stopping),
    (Is::Renewing,      20, On::Renewed,    "End(Expired) Overrun",          Is::RanOut),
    (Is::Renewing,      11, On::Overdue,    "Renew",                         Is::Renewing),
    (Is::Renewing,      19, On::Overdue,    "Cancel(HeartbeatsMissed) Renew", Is::Stopping),
    (Is::Renewing,      11, On::Lost,       "End(Lost)",                     Is::Lost),
    (Is::Renewing,      11, On::Failed,     "",                              Is::Leading),
    (Is::Renewing,      11, On::Refused,    "",                              Is::Leading),
    (Is::Renewing,      11, On::Stop,       "Cancel(Shutdown)",              Is::Stopping),
    (Is::Renewing,      11, On::WorkEnded,  "End(Resigned) Release",         Is::Releasing),
    (Is::Renewing,      11, On::RenewNow,   "",                              Is::Renewing),

    (Is::Stopping,      11, On::Timer,      "",                              Is::Stopping),
    (Is::Stopping,      20, On::Timer,      "End(Shutdown) Overrun",         Is::RanOut),
    (Is::Stopping,      11, On::Renewed,    "Extend",                        Is::Stopping),
    (Is::Stopping,      11, On::Overdue,    "Renew",                         Is::Stopping),
    (Is::Stopping,      11, On::Lost,       "End(Shutdown)",                 Is::Lost),
    (Is::Stopping,      11, On::Failed,     "",                              Is::Stopping),
    (Is::Stopping,      11, On::Refused,    "",                              Is::Stopping),
    (Is::Stopping,      11, On::Stop,       "",                              Is::Stopping),
    (Is::Stopping,      11, On::WorkEnded,  "End(Shutdown) Release",         Is::Releasing),
    (Is::Stopping,      11, On::RenewNow,   "",                              Is::Stopping),

    (Is::RanOut,        21, On::Timer,      "",                              Is::RanOut),
    (Is::RanOut,        21, On::Renewed,    "",                              Is::RanOut),
    (Is::RanOut,        21, On::Overdue,    "",                              Is::RanOut),
    (Is::RanOut,        21, On::Lost,       "",                              Is::RanOut),
    (Is::RanOut,        21, On::Failed,     "",                              Is::RanOut),
    (Is::RanOut,        21, On::Refused,    "",                              Is::RanOut),
    (Is::RanOut,        21, On::Stop,       "",                              Is::RanOut),
    (Is::RanOut,        21, On::RenewNow,   "",                              Is::RanOut),
    (Is::RanOut,        21, On::WorkEnded,  "Release",                       Is::Releasing),

    (Is::Lost,          2,  On::Timer,      "",                              Is::Lost),
    (Is::Lost,          6,  On::Timer,      "Overrun",                       Is::Lost),
    (Is::Lost,          2,  On::Renewed,    "",                              Is::Lost),
    (Is::Lost,          2,  On::Overdue,    "",                              Is::Lost),
    (Is::Lost,          2,  On::Lost,       "",                              Is::Lost),
    (Is::Lost,          2,  On::Failed,     "",                              Is::Lost),
    (Is::Lost,          2,  On::Refused,    "",                              Is::Lost),
    (Is::Lost,          2,  On::Stop,       "",                              Is::Lost),
    (Is::Lost,          2,  On::RenewNow,   "",                              Is::Lost),
    (Is::Lost,          2,  On::WorkEnded,  "Finish",                        Is::Finished),
    (Is::Lost,          6,  On::WorkEnded,  "Overrun Finish",                Is::Finished),

    (Is::Releasing,     2,  On::Timer,      "",                              Is::Releasing),
    (Is::Releasing,     21, On::Timer,      "Finish",                        Is::Finished),
    (Is::Releasing,     2,  On::Lost,       "",                              Is::Releasing),
    (Is::Releasing,     2,  On::Failed,     "",                              Is::Releasing),
    (Is::Releasing,     21, On::Failed,     "Finish",                        Is::Finished),
    (Is::Releasing,     2,  On::Refused,    "Finish",                        Is::Finished),
    (Is::Releasing,     2,  On::Done,       "Finish",                        Is::Finished),
    (Is::Releasing,     2,  On::Stop,       "",                              Is::Releasing),
    (Is::Releasing,     2,  On::WorkEnded,  "",                              Is::Releasing),
    (Is::Releasing,     2,  On::RenewNow,   "",                              Is::Releasing),

    (Is::Withdrawing,   1,  On::Timer,      "",                              Is::Withdrawing),
    (Is::Withdrawing,   20, On::Timer,      "Finish",                        Is::Finished),
    (Is::Withdrawing,   1,  On::Failed,     "",                              Is::Withdrawing),
    (Is::Withdrawing,   1,  On::Refused,    "Finish",                        Is::Finished),
    (Is::Withdrawing,   1,  On::Done,       "Finish",                        Is::Finished),
    (Is::Withdrawing,   1,  On::WorkEnded,  "",                              Is::Withdrawing),
];

type Impossible = (&'static [Is], &'static [On], &'static str);

#[rustfmt::skip]
const IMPOSSIBLE: &[Impossible] = &[
    (&[Is::Asking, Is::Waiting, Is::BackingOff, Is::ProbedAsking, Is::ProbedWaiting, Is::Leaving,
       Is::SittingOut, Is::Leading, Is::Renewing, Is::Stopping, Is::RanOut, Is::Lost, Is::Releasing,
       Is::Withdrawing],
     &[On::Campaign], "a campaign starts once"),
    (&[Is::Asking, Is::Waiting, Is::BackingOff, Is::ProbedAsking, Is::ProbedWaiting, Is::Leaving,
       Is::SittingOut, Is::Withdrawing],
     &[On::Stop, On::RenewNow, On::Renewed, On::Overdue, On::Lost], "there is no term"),
    (&[Is::Asking, Is::ProbedAsking], &[On::Done], "the call under way is acquire"),
    (&[Is::Leaving, Is::Releasing, Is::Withdrawing],
     &[On::Held, On::Taken], "the call under way is release or withdraw"),
    (&[Is::Renewing, Is::Stopping, Is::RanOut, Is::Lost],
     &[On::Held, On::Taken, On::Done], "the call under way is renew"),
    (&[Is::Releasing], &[On::Renewed, On::Overdue], "the call under way is release"),
    (&[Is::Waiting, Is::BackingOff, Is::ProbedWaiting, Is::SittingOut],
     &[On::Held, On::Taken, On::Failed, On::Refused, On::Done], "no call is under way"),
    (&[Is::Leading],
     &[On::Held, On::Taken, On::Renewed, On::Overdue, On::Failed, On::Refused, On::Done],
     "no call is under way"),
    (&[Is::Asking, Is::Waiting, Is::BackingOff, Is::Leading, Is::Renewing, Is::Stopping, Is::RanOut,
       Is::Lost, Is::Releasing, Is::Withdrawing],
     &[On::Well, On::Unwell], "the machine has not asked the probe"),
    (&[Is::Leaving, Is::SittingOut, Is::Leading, Is::Renewing, Is::Stopping, Is::RanOut, Is::Lost,
       Is::Releasing, Is::Withdrawing],
     &[On::HintFree, On::HintHeld, On::HintsEnded], "the machine wants no hints"),
    (&[Is::ProbedFirst, Is::ProbedGranted],
     &[On::Campaign, On::Timer, On::HintFree, On::HintHeld, On::HintsEnded, On::Held, On::Taken,
       On::Renewed, On::Overdue, On::Lost, On::Failed, On::Refused, On::Done, On::Stop,
       On::WorkEnded, On::RenewNow],
     "the probe is answered at once"),
    (&[Is::Idle],
     &[On::Timer, On::HintFree, On::HintHeld, On::HintsEnded, On::Held, On::Taken, On::Renewed,
       On::Overdue, On::Lost, On::Failed, On::Refused, On::Done, On::Stop, On::WorkEnded, On::RenewNow, On::Well,
       On::Unwell],
     "the campaign comes first"),
    (&[Is::Finished], &INPUTS, "the driver has stopped"),
];

const STATES: [Is; 18] = [
    Is::Idle,
    Is::Asking,
    Is::Waiting,
    Is::BackingOff,
    Is::ProbedFirst,
    Is::ProbedAsking,
    Is::ProbedWaiting,
    Is::ProbedGranted,
    Is::Leaving,
    Is::SittingOut,
    Is::Leading,
    Is::Renewing,
    Is::Stopping,
    Is::RanOut,
    Is::Lost,
    Is::Releasing,
    Is::Withdrawing,
    Is::Finished,
];

/// The way into a state: the inputs, with their seconds.
fn steps(state: Is) -> (bool, Vec<(u64, On)>) {
    let after = |before: Is, more: &[(u64, On)]| {
        let (probed, mut steps) = steps(before);
        steps.extend_from_slice(more);
        (probed, steps)
    };
    match state {
        Is::Idle => (false, Vec::new()),
        Is::Asking => after(Is::Idle, &[(0, On::Campaign)]),
        Is::Waiting => after(Is::Asking, &[(0, On::Taken)]),
        Is::BackingOff => after(Is::Asking, &[(0, On::Failed)]),
        Is::ProbedFirst => (true, vec![(0, On::Campaign)]),
        Is::ProbedAsking => after(Is::ProbedFirst, &[(0, On::Well)]),
        Is::ProbedWaiting => after(Is::ProbedAsking, &[(0, On::Taken)]),
        Is::ProbedGranted => after(Is::ProbedAsking, &[(0, On::Held)]),
        Is::Leaving => after(Is::ProbedWaiting, &[(1, On::Timer), (1, On::Unwell)]),
        Is::SittingOut => after(Is::Leaving, &[(1, On::Done)]),
        Is::Leading => after(Is::Asking, &[(0, On::Held)]),
        Is::Renewing => after(Is::Leading, &[(10, On::Timer)]),
        Is::Stopping => after(Is::Renewing, &[(10, On::Stop)]),
        Is::RanOut => after(Is::Leading, &[(20, On::Timer)]),
        Is::Lost => after(Is::Leading, &[(1, On::Lost)]),
        Is::Releasing => after(Is::Leading, &[(1, On::WorkEnded)]),
        Is::Withdrawing => after(Is::Asking, &[(0, On::WorkEnded)]),
        Is::Finished => after(Is::Withdrawing, &[(0, On::Done)]),
    }
}

fn machine_in(state: Is) -> Machine {
    let policy = Policy::builder().jitter_percent(0).build().unwrap();
    let (probed, steps) = steps(state);
    let settings = Settings {
        wakeup: Wakeup::Push,
        drain_limit: 21 * SECOND,
        answered: false,
        probed,
        seed: 1,
    };
    let mut machine = Machine::new(policy, settings);
    for (second, on) in steps {
        handle(&mut machine, at(second), input(on, at(second)));
    }
    assert_eq!(state_of(&machine), state, "the way into it");
    machine
}

fn input(on: On, now: Time) -> Input {
    let lease = 20 * SECOND;
    match on {
        On::Campaign => Input::Campaign,
        On::Timer => Input::Timer,
        On::HintFree => Input::Hint(Hint::MayBeFree),
        On::HintHeld => Input::Hint(Hint::HeldFor(9 * SECOND)),
        On::HintsEnded => Input::HintsEnded,
        On::Held => Input::Held {
            proven_at: now,
            lease,
        },
        On::Taken => Input::Taken {
            free_in: Some(Duration::from_secs(15)),
        },
        On::Renewed => Input::Renewed {
            proven_at: now,
            lease,
        },
        On::Overdue => Input::Overdue { goes_on: true },
        On::Lost => Input::Lost,
        On::Failed => Input::Failed(Failure::default()),
        On::Refused => Input::Failed(Failure {
            permanent: true,
            retry_after: None,
            unanswered: false,
        }),
        On::Done => Input::Done,
        On::Stop => Input::Stop(Cause::Shutdown),
        On::WorkEnded => Input::WorkEnded,
        On::RenewNow => Input::RenewNow,
        On::Well => Input::Health(true),
        On::Unwell => Input::Health(false),
    }
}

fn state_of(machine: &Machine) -> Is {
    match &machine.state {
        State::Idle => Is::Idle,
        State::Candidate(candidacy) => match (candidacy.pending, candidacy.acquire_at) {
            (Pending::Acquire, _) => Is::ProbedFirst,
            (Pending::Lead { .. }, _) => Is::ProbedGranted,
            (Pending::Nothing, Some(_)) if candidacy.failed => Is::BackingOff,
            (Pending::Nothing, None) if machine.probed => Is::ProbedAsking,
            (Pending::Nothing, None) => Is::Asking,
            (Pending::Nothing, Some(_)) if machine.probed => Is::ProbedWaiting,
            (Pending::Nothing, Some(_)) => Is::Waiting,
        },
        State::SittingOut(out) if out.giving_back.is_some() => Is::Leaving,
        State::SittingOut(_) => Is::SittingOut,
        State::Leader(leading) if leading.cancelled.is_some() => Is::Stopping,
        State::Leader(leading) if leading.renew_at.is_none() => Is::Renewing,
        State::Leader(_) => Is::Leading,
        State::Ended { lost: true, .. } => Is::Lost,
        State::Ended { .. } => Is::RanOut,
        State::GivingBack {
            command: Command::Release,
            ..
        } => Is::Releasing,
        State::GivingBack { .. } => Is::Withdrawing,
        State::Finished => Is::Finished,
    }
}

fn named(command: &Command) -> String {
    match command {
        Command::Renew { .. } => "Renew".to_owned(),
        Command::Elect(_) => "Elect".to_owned(),
        Command::Extend(_) => "Extend".to_owned(),
        other => format!("{other:?}"),
    }
}

#[test]
fn each_row_of_the_table_holds() {
    for &(from, second, on, commands, to) in TABLE {
        let mut machine = machine_in(from);
        let now = at(second);
        let asked = handle(&mut machine, now, input(on, now));
        let asked: Vec<String> = asked.iter().map(named).collect();
        let row = format!("{from:?} at {second} s on {on:?}");
        assert_eq!(asked.join(" "), commands, "{row}");
        assert_eq!(state_of(&machine), to, "{row}");
    }
}

#[test]
fn each_state_and_input_has_a_row_or_a_reason_why_it_has_none() {
    for from in STATES {
        for on in INPUTS {
            let rows = TABLE.iter().filter(|row| row.0 == from && row.2 == on);
            let reasons = IMPOSSIBLE
                .iter()
                .filter(|(states, inputs, _)| states.contains(&from) && inputs.contains(&on));
            match (rows.count(), reasons.count()) {
                (0, 1) => {}
                (rows, 0) if rows > 0 => {}
                (rows, reasons) => panic!("{from:?} on {on:?}: {rows} rows, {reasons} reasons"),
            }
        }
    }
}

/// A driver that errs must not bring a machine down with it.
#[test]
fn an_impossible_input_does_not_panic() {
    for (states, inputs, _) in IMPOSSIBLE {
        for &from in *states {
            for &on in *inputs {
                let mut machine = machine_in(from);
                let now = at(1);
                handle(&mut machine, now, input(on, now));
            }
        }
    }
}
