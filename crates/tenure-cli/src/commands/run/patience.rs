//! How long `tenure run` waits to be elected.

use std::time::Duration;

use tenure::Policy;
use tokio::time::Instant;

use crate::failure::Failure;
use crate::options;

/// How long an election is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Patience {
    Endless,
    /// Until another candidate is seen to lead.
    None,
    Limited(Duration),
}

impl Patience {
    pub(super) fn of(try_once: bool, wait: Option<&str>) -> Result<Self, Failure> {
        let limit = wait.map(|text| options::duration("--wait", text));
        Ok(match (try_once, limit.transpose()?) {
            // Not left to clap, for which a switch that a variable turns off is there as well.
            (true, Some(_)) => {
                return Err(Failure::new(
                    "--try (TENURE_TRY) and --wait (TENURE_WAIT) exclude each other; give one of them",
                ));
            }
            // In no time at all nobody could be elected, not even where the lock is free.
            (true, None) | (false, Some(Duration::ZERO)) => Self::None,
            (false, Some(limit)) => Self::Limited(limit),
            (false, None) => Self::Endless,
        })
    }

    /// When a campaign that begins now is given up. A single try lasts a lease where nobody is seen to
    /// lead: after its start a store may keep a lock for so long from candidates that do not know who
    /// had it.
    pub(super) fn end(self, policy: &Policy) -> Option<Instant> {
        let limit = match self {
            Self::Endless => return None,
            Self::None => policy.lease() + policy.request_timeout() * 2,
            Self::Limited(limit) => limit,
        };
        Some(Instant::now() + limit)
    }
}
