//! Why a term ends.

/// Why a term ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Cause {
    /// Its owner gave it back.
    Resigned,
    /// The service shuts down.
    Shutdown,
    /// An operator asked the leader to resign: see
    /// [`LockBackend::ask_to_resign`](crate::LockBackend::ask_to_resign).
    Asked,
    /// No heartbeat got through in time; the validity is about to end.
    HeartbeatsMissed,
    /// The validity had ended before anything could be done: the process was stopped, say.
    Expired,
    /// The store says that the term is over: the lock was deleted or another candidate has it.
    Lost,
    /// This process is a fork of the one that leads.
    Forked,
}

impl Cause {
    /// Each is a series of metrics. A fork counts nothing: its parent goes on.
    #[cfg(feature = "metrics")]
    pub(crate) const COUNTED: [Self; 6] = [
        Self::Resigned,
        Self::Shutdown,
        Self::Asked,
        Self::HeartbeatsMissed,
        Self::Expired,
        Self::Lost,
    ];

    /// The cause as a label of metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Resigned => "resigned",
            Self::Shutdown => "shutdown",
            Self::Asked => "asked",
            Self::HeartbeatsMissed => "heartbeats_missed",
            Self::Expired => "expired",
            Self::Lost => "lost",
            Self::Forked => "forked",
        }
    }

    /// The cause in words.
    pub const fn describe(self) -> &'static str {
        match self {
            Self::Resigned => "the term was given back",
            Self::Shutdown => "the service shuts down",
            Self::Asked => "the leader was asked to resign",
            Self::HeartbeatsMissed => "no heartbeat got through to the store",
            Self::Expired => "the term ran out before anything could be done",
            Self::Lost => "the lock was deleted or another candidate holds it",
            Self::Forked => "this process is a fork of the one that leads",
        }
    }
}
