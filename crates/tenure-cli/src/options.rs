//! The command line, and what was typed there, checked before any I/O.

#![allow(
    clippy::doc_markdown,
    reason = "these comments are the help text, which is not Markdown"
)]

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{FalseyValueParser, PossibleValue};
use clap::{Args, Parser, Subcommand, ValueEnum};
use tenure::{Identity, LockName, Policy, PolicySettings, Setting};
use tokio::runtime::{Builder, Runtime};

use crate::failure::Failure;
use crate::help::{
    BENCH_HELP, DOCTOR_HELP, EXAMPLES, LIST_HELP, RUN_HELP, STATUS_HELP, STEP_DOWN_HELP,
};
use crate::store_options::{BackendArgs, LockArgs};

/// Leader election on the store you already have.
#[derive(Debug, Parser)]
#[command(name = "tenure", version, after_help = EXAMPLES, max_term_width = 100)]
pub(crate) struct Cli {
    /// How errors and the log are written on standard error
    #[arg(
        long,
        global = true,
        env = "TENURE_LOG_FORMAT",
        value_enum,
        default_value_t,
        value_name = "FORMAT"
    )]
    pub(crate) log_format: LogFormat,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// How lines on standard error are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// For people
    #[default]
    Text,
    /// One JSON object per line
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Wait to be elected, and run a command while leading
    #[command(after_help = RUN_HELP)]
    Run(RunArgs),
    /// Show who leads
    #[command(after_help = STATUS_HELP)]
    Status(StatusArgs),
    /// Show who leads, and each change of it, until interrupted
    Watch(StatusArgs),
    /// List the elections of a store, and who leads each
    #[command(after_help = LIST_HELP)]
    List(ListArgs),
    /// Ask the leader to resign, and show who leads afterwards
    #[command(after_help = STEP_DOWN_HELP)]
    StepDown(StepDownArgs),
    /// Check whether a store is fit for elections, and say how to fix what is not
    #[command(after_help = DOCTOR_HELP)]
    Doctor(DoctorArgs),
    /// Measure how long it takes to acquire, renew, release and hand over on a store
    #[command(after_help = BENCH_HELP)]
    Bench(BenchArgs),
    /// Watch leaders hand over, die and freeze, with real processes
    Demo(DemoArgs),
    /// Print the least Role and RoleBinding that a candidate needs in Kubernetes
    #[cfg(any(feature = "kube-lease", feature = "kube-configmap"))]
    Rbac(RbacArgs),
    /// Show what outage a policy survives, and for how long nobody leads
    Policy(PolicyShownArgs),
    /// Show the version, and which stores are compiled in
    Version(VersionArgs),
    /// Print a script that completes the command line in a shell
    Completions(CompletionsArgs),
    /// Write manual pages to a directory
    Man(ManArgs),
    #[command(name = "__exec", hide = true)]
    Exec(ExecArgs),
    #[command(name = "__guard", hide = true)]
    Guard(GuardArgs),
    #[command(name = "__subreaper", hide = true)]
    Subreaper(ExecArgs),
    #[command(name = "__work", hide = true)]
    Work(WorkArgs),
}

impl Command {
    /// Whether what is printed is asked for as JSON.
    pub(crate) fn prints_json(&self) -> bool {
        match self {
            Self::Status(args) | Self::Watch(args) => args.json,
            Self::List(args) => args.json,
            Self::StepDown(args) => args.json,
            Self::Doctor(args) => args.json,
            Self::Bench(args) => args.json,
            Self::Policy(args) => args.json,
            Self::Version(args) => args.json,
            _ => false,
        }
    }

    /// Whether another process of tenure started this one. That one logs. Above all `__exec` must
    /// not have a thread that logs: where standard error is a closed pipe, a line that is written
    /// just before the command runs kills it with SIGPIPE.
    pub(crate) fn is_part_of_run(&self) -> bool {
        matches!(
            self,
            Self::Exec(_) | Self::Guard(_) | Self::Subreaper(_) | Self::Work(_)
        )
    }
}

