//! What a signal means to the command of a term.

use rustix::process::Signal;
use tenure::Time;

use crate::supervisor::signals::Received;

/// What is to be done about a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Meaning {
    /// The command gets it.
    PassOn,
    /// The command gets it, and has to stop.
    Stop,
    /// Nothing: it is the same request as an earlier one.
    Repeated,
    /// The command is killed.
    Kill,
}

/// The requests to stop that came in a term.
#[derive(Debug, Default)]
pub(crate) struct Requests {
    /// When the command was first told to stop.
    stop: Option<Time>,
    /// When the last SIGHUP was passed on.
    hangup: Option<Time>,
}

impl Requests {
    pub(crate) fn meaning_of(&mut self, received: Received) -> Meaning {
        let repeats = |first: Option<Time>| first.is_some_and(|at| received.repeats(at));
        match received.signal {
            Signal::TERM | Signal::INT if repeats(self.stop) => Meaning::Repeated,
            Signal::TERM | Signal::INT if self.stop.is_some() => Meaning::Kill,
            Signal::TERM | Signal::INT => {
                self.stop = Some(received.at);
                Meaning::Stop
            }
            // To many a command SIGHUP is no request to stop, so it never becomes one.
            Signal::HUP if repeats(self.stop) || repeats(self.hangup) => Meaning::Repeated,
            Signal::HUP => {
                self.hangup = Some(received.at);
                Meaning::PassOn
            }
            _ => Meaning::PassOn,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meanings(signals: &[(Signal, u64)]) -> Vec<Meaning> {
        let mut requests = Requests::default();
        let mut meaning = |(signal, millis): &(Signal, u64)| {
            let at = Time::from_nanos(millis * 1_000_000);
            requests.meaning_of(Received {
                signal: *signal,
                at,
            })
        };
        signals.iter().map(&mut meaning).collect()
    }

    #[test]
    fn two_signals_in_a_row_are_one_request_and_a_later_one_kills() {
        use Meaning::{Kill, PassOn, Repeated, Stop};
        for second in [Signal::TERM, Signal::INT, Signal::HUP] {
            let came = [(Signal::TERM, 1000), (second, 1000), (second, 1499)];
            assert_eq!(meanings(&came), [Stop, Repeated, Repeated]);
        }
        for second in [Signal::TERM, Signal::INT] {
            let came = [(Signal::INT, 1000), (second, 1499), (second, 1500)];
            assert_eq!(meanings(&came), [Stop, Repeated, Kill]);
        }
        let hangups = [(Signal::HUP, 0), (Signal::HUP, 1), (Signal::HUP, 500)];
        assert_eq!(meanings(&hangups), [PassOn, Repeated, PassOn]);
        // A hang-up alone does not tell the command to stop, so what follows does.
        let both = [(Signal::HUP, 0), (Signal::TERM, 1), (Signal::HUP, 2)];
        assert_eq!(meanings(&both), [PassOn, Stop, Repeated]);
        let others = [(Signal::TERM, 0), (Signal::USR1, 1), (Signal::WINCH, 2)];
        assert_eq!(meanings(&others), [Stop, PassOn, PassOn]);
    }
}
