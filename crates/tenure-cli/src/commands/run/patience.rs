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
        Ok(match wait {
            _ if try_once => Self::None,
            Some(text) => Self::Limited(options::duration("--wait", text)?),
            None => Self::Endless,
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
