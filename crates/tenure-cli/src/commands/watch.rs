//! `tenure watch`: who leads, and each change of it.

use std::time::{Duration, SystemTime};

use futures_util::StreamExt as _;
use serde_json::Value;
use tenure::{LockBackend, LockName, Observer, Policy, Registry};

use crate::failure::Failure;
use crate::options::{self, StatusArgs};
use crate::output::{LeaderView, print};
use crate::supervisor::signals::Signals;

/// How long the store may take to answer the first time.
const LIMIT: Duration = Duration::from_secs(10);

/// `tenure watch`.
pub(crate) fn watch(args: &StatusArgs, registry: &Registry) -> Result<u8, Failure> {
    let lock = options::lock(&args.lock_args.lock)?;
    let url = args.lock_args.backend.url()?;
    options::runtime()?.block_on(async {
        let mut signals = Signals::handle()?;
        let backend = tokio::select! {
            backend = registry.connect_to_look(&url) => backend?,
            _ = signals.ending() => return Ok(0),
        };
        tokio::select! {
            fit = refuse_if_useless(&*backend, &lock) => fit?,
            _ = signals.ending() => return Ok(0),
        }
        let mut changes = Observer::new(backend, lock.clone(), Policy::default()).watch();
        loop {
            let observation = tokio::select! {
                observation = changes.next() => observation,
                _ = signals.ending() => return Ok(0),
            };
            let Some(observation) = observation else {
                return Ok(0);
            };
            if !print(&at_this_time(
                &LeaderView::from(observation),
                &lock,
                args.json,
            ))? {
                return Ok(0);
            }
        }
    })
}

/// Fails at once with an error that an operator has to fix. Watching would never end.
async fn refuse_if_useless(backend: &dyn LockBackend, lock: &LockName) -> Result<(), Failure> {
    match tokio::time::timeout(LIMIT, backend.holder(lock)).await {
        Ok(Err(error)) if !error.is_retryable() => Err(error.into()),
        _ => Ok(()),
    }
}

fn at_this_time(view: &LeaderView, lock: &LockName, as_json: bool) -> String {
    let time = humantime::format_rfc3339_millis(SystemTime::now());
    if !as_json {
        return format!("{time}  {}", view.text(lock));
    }
    let mut object = view.json(lock);
    object["time"] = Value::String(time.to_string());
    object.to_string()
}