#[derive(Args, Debug)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "each is a flag of the command line"
)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pub(crate) lock_args: LockArgs,
    /// Who campaigns, unique among all candidates [default: pod or host name and a random part]
    #[arg(long, env = "TENURE_IDENTITY", value_name = "ID")]
    pub(crate) id: Option<String>,
    #[command(flatten)]
    pub(crate) policy: PolicyArgs,
    /// How long CMD may take to stop on SIGTERM and SIGINT, while the lock is kept
    #[arg(
        long,
        env = "TENURE_DRAIN_LIMIT",
        value_name = "DURATION",
        default_value = "25s"
    )]
    pub(crate) drain_limit: String,
    /// Exit with 75 when leadership is lost, instead of campaigning again
    #[arg(long, env = "TENURE_EXIT_ON_LOSS", value_parser = FalseyValueParser::new())]
    pub(crate) exit_on_loss: bool,
    /// Exit with 69 at once when another candidate leads
    #[arg(long = "try", env = "TENURE_TRY", value_parser = FalseyValueParser::new())]
    pub(crate) try_once: bool,
    /// Exit with 69 when not elected within this time
    ///
    /// With 0s it is the same as --try.
    #[arg(long, env = "TENURE_WAIT", value_name = "DURATION")]
    pub(crate) wait: Option<String>,
    /// Keep the lock at least this long after the election, also when CMD exits earlier
    ///
    /// A signal ends that at once. So does a crash of tenure on file: and postgres: URLs, where a
    /// dead process loses its lock; elsewhere the lease ends later.
    #[arg(long, env = "TENURE_HOLD_FOR", value_name = "DURATION")]
    pub(crate) hold_for: Option<String>,
    /// Give CMD the store's URL as TENURE_BACKEND; without this CMD does not get it
    #[arg(long, env = "TENURE_PASS_BACKEND", value_parser = FalseyValueParser::new())]
    pub(crate) pass_backend: bool,
    /// Run CMD also when its guard cannot be started: then a tenure that is stopped (SIGSTOP, a
    /// debugger) leaves CMD running without the lock
    #[arg(long, env = "TENURE_ALLOW_UNGUARDED", value_parser = FalseyValueParser::new())]
    pub(crate) allow_unguarded: bool,
    /// Do not give CMD a cgroup of its own: for a CMD that reads its limits from the cgroup that it
    /// runs in
    #[arg(long, env = "TENURE_NO_CGROUP", value_parser = FalseyValueParser::new())]
    pub(crate) no_cgroup: bool,
    /// The command to run while leading, and its arguments
    #[arg(last = true, required = true, value_name = "CMD")]
    pub(crate) command: Vec<OsString>,
}

/// The heartbeat and timeouts.
#[derive(Args, Debug)]
pub(crate) struct PolicyArgs {
    /// How often a leader renews its lease, and when others may take over
    #[arg(long, env = "TENURE_POLICY", value_enum, default_value_t = Preset::Default)]
    pub(crate) policy: Preset,
    /// How long others wait after a leader's last heartbeat; times not given scale with it
    #[arg(long, env = "TENURE_LEASE", value_name = "DURATION")]
    pub(crate) lease: Option<String>,
    /// How often a leader renews its lease
    #[arg(long, env = "TENURE_HEARTBEAT", value_name = "DURATION")]
    pub(crate) heartbeat: Option<String>,
    /// How long CMD may take to stop when leadership is lost; 1.5s with the default policy
    ///
    /// Each second of it shortens the outage that is survived by a second: see tenure policy.
    ///
    /// A CMD that has not stopped is killed shortly before the end, at most half a second, so that it
    /// is dead by then. Values below 2 % of the lease, or below 1 s with a long lease, are raised.
    #[arg(long, env = "TENURE_STOP_GRACE", value_name = "DURATION")]
    pub(crate) stop_grace: Option<String>,
}

/// A ready-made policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Preset {
    /// Lease 20 s, heartbeat 10 s
    Default,
    /// Lease 15 s, heartbeat 2 s, like the components of Kubernetes
    ClientGo,
    /// Lease 3 s, heartbeat 1 s
    Fast,
    /// Lease 60 s, heartbeat 10 s: survives 47 s without the store
    Patient,
}

