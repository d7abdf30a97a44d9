//! What a proxy is told to do.

use std::time::Duration;

/// The way that bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From the client to the server.
    Requests,
    /// From the server to the client.
    Answers,
    /// Both.
    Both,
}

impl Way {
    pub(super) fn includes(self, leg: Leg) -> bool {
        self == Self::Both || self == leg.way()
    }
}

/// One way of one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leg {
    Requests,
    Answers,
}

impl Leg {
    pub(super) fn way(self) -> Way {
        match self {
            Self::Requests => Way::Requests,
            Self::Answers => Way::Answers,
        }
    }
}

/// What happens to bytes of one way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Flow {
    #[default]
    Pass,
    /// Kept back until restored, as in a network that is repaired before the peers give up.
    Hold,
    /// Lost. A connection that has lost something never goes on: it is reset when restored.
    Lose,
}

/// The faults of one way.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Faults {
    pub(super) flow: Flow,
    pub(super) delay: Duration,
    /// Reset both ends after so many more bytes.
    pub(super) cut_after: Option<u64>,
    /// How often this way was ended: a connection ends its own when this grows.
    pub(super) half_closes: u64,
}

/// What the connections of a proxy do.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Script {
    pub(super) requests: Faults,
    pub(super) answers: Faults,
    pub(super) refuse: bool,
    /// How often all connections were reset.
    pub(super) resets: u64,
}

impl Script {
    pub(super) fn faults(&self, leg: Leg) -> &Faults {
        match leg {
            Leg::Requests => &self.requests,
            Leg::Answers => &self.answers,
        }
    }
}
