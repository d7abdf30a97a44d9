//! What was typed, checked before any I/O.

use std::time::Duration;

use clap::ValueEnum as _;
use clap::builder::PossibleValue;
use tenure::{Identity, LockName, Policy, PolicySettings, Setting};
use tokio::runtime::{Builder, Runtime};

use crate::cli::PolicyArgs;
use crate::failure::Failure;

pub(crate) fn lock(name: &str) -> Result<LockName, Failure> {
    Ok(LockName::new(name)?)
}

pub(crate) fn identity(id: Option<&str>) -> Result<Identity, Failure> {
    match id {
        Some(id) => Ok(Identity::new(id)?),
        None => Ok(Identity::of_this_process()?),
    }
}

pub(crate) fn policy(args: &PolicyArgs) -> Result<Policy, Failure> {
    let preset = args.policy.to_possible_value();
    let policy = PolicySettings {
        preset: Setting::new("--policy", preset.as_ref().map(PossibleValue::get_name)),
        lease: Setting::new("--lease", args.lease.as_deref()),
        heartbeat: Setting::new("--heartbeat", args.heartbeat.as_deref()),
        stop_grace: Setting::new("--stop-grace", args.stop_grace.as_deref()),
    };
    Ok(policy.read()?)
}

pub(crate) fn duration(option: &str, text: &str) -> Result<Duration, Failure> {
    let duration = Setting::new(option, Some(text)).duration()?;
    Ok(duration.unwrap_or_default())
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
    use crate::cli::Preset;

    #[test]
    fn each_preset_is_a_policy_of_the_library() {
        let names = Preset::value_variants().iter().map(|preset| {
            let args = PolicyArgs {
                policy: *preset,
                lease: None,
                heartbeat: None,
                stop_grace: None,
            };
            policy(&args).unwrap();
            preset.to_possible_value().unwrap().get_name().to_owned()
        });
        assert!(names.eq(PolicySettings::PRESETS));
    }

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
