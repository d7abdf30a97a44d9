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
use tenure::{Identity, LockName, Policy, PolicySettings, Reach, Setting, Store};
use tokio::runtime::{Builder, Runtime};

use crate::failure::Failure;

const EXAMPLES: &str = "\
Examples:
  Run a batch job on one of many hosts at a time; start this on each of them:
    tenure run --backend file:///var/lib/batch --lock nightly-batch -- ./batch.sh

  Who leads?
    tenure status --backend file:///var/lib/batch --lock nightly-batch

Each option can be given as the environment variable shown beside it. TENURE_LOG sets what is
logged on standard error: error, warn, info, debug or trace. It is warn by default, and info when
standard error is a terminal.

Errors are told on standard error, with exit code 2.";

const RUN_HELP: &str = "\
CMD runs in a process group of its own, with TENURE_LOCK, TENURE_IDENTITY and TENURE_TOKEN (the
term's fencing token) in its environment. It cannot read from the terminal.

  CMD exits              the lock is released; tenure exits with CMD's code, or 128 + N when CMD
                         was killed by signal N. What CMD left running in its process group is
                         killed first.
  leadership is lost     CMD gets SIGTERM, and SIGKILL before anybody else can be elected; then
                         tenure campaigns again, or exits with 75 (--exit-on-loss).
  SIGTERM, SIGINT        are passed on to CMD, which is awaited; then the lock is released. A
                         second one, or the end of --drain-limit, kills CMD.
  SIGHUP, SIGQUIT,       are passed on to CMD.
  SIGUSR1, SIGUSR2
  tenure is killed       CMD and its process group are killed at once.
  tenure is stopped      CMD and its process group are killed before anybody else can be elected.

A CMD that becomes another user (sudo, su) cannot be killed by tenure, and may work on without the
lock: run tenure as that user instead. A set-uid CMD does not die at once with tenure.

CMD that cannot be found gives exit code 127, CMD that cannot be executed 126.";

const STATUS_HELP: &str = "\
Exit code 0 when there is a leader, 1 when there is none, 2 on an error.

Where leases are judged by observation, a record may name a leader that nobody has seen renewing
yet: that is the state \"unknown\" with a leader, and exit code 0.";

const DOCTOR_HELP: &str = "\
Looks only: nothing is changed at the store, and no election is disturbed.

Exit code 0 when all is fine, 1 when there are warnings, 2 when nobody could be elected or nobody
should rely on it.";

const BENCH_HELP: &str = "\
One after the other, for under a minute, by two candidates on a lock of a name that nobody else has.
The lock is released in the end, also on SIGINT and SIGTERM; what a store keeps of a released lock
is told, since candidates have no right to delete.

A store that others may use is not loaded without asking; --yes is the answer for scripts. Nobody is
asked about file: and memory: URLs.";

/// Leader election on the store you already have.
#[derive(Debug, Parser)]
#[command(name = "tenure", version, after_help = EXAMPLES, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Wait to be elected, and run a command while leading
    #[command(after_help = RUN_HELP)]
    Run(RunArgs),
    /// Tell who leads
    #[command(after_help = STATUS_HELP)]
    Status(StatusArgs),
    /// Tell who leads, and each change of it, until interrupted
    Watch(StatusArgs),
    /// Tell whether a store is fit to hold locks, and what to do where it is not
    #[command(after_help = DOCTOR_HELP)]
    Doctor(DoctorArgs),
    /// Measure what acquiring, renewing, releasing and handing over take on a store
    #[command(after_help = BENCH_HELP)]
    Bench(BenchArgs),
    /// Watch leaders hand over, die and freeze, with real processes
    Demo(DemoArgs),
    /// Print the least Role and RoleBinding that a candidate needs in Kubernetes
    #[cfg(any(feature = "kube-lease", feature = "kube-configmap"))]
    Rbac(RbacArgs),
    #[command(name = "__exec", hide = true)]
    Exec(ExecArgs),
    #[command(name = "__guard", hide = true)]
    Guard(GuardArgs),
    #[command(name = "__work", hide = true)]
    Work(WorkArgs),
}

