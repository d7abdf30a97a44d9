//! What the suite is told about a backend.

use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tenure_core::{Capabilities, Error, LockBackend, LockName, MemoryBackend, SharedClock};

use crate::network::Proxied;
use crate::proxy::{FaultProxy, Way};
use crate::verdict::Stop;

/// A backend under test: how to connect to it, and what else can be done with its store.
///
/// Only [`connect`](Self::connect) is required. A hook that is not implemented leaves out the
/// cases that need it, each with a line that names the hook; see
/// [`impossible_hooks`](Self::impossible_hooks) for a strict mode. Each hook has a limit of five
/// times the [patience](Self::patience).
#[async_trait]
pub trait Target: Send + Sync {
    /// Opens a new connection to the store, as independent of the others as one of another
    /// process would be. All connections see the same locks.
    async fn connect(&self) -> Result<Arc<dyn LockBackend>, Error>;

    /// The lease for cases that wait for its end. A lease is doubled when the machine was too
    /// slow for it, so it can be short.
    ///
    /// The default is the shortest that the store grants, at least half a second.
    fn lease(&self, capabilities: &Capabilities) -> Duration {
        round_up(
            capabilities.min_lease.max(Duration::from_millis(500)),
            capabilities.lease_granularity,
        )
    }

    /// How long anything may take that should take no time at all, before the case has failed.
    /// It is only ever used up by a backend that fails.
    fn patience(&self) -> Duration {
        Duration::from_secs(60)
    }

    /// Whether the store is set up as the texts of [`Rises::If`](tenure_core::Rises::If) in its
    /// capabilities ask for.
    fn conditions_met(&self) -> bool {
        false
    }

    /// Strict mode: the hooks that this target cannot have. A case that needs another missing one
    /// fails, instead of being left out. `None`, the default: all but [`connect`](Self::connect)
    /// may be missing.
    ///
    /// For a backend that is meant to be relied on: name what its store makes impossible, such as
    /// `&["connect_by_proxy", "end_session"]` where there is no connection.
    fn impossible_hooks(&self) -> Option<&[&str]> {
        None
    }

    /// Hook: passwords and tokens that may appear in no error and no debug output.
    fn secrets(&self) -> Vec<String> {
        Vec::new()
    }

    /// Hook: deletes the lock's key, object or file, as an operator would.
    async fn delete_lock(&self, _lock: &LockName) -> Hook {
        Hook::Absent
    }

    /// Hook: puts into the place of the lock's record what no backend would write.
    async fn corrupt_lock(&self, _lock: &LockName) -> Hook {
        Hook::Absent
    }

    /// Hook: writes beside the lock's record as another program would, an annotation on its object
    /// for example. The record stays as it is.
    async fn write_beside(&self, _lock: &LockName) -> Hook {
        Hook::Absent
    }

    /// Hook: kills the store and starts it again on its data; returns when it answers. No other
    /// case runs meanwhile in this process.
    async fn restart_store(&self) -> Hook {
        Hook::Absent
    }

    /// Hook: from now on the store's answers reach the connections of this target like this;
    /// a [`FaultProxy`](crate::proxy::FaultProxy) in front of the store does it. No other case
    /// runs meanwhile in this process.
    async fn answers(&self, _answers: Answers) -> Hook {
        Hook::Absent
    }

    /// Hook: a connection as [`connect`](Self::connect) opens it, but by way of proxies that
    /// nothing else uses, so that the suite can reset it; see [`Proxied`]. `None`: absent.
    ///
    /// A store whose locks end with a session ([`Expiry::Session`](tenure_core::Expiry::Session))
    /// has to have it: its cases about lost sessions fail without it. Any other store may have
    /// it, to show that a lost connection costs no term.
    async fn connect_by_proxy(&self) -> Option<Result<Proxied, Error>> {
        None
    }

    /// Hook: ends the session that holds the lock, at the store, as an operator would.
    async fn end_session(&self, _lock: &LockName) -> Hook {
        Hook::Absent
    }

    /// Hook: a connection to a place where no store is. `None`: absent. An error stands for one
    /// that is refused when it is opened.
    async fn connect_to_nothing(&self) -> Option<Result<Arc<dyn LockBackend>, Error>> {
        None
    }

    /// Hook: a command that calls [`contestant_main`](crate::contestant_main) on the same store in
    /// another process; the suite adds to its environment.
    fn contestant(&self) -> Option<Command> {
        None
    }
}

/// Whether a hook did its work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hook {
    /// It is done.
    Done,
    /// This target has no such hook; the case is left out.
    Absent,
    /// It should have worked and did not: the case fails.
    Failed(String),
}

impl Hook {
    pub(crate) fn need(self, name: &'static str) -> Result<(), Stop> {
        match self {
            Self::Done => Ok(()),
            Self::Absent => Err(Stop::missing_hook(name)),
            Self::Failed(problem) => Err(Stop::failed(format!("hook `{name}`: {problem}"))),
        }
    }
}

/// How the store's answers arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answers {
    /// As soon as they can.
    Prompt,
    /// So much later; requests are not delayed.
    Late(Duration),
    /// Never; requests arrive and are applied.
    Lost,
}

impl Answers {
    /// Lets the answers arrive like this by way of `proxies`, all that stand in front of the store:
    /// what the hook [`answers`](Target::answers) does.
    pub fn through<'a>(self, proxies: impl IntoIterator<Item = &'a FaultProxy>) -> Hook {
        for proxy in proxies {
            proxy.restore();
            match self {
                Self::Prompt => {}
                Self::Late(delay) => proxy.delay(Way::Answers, delay),
                Self::Lost => proxy.lose(Way::Answers),
            }
        }
        Hook::Done
    }
}

/// The memory backend as a target; each value has locks of its own.
#[derive(Clone, Debug)]
pub struct MemoryTarget {
    backend: MemoryBackend,
}

impl MemoryTarget {
    /// On the host's boot clock.
    pub fn new() -> Self {
        Self {
            backend: MemoryBackend::private(),
        }
    }

    /// On another clock.
    pub fn with_clock(clock: SharedClock) -> Self {
        Self {
            backend: MemoryBackend::with_clock(clock),
        }
    }
}

impl Default for MemoryTarget {
    fn default() -> Self {
        Self::new()
    }
}

#[async_trait]
impl Target for MemoryTarget {
    async fn connect(&self) -> Result<Arc<dyn LockBackend>, Error> {
        Ok(Arc::new(self.backend.clone()))
    }

    async fn delete_lock(&self, lock: &LockName) -> Hook {
        self.backend.store().delete(lock);
        Hook::Done
    }
}

/// `duration` as the next whole multiple of `granularity`.
pub(crate) fn round_up(duration: Duration, granularity: Duration) -> Duration {
    let step = granularity.as_nanos().max(1);
    let nanos = duration.as_nanos().div_ceil(step) * step;
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leases_are_rounded_up_to_what_the_store_grants() {
        let second = Duration::from_secs(1);
        assert_eq!(round_up(Duration::from_millis(1001), second), 2 * second);
        assert_eq!(round_up(second, second), second);
        assert_eq!(round_up(second, Duration::ZERO), second);
    }
}
