//! One measurement: who leads, and what happens to the network.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;
use tenure::Policy;

use crate::store::Kind;

/// Who leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Elector {
    /// The default policy.
    Default,
    /// `Policy::patient()`.
    Patient,
    /// `Policy::client_go()`.
    #[value(name = "client_go")]
    OurClientGo,
    /// client-go itself, 15/10/2.
    #[value(name = "client-go")]
    ClientGo,
    /// kubert, lease 15 s.
    Kubert,
}

impl Elector {
    /// `None` for a peer.
    pub(crate) fn policy(self) -> Option<Policy> {
        match self {
            Self::Default => Some(Policy::default()),
            Self::Patient => Some(Policy::patient()),
            Self::OurClientGo => Some(Policy::client_go()),
            Self::ClientGo | Self::Kubert => None,
        }
    }

    /// The lease, and the time from one renewal to the next.
    pub(crate) fn times(self) -> (Duration, Duration) {
        let seconds = Duration::from_secs;
        match (self, self.policy()) {
            (_, Some(policy)) => (policy.lease(), policy.heartbeat()),
            // kubert renews 5 s before the end.
            (Self::Kubert, None) => (seconds(15), seconds(10)),
            (_, None) => (seconds(15), seconds(2)),
        }
    }
}

/// What happens to the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Fault {
    /// All packets are lost, in both directions.
    Silent,
    /// All connections are reset, and new ones are refused.
    Cut,
    /// Each answer takes so long.
    Slow,
}

/// One measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Cell {
    pub(crate) elector: Elector,
    pub(crate) fault: Fault,
    pub(crate) length: Duration,
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let length = humantime::format_duration(self.length);
        write!(f, "{}:{length}:{}", name(&self.fault), name(&self.elector))
    }
}

impl FromStr for Cell {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let [fault, length, elector] = text.split(':').collect::<Vec<_>>()[..] else {
            bail!("write FAULT:LENGTH:WHO, such as silent:7s:default");
        };
        let of = |error: String| anyhow::anyhow!(error);
        Ok(Self {
            elector: Elector::from_str(elector, false).map_err(of)?,
            fault: Fault::from_str(fault, false).map_err(of)?,
            length: humantime::parse_duration(length).context("the length")?,
        })
    }
}

/// As it is typed.
pub(crate) fn name(value: &impl ValueEnum) -> String {
    let shown = value.to_possible_value();
    shown.map_or_else(String::new, |value| value.get_name().to_owned())
}

impl Cell {
    /// All cells of a store.
    pub(crate) fn all(store: Kind) -> Vec<Self> {
        use Elector::{ClientGo, Default, Kubert, OurClientGo, Patient};
        use Fault::{Cut, Silent, Slow};
        let mut plan: Vec<(Elector, Fault, &[u64])> = vec![
            (Default, Silent, &[5, 6, 7, 8, 10]),
            (Default, Cut, &[5, 7, 8, 10]),
            (Default, Slow, &[2, 4]),
            (Patient, Silent, &[7, 45]),
            (Patient, Cut, &[7, 45]),
            (Patient, Slow, &[4]),
        ];
        let both: [(Fault, &[u64]); 3] = [(Silent, &[5, 7, 8]), (Cut, &[5, 7, 8]), (Slow, &[2])];
        let mut beside = vec![OurClientGo];
        if store == Kind::KubeLease {
            beside.extend([ClientGo, Kubert]);
        }
        for (fault, lengths) in both {
            plan.extend(beside.iter().map(|elector| (*elector, fault, lengths)));
        }
        let cells = plan.iter().flat_map(|(elector, fault, lengths)| {
            lengths.iter().map(|seconds| Self {
                elector: *elector,
                fault: *fault,
                length: Duration::from_secs(*seconds),
            })
        });
        cells.collect()
    }

    /// How many terms may be lost at most, where we promise it.
    pub(crate) fn promised(self, store: Kind) -> Option<usize> {
        let seconds = self.length.as_secs();
        let by_session = store.ends_with_session();
        let survives = match (self.elector, self.fault) {
            (Elector::Default, Fault::Silent) => 7,
            (Elector::Default, Fault::Cut) if !by_session => 7,
            (Elector::Default | Elector::Patient, Fault::Slow) if !by_session => 4,
            (Elector::Patient, Fault::Silent) => {
                if by_session {
                    6
                } else {
                    45
                }
            }
            (Elector::Patient, Fault::Cut) if !by_session => 45,
            _ => return None,
        };
        (seconds <= survives).then_some(0)
    }

    /// How long the fault lasts.
    pub(crate) fn lasts(self) -> Duration {
        let (lease, heartbeat) = self.elector.times();
        match self.fault {
            Fault::Silent | Fault::Cut => self.length,
            // Three heartbeats at least, and so long that a term can be lost.
            Fault::Slow => lease + heartbeat + self.length * 2,
        }
    }

    /// How long after the fault's begin the last term that it costs is lost.
    pub(crate) fn judged_after(self) -> Duration {
        let (lease, _) = self.elector.times();
        self.lasts().max(lease) + Duration::from_secs(5)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_cell_is_read_as_it_is_shown() {
        for store in Kind::value_variants() {
            for cell in Cell::all(*store) {
                assert_eq!(cell.to_string().parse::<Cell>().unwrap(), cell);
            }
        }
        for wrong in ["", "silent:7s", "silent:soon:default", "loud:7s:default"] {
            assert!(wrong.parse::<Cell>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn all_of_one_store_takes_less_than_an_hour() {
        for store in Kind::value_variants() {
            let times = Cell::all(*store).into_iter().map(|cell| {
                let (_, heartbeat) = cell.elector.times();
                heartbeat * 2 + Duration::from_secs(5) + cell.judged_after()
            });
            let all: Duration = times.sum();
            assert!(all < Duration::from_secs(3000), "{all:?}");
        }
    }
}