/// Which lock on which store.
#[derive(Args, Debug)]
pub(crate) struct LockArgs {
    /// The store's URL, such as "file:///directory" for the processes of one host, or
    /// "redis://host:6379"
    #[arg(
        long,
        env = "TENURE_BACKEND",
        hide_env_values = true,
        value_name = "URL",
        long_help = backend_help()
    )]
    pub(crate) backend: String,
    /// The lock's name, the same for all candidates: lowercase letters, digits, '-' and '.'
    #[arg(long, env = "TENURE_LOCK", value_name = "NAME")]
    pub(crate) lock: String,
}

/// The stores whose URLs come first in the help.
const FIRST_EXAMPLES: [&str; 2] = ["file:///directory", "redis://host:6379"];

/// What `--backend` takes.
fn backend_help() -> String {
    let [file, redis] = FIRST_EXAMPLES;
    let others: Vec<&str> = Store::all()
        .iter()
        .filter(|store| store.reach() != Reach::Process)
        .flat_map(Store::examples)
        .copied()
        .filter(|example| !FIRST_EXAMPLES.contains(example))
        .collect();
    format!(
        "The store's URL, such as \"{file}\" for the processes of one host, or \"{redis}\"\n\n\
         Others, if they were compiled in: {}.",
        others.join(", ")
    )
}

#[derive(Args, Debug)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pub(crate) lock_args: LockArgs,
    /// Who campaigns, unique among all candidates [default: pod or host name and a random part]
    #[arg(long, env = "TENURE_IDENTITY", value_name = "ID")]
    pub(crate) id: Option<String>,
    #[command(flatten)]
    pub(crate) policy: PolicyArgs,
    /// CMD gets so long to stop on SIGTERM and SIGINT, while the lock is kept
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
    /// The command to run while leading, and its arguments
    #[arg(last = true, required = true, value_name = "CMD")]
    pub(crate) command: Vec<OsString>,
}

/// The heartbeat and timeouts.
#[derive(Args, Debug)]
pub(crate) struct PolicyArgs {
    /// How often a leader proves that it is alive, and when it is taken for dead
    #[arg(long, env = "TENURE_POLICY", value_enum, default_value_t = Preset::Default)]
    pub(crate) policy: Preset,
    /// Others wait so long after a leader's last heartbeat; what is not given scales with it
    #[arg(long, env = "TENURE_LEASE", value_name = "DURATION")]
    pub(crate) lease: Option<String>,
    /// A leader renews so often
    #[arg(long, env = "TENURE_HEARTBEAT", value_name = "DURATION")]
    pub(crate) heartbeat: Option<String>,
    /// CMD gets so long to stop when leadership is lost
    ///
    /// A CMD that has not stopped is killed a little before the end of it, half a second at most, so
    /// that it is dead by then. Less than 2 % of the lease, or than 1 s with a long one, counts as
    /// that much.
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
pub(crate) struct DoctorArgs {
    /// The store's URL
    #[arg(
        long,
        env = "TENURE_BACKEND",
        hide_env_values = true,
        value_name = "URL"
    )]
    pub(crate) backend: String,
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
    /// The store's URL
    #[arg(
        long,
        env = "TENURE_BACKEND",
        hide_env_values = true,
        value_name = "URL"
    )]
    pub(crate) backend: String,
    /// Do not ask before loading a store that others may use
    #[arg(long)]
    pub(crate) yes: bool,
    /// Print one JSON object
    #[arg(long, env = "TENURE_JSON", value_parser = FalseyValueParser::new())]
    pub(crate) json: bool,
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
    /// The process group to kill
    #[arg(long)]
    pub(crate) group: i32,
    /// When, in nanoseconds of the boot clock
    #[arg(long)]
    pub(crate) until: u64,
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
