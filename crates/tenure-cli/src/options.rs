//! What was typed, checked before any I/O.

use std::time::Duration;

use tenure::{Identity, LockName, Policy};
use tokio::runtime::{Builder, Runtime};

use crate::cli::{Preset, RunArgs};
use crate::failure::Failure;

pub(crate) fn lock(name: &str) -> Result<LockName, Failure> {
    Ok(LockName::new(name)?)
}

pub(crate) fn identity(id: Option<&str>) -> Result<Identity, Failure> {
    match id {
        Some(id) => Ok(Identity::new(id)?),
        None => Ok(Identity::of_this_process()),
    }
}

pub(crate) fn policy(args: &RunArgs) -> Result<Policy, Failure> {
    let preset = match args.policy {
        Preset::Default => Policy::default(),
        Preset::ClientGo => Policy::client_go(),
        Preset::Fast => Policy::fast(),
    };
    let mut builder = preset.to_builder();
    if let Some(lease) = &args.lease {
        builder = builder.lease(duration("--lease", lease)?);
    }
    if let Some(heartbeat) = &args.heartbeat {
        builder = builder.heartbeat(duration("--heartbeat", heartbeat)?);
    }
    if let Some(grace) = &args.stop_grace {
        builder = builder.stop_grace(duration("--stop-grace", grace)?);
    }
    Ok(builder.build()?)
}

/// What can be added to any clock's time.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 86_400);

pub(crate) fn duration(option: &str, text: &str) -> Result<Duration, Failure> {
    let shown: String = text.chars().take(40).flat_map(char::escape_debug).collect();
    let duration = humantime::parse_duration(text).map_err(|problem| {
        Failure::new(format!(
            "{option} \"{shown}\" is not a duration ({problem}); use something like 15s or 500ms"
        ))
    })?;
    if duration > LONGEST {
        return Err(Failure::new(format!(
            "{option} \"{shown}\" is longer than 100 years; use something like 15s or 500ms"
        )));
    }
    Ok(duration)
}

/// The main thread's runtime.
pub(crate) fn runtime() -> Result<Runtime, Failure> {
    Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(format!("cannot set up the event loop: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_or_refused_with_an_example() {
        assert_eq!(duration("--lease", "1m 30s").unwrap().as_secs(), 90);
        for text in ["", "abc", "5", "-1s", "99999999999999999999s", "1s\u{1b}["] {
            let message = duration("--lease", text).unwrap_err().to_string();
            assert!(message.contains("15s or 500ms"), "{message}");
            assert!(!message.contains('\u{1b}'));
        }
    }
}
