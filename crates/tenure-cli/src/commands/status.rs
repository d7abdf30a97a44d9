//! `tenure status`: who leads.

use std::time::Duration;

use tenure::{Error, Operation, Registry};

use crate::failure::{Failure, exit};
use crate::options::{self, StatusArgs};
use crate::output::{LeaderView, print};

/// How long the store may take to answer.
const LIMIT: Duration = Duration::from_secs(10);

/// `tenure status`.
pub(crate) fn status(args: &StatusArgs, registry: &Registry) -> Result<u8, Failure> {
    let lock = options::lock(&args.lock_args.lock)?;
    let url = args.lock_args.backend.url()?;
    let occupancy = options::runtime()?.block_on(async {
        let backend = registry.connect_to_look(&url).await?;
        match tokio::time::timeout(LIMIT, backend.holder(&lock)).await {
            Ok(occupancy) => occupancy,
            Err(_) => Err(Error::timeout(Operation::Holder, LIMIT)),
        }
    })?;
    let view = LeaderView::from(occupancy);
    let line = if args.json {
        view.json(&lock).to_string()
    } else {
        view.text(&lock)
    };
    print(&line)?;
    Ok(if view.state == LeaderView::FREE {
        exit::NO_LEADER
    } else {
        0
    })
}
