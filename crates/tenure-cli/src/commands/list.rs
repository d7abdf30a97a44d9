//! `tenure list`: the elections of a store, and who leads each.

use std::time::Duration;

use serde_json::{Value, json};
use tenure::{Error, LockBackend, LockName, Operation, Page, Registry};

use crate::failure::Failure;
use crate::options::{self, ListArgs};
use crate::output::{LeaderView, print};

/// How long the store may take to answer.
const LIMIT: Duration = Duration::from_secs(10);

/// `tenure list`.
pub(crate) fn list(args: &ListArgs, registry: &Registry) -> Result<u8, Failure> {
    let after = args.after.as_deref().map(options::lock).transpose()?;
    let mut page = Page::new(&args.prefix, args.limit);
    if let Some(after) = &after {
        page = page.after(after);
    }
    let url = args.backend.url()?;
    let elections = options::runtime()?.block_on(async {
        let backend = registry.connect_to_look(&url).await?;
        look(&*backend, page).await
    })?;
    // The last of a page that is full.
    let next = elections.last().filter(|_| elections.len() >= args.limit);
    let next = next.map(|(lock, _)| lock.as_str());
    if args.json {
        let views = elections.iter().map(|(lock, view)| view.json(lock));
        let views: Vec<Value> = views.collect();
        print(&json!({ "elections": views, "next": next }).to_string())?;
        return Ok(0);
    }
    for (lock, view) in &elections {
        if !print(&view.text(lock))? {
            return Ok(0);
        }
    }
    if let Some(next) = next {
        tracing::warn!("there may be more elections: tenure list --after {next}");
    }
    Ok(0)
}

async fn look(
    backend: &dyn LockBackend,
    page: Page<'_>,
) -> Result<Vec<(LockName, LeaderView)>, Error> {
    let locks = within(Operation::List, backend.elections(page)).await?;
    let mut elections = Vec::with_capacity(locks.len());
    for lock in locks {
        let occupancy = within(Operation::Holder, backend.holder(&lock)).await?;
        elections.push((lock, LeaderView::from(occupancy)));
    }
    Ok(elections)
}

async fn within<T>(
    operation: Operation,
    call: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    match tokio::time::timeout(LIMIT, call).await {
        Ok(answer) => answer,
        Err(_) => Err(Error::timeout(operation, LIMIT)),
    }
}
