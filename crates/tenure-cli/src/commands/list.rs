//! `tenure list`: the elections of a store, and who leads each.

use std::time::Duration;

use serde_json::{Value, json};
use tenure::{Error, ErrorKind, LockBackend, LockName, Operation, Page, Registry};

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
        let view = |(lock, seen): &Seen| match seen {
            Ok(view) => view.json(lock),
            Err(_) => LeaderView::unreadable().json(lock),
        };
        let views: Vec<Value> = elections.iter().map(view).collect();
        print(&json!({ "elections": views, "next": next }).to_string())?;
        return all_read(&elections);
    }
    for (lock, view) in &elections {
        if let Ok(view) = view
            && !print(&view.text(lock))?
        {
            return Ok(0);
        }
    }
    if let Some(next) = next {
        tracing::warn!("there may be more elections: tenure list --after {next}");
    }
    all_read(&elections)
}

/// An election, and who leads it, or why that cannot be read.
type Seen = (LockName, Result<LeaderView, Error>);

async fn look(backend: &dyn LockBackend, page: Page<'_>) -> Result<Vec<Seen>, Error> {
    let locks = within(Operation::List, backend.elections(page)).await?;
    let mut elections = Vec::with_capacity(locks.len());
    for lock in locks {
        let seen = match within(Operation::Holder, backend.holder(&lock)).await {
            Ok(occupancy) => Ok(LeaderView::from(occupancy)),
            Err(error) if is_of_one_lock(error.kind()) => Err(error),
            Err(error) => return Err(error),
        };
        elections.push((lock, seen));
    }
    // Where none can be read, one answer says why.
    let is_unread = |(_, seen): &Seen| seen.is_err();
    if elections.iter().all(is_unread)
        && let Some((_, Err(error))) = elections.pop()
    {
        return Err(error);
    }
    Ok(elections)
}

/// Whether others can be read although this one cannot.
fn is_of_one_lock(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::Corrupted | ErrorKind::Forbidden | ErrorKind::Unsupported
    )
}

/// The exit code, or an error that names each lock that could not be read.
fn all_read(elections: &[Seen]) -> Result<u8, Failure> {
    let unread = elections.iter().filter_map(|(lock, seen)| {
        let error = seen.as_ref().err()?.to_string();
        // Each by itself: a text is hidden up to the last place where a password may end.
        Some(format!("{lock}: {}", tenure::redact(&error)))
    });
    let unread: Vec<String> = unread.collect();
    if unread.is_empty() {
        return Ok(0);
    }
    Err(Failure::new(unread.join("; ")))
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