#[derive(Args, Debug)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    pub(crate) lock_args: LockArgs,
    /// Print JSON, one object per line
    #[arg(long, env = "TENURE_JSON", value_parser = FalseyValueParser::new())]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    pub(crate) backend: BackendArgs,
    /// Only locks whose names begin with this text
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub(crate) prefix: String,
    /// Only locks whose names come after this one: the next page
    #[arg(long, value_name = "NAME")]
    pub(crate) after: Option<String>,
    /// The most locks to show
    #[arg(long, value_name = "NUMBER", default_value_t = 100)]
    pub(crate) limit: usize,
    /// Print JSON
    #[arg(long, env = "TENURE_JSON", value_parser = FalseyValueParser::new())]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct StepDownArgs {
    #[command(flatten)]
    pub(crate) lock_args: LockArgs,
    /// Give up after this time; the wish ends then, too
    #[arg(long, value_name = "DURATION", default_value = "1m")]
    pub(crate) timeout: String,
    /// Print JSON
    #[arg(long, env = "TENURE_JSON", value_parser = FalseyValueParser::new())]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct DoctorArgs {
    #[command(flatten)]
    pub(crate) backend: BackendArgs,
    /// The lock whose permissions are looked at [default: tenure-doctor]
    #[arg(long, env = "TENURE_LOCK", value_name = "NAME")]
    pub(crate) lock: Option<String>,
    #[command(flatten)]
    pub(crate) policy: PolicyArgs,
    /// Print one JSON object
    #[arg(long, env = "TENURE_JSON", value_parser = FalseyValueParser::new())]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct BenchArgs {
    #[command(flatten)]
    pub(crate) backend: BackendArgs,
    /// Do not ask before loading a store that others may use
    #[arg(long)]
    pub(crate) yes: bool,
    /// Print one JSON object
    #[arg(long, env = "TENURE_JSON", value_parser = FalseyValueParser::new())]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct PolicyShownArgs {
    #[command(flatten)]
    pub(crate) policy: PolicyArgs,
    /// Print one JSON object
    #[arg(long, env = "TENURE_JSON", value_parser = FalseyValueParser::new())]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct VersionArgs {
    /// Print one JSON object
    #[arg(long, env = "TENURE_JSON", value_parser = FalseyValueParser::new())]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct CompletionsArgs {
    /// The shell
    #[arg(value_enum)]
    pub(crate) shell: clap_complete::Shell,
}

#[derive(Args, Debug)]
pub(crate) struct ManArgs {
    /// Where the pages are written; it is made if it is not there
    #[arg(value_name = "DIRECTORY")]
    pub(crate) directory: PathBuf,
}

#[derive(Args, Debug)]
pub(crate) struct DemoArgs {
    /// The store's URL [default: a temporary directory]
    #[arg(
        long,
        env = "TENURE_BACKEND",
        hide_env_values = true,
        value_name = "URL"
    )]
    pub(crate) backend: Option<String>,
}

#[derive(Args, Debug)]
pub(crate) struct ExecArgs {
    /// The process to die with
    #[arg(long)]
    pub(crate) parent: i32,
    /// Wait to get the terminal
    #[arg(long)]
    pub(crate) foreground: bool,
    /// The command's own cgroup
    #[arg(long)]
    pub(crate) cgroup: Option<PathBuf>,
    #[arg(last = true, required = true)]
    pub(crate) command: Vec<OsString>,
}

#[cfg(any(feature = "kube-lease", feature = "kube-configmap"))]
#[derive(Args, Debug)]
pub(crate) struct RbacArgs {
    #[command(flatten)]
    pub(crate) lock_args: LockArgs,
    /// The service account that the candidates run as [default: default]
    #[arg(long, value_name = "NAME", conflicts_with = "user")]
    pub(crate) service_account: Option<String>,
    /// A user instead, as the API server knows it by certificate or token
    #[arg(long, value_name = "NAME")]
    pub(crate) user: Option<String>,
}

#[derive(Args, Debug)]
pub(crate) struct GuardArgs {
    /// The process below which everything is killed; without it one is started for the command
    #[arg(long)]
    pub(crate) subreaper: Option<i32>,
    /// The command waits to get the terminal
    #[arg(long)]
    pub(crate) foreground: bool,
    /// The command's own cgroup
    #[arg(long)]
    pub(crate) cgroup: Option<PathBuf>,
    #[arg(last = true)]
    pub(crate) command: Vec<OsString>,
}

#[derive(Args, Debug)]
pub(crate) struct WorkArgs {
    /// The file to append to
    #[arg(long)]
    pub(crate) record: PathBuf,
}

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
        lease: given("--lease", "TENURE_LEASE", args.lease.as_deref()),
        heartbeat: given("--heartbeat", "TENURE_HEARTBEAT", args.heartbeat.as_deref()),
        stop_grace: given(
            "--stop-grace",
            "TENURE_STOP_GRACE",
            args.stop_grace.as_deref(),
        ),
    };
    Ok(policy.read()?)
}

/// What is empty was hardly typed: then its variable is named.
fn given<'a>(option: &'a str, variable: &'a str, text: Option<&'a str>) -> Setting<'a> {
    let is_empty = |value: std::ffi::OsString| value.is_empty();
    let name = match text {
        Some("") if std::env::var_os(variable).is_some_and(is_empty) => variable,
        _ => option,
    };
    Setting::new(name, text)
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
