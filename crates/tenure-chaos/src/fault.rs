//! The faults that the nemesis knows.

use std::fmt;

use clap::ValueEnum;

/// A fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, ValueEnum)]
pub enum Fault {
    /// A candidate is stopped by SIGSTOP and continued.
    Freeze,
    /// All threads of a candidate's runtime are blocked, and its other threads work on.
    Starve,
    /// A candidate gets `kill -9` and is started again.
    Kill,
    /// A candidate is asked to end by SIGTERM and is started again.
    Terminate,
    /// A candidate's wall clock jumps, and jumps back.
    WallClock,
    /// Bytes of a candidate's connections are lost in both directions.
    Swallow,
    /// Answers to a candidate are lost; its requests arrive.
    AnswersLost,
    /// Requests of a candidate are lost; answers arrive.
    RequestsLost,
    /// A candidate's connections are reset.
    Reset,
    /// A candidate's connections end in one direction.
    HalfClose,
    /// Each answer to a candidate comes late.
    Delay,
    /// Each answer to each candidate comes late.
    SlowStore,
    /// A candidate's connections are reset, and new ones refused.
    Refuse,
    /// The network interface of a candidate loses its carrier.
    LinkDown,
    /// The store gets `kill -9` and is started again.
    StoreKill,
    /// The store is stopped by SIGSTOP and continued.
    StoreFreeze,
    /// The store fails over to another server.
    StoreFailover,
    /// The lock is deleted under its leader.
    KeyDeleted,
    /// The lock's record becomes one that cannot be read.
    RecordCorrupted,
    /// A foreign program changes the lock's object without changing the election.
    ForeignWriter,
    /// The candidates' rights are taken away and given back.
    Revoked,
    /// The store's wall clock jumps.
    StoreClock,
    /// The store's disk is full.
    DiskFull,
}

/// Whom a fault hits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// One candidate's process.
    Process,
    /// One candidate's connections.
    Network,
    /// The store.
    Store,
}

impl Fault {
    /// Whom it hits.
    pub fn reach(self) -> Reach {
        match self {
            Self::Freeze | Self::Starve | Self::Kill | Self::Terminate | Self::WallClock => {
                Reach::Process
            }
            Self::Swallow
            | Self::AnswersLost
            | Self::RequestsLost
            | Self::Reset
            | Self::HalfClose
            | Self::Delay
            | Self::Refuse
            | Self::LinkDown => Reach::Network,
            _ => Reach::Store,
        }
    }

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Freeze => "freeze",
            Self::Starve => "starve",
            Self::Kill => "kill",
            Self::Terminate => "terminate",
            Self::WallClock => "wall-clock",
            Self::Swallow => "swallow",
            Self::AnswersLost => "answers-lost",
            Self::RequestsLost => "requests-lost",
            Self::Reset => "reset",
            Self::HalfClose => "half-close",
            Self::Delay => "delay",
            Self::SlowStore => "slow-store",
            Self::Refuse => "refuse",
            Self::LinkDown => "link-down",
            Self::StoreKill => "store-kill",
            Self::StoreFreeze => "store-freeze",
            Self::StoreFailover => "store-failover",
            Self::KeyDeleted => "key-deleted",
            Self::RecordCorrupted => "record-corrupted",
            Self::ForeignWriter => "foreign-writer",
            Self::Revoked => "revoked",
            Self::StoreClock => "store-clock",
            Self::DiskFull => "disk-full",
        }
    }

    /// All faults of candidates.
    pub const OF_PROCESSES: [Self; 5] = [
        Self::Freeze,
        Self::Starve,
        Self::Kill,
        Self::Terminate,
        Self::WallClock,
    ];

    /// All faults of a proxy.
    pub const OF_NETWORKS: [Self; 8] = [
        Self::Swallow,
        Self::AnswersLost,
        Self::RequestsLost,
        Self::Reset,
        Self::HalfClose,
        Self::Delay,
        Self::Refuse,
        Self::SlowStore,
    ];
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Whether a store's documentation promises that a fault does no harm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Promise {
    /// It does: no two leaders, and tokens that rise.
    Within,
    /// It does not; the sentence that excludes the fault.
    Beyond(&'static str),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_has_the_name_of_the_command_line() {
        for fault in Fault::value_variants() {
            let value = fault.to_possible_value().unwrap();
            assert_eq!(value.get_name(), fault.name());
        }
    }
}
