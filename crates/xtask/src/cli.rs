//! The command line.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::builder::PossibleValuesParser;
use clap::{Args, Parser, Subcommand};
use tenure_testkit::backends::BACKENDS;
use tenure_testkit::bound::{self, Ending};
use tenure_testkit::etcd::programs::NEWER;
use tenure_testkit::interrupt;
use tenure_testkit::paths::Dirs;
use tenure_testkit::provision::newer_etcd::ETCD_3_6;
use tenure_testkit::stores::control;
use tenure_testkit::stores::kind::Kind;
use tenure_testkit::stores::process::{self, Hold};
use tenure_testkit::stores::session::{self, Session};
use tenure_testkit::stores::state::State;

use crate::api;
use crate::bench;
use crate::chaos;
use crate::features;
use crate::fuzz::{self, Plan};
use crate::more;
use crate::outside;
use crate::packages;
use crate::retention;
use crate::size;
use crate::suite;

/// The workspace's own commands
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Real servers of the stores, on loopback
    #[command(subcommand)]
    Stores(Stores),
    /// Format, lints, all tests, and every backend on its real store
    Test {
        /// Only the conformance suite of these backends, for quick work
        #[arg(long, value_name = "BACKEND", value_parser = backends())]
        only: Vec<String>,
        /// The tests on servers that have to be built from source, and nothing else: the newest
        /// etcd 3.6 and 3.7
        #[arg(long, conflicts_with = "only")]
        more: bool,
    },
    /// That each feature of the facade pulls its own store's client only, and builds alone
    Features,
    /// A service and the worked example of a backend outside the workspace, on the packages as a
    /// registry would serve them
    Outside {
        /// Elect on this store too, beside a directory and Redis
        #[arg(long, value_name = "URL")]
        store: Vec<String>,
    },
    /// All benchmarks on the real stores and beside peers, and docs/benchmarks/all.md with its charts
    Bench {
        /// Fewer samples: under 15 minutes on two cores
        #[arg(long)]
        quick: bool,
        /// Kubernetes beside its peers in a quick run too: minutes more
        #[arg(long, requires = "quick")]
        kubernetes: bool,
    },
    /// The fuzz targets, under libFuzzer: needs a C++ compiler
    Fuzz {
        /// Which targets [default: all]
        targets: Vec<String>,
        /// How long each runs
        #[arg(long, default_value_t = 1)]
        minutes: u64,
        /// Plant a panic in each target, and fail unless each finds it within a minute
        #[arg(long, conflicts_with = "minutes")]
        planted: bool,
    },
    /// Faults on a real store, and a verdict; `cargo xtask chaos --help` tells the rest
    #[command(disable_help_flag = true)]
    Chaos {
        /// For the chaos program
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Outages and restarts of a store, and how many leaders keep their terms; needs root. `cargo
    /// xtask retention --help` tells the rest
    #[command(disable_help_flag = true)]
    Retention {
        /// For the retention program
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// The documentation, with warnings as errors
    Docs,
    /// The verified dry run of all packages, and their documentation as docs.rs builds it
    Package,
    /// Licences, banned crates and sources, by deny.toml
    Deny,
    /// How large the binary is with each store, and how long it takes to start
    Size,
    /// That the public interface of each library is the one in api/, and breaks nothing that the
    /// commit in .semver-baseline promised
    Api {
        /// Write what is public now
        #[arg(long)]
        update: bool,
    },
    /// Records a server's process and becomes it
    #[command(name = "__child", hide = true)]
    Child {
        spec: PathBuf,
        #[arg(long)]
        record: PathBuf,
        #[arg(long)]
        holder: Option<i32>,
    },
    /// Runs a command that ends with its parent, and all it has started with it
    #[command(name = "__watch", hide = true)]
    Watch {
        #[arg(long)]
        holder: i32,
        #[arg(last = true)]
        command: Vec<OsString>,
    },
    /// Becomes a server that dies with its parent
    #[command(name = "__become", hide = true)]
    Become {
        #[arg(long)]
        holder: Option<i32>,
        #[arg(long, default_value = "plain")]
        ending: Ending,
        #[arg(last = true)]
        command: Vec<OsString>,
    },
}

#[derive(Debug, Subcommand)]
enum Stores {
    /// Start stores; those that run already are left as they are
    Up(Up),
    /// Stop everything that `up` or a test run has started, and remove its data
    Down,
    /// Show what runs and whether it serves
    Status,
    /// Print the URLs for tests as shell exports
    Env,
}

#[derive(Debug, Args)]
struct Up {
    /// Which stores [default: all]
    stores: Vec<Kind>,
    /// Stay, and stop the stores when this command ends
    #[arg(long)]
    foreground: bool,
}

fn backends() -> PossibleValuesParser {
    BACKENDS.iter().map(|backend| backend.name).into()
}

impl Up {
    fn kinds(&self) -> BTreeSet<Kind> {
        let all = if self.stores.is_empty() {
            &Kind::ALL[..]
        } else {
            &self.stores
        };
        all.iter().copied().collect()
    }
}

/// Runs the command of the command line.
pub(crate) fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            if interrupt::raised() {
                return ExitCode::from(interrupt::EXIT_INTERRUPTED);
            }
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::Child {
            spec,
            record,
            holder,
        } => match process::become_child(&spec, &record, holder)? {},
        Command::Become {
            holder,
            ending,
            command,
        } => match bound::become_server(holder, ending, &command)? {},
        Command::Watch { holder, command } => {
            let code = bound::watch(holder, &command)?;
            Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)))
        }
        Command::Stores(command) => {
            interrupt::install()?;
            run_stores(command)
        }
        Command::Test { only, more } => {
            interrupt::install()?;
            if more {
                return more::test();
            }
            suite::test(&only)
        }
        Command::Features => {
            interrupt::install()?;
            println!("trees: {}", features::assert_trees()?);
            features::check_builds()?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Outside { store } => {
            interrupt::install()?;
            outside::test(&store)
        }
        Command::Bench { quick, kubernetes } => {
            interrupt::install()?;
            bench::bench(quick, kubernetes || !quick)
        }
        Command::Package => {
            interrupt::install()?;
            packages::package()
        }
        Command::Size => {
            interrupt::install()?;
            size::size()
        }
        Command::Deny => {
            interrupt::install()?;
            packages::deny()
        }
        Command::Api { update } => {
            interrupt::install()?;
            api::api(update)
        }
        Command::Fuzz {
            targets,
            minutes,
            planted,
        } => {
            interrupt::install()?;
            fuzz::fuzz(&Plan {
                targets,
                minutes,
                planted,
            })
        }
        Command::Chaos { arguments } => {
            interrupt::install()?;
            chaos::chaos(&arguments)
        }
        // Without a handler: Ctrl-C ends it, and the measurement's guard removes the rest.
        Command::Retention { arguments } => retention::retention(&arguments),
        Command::Docs => {
            interrupt::install()?;
            suite::docs()
        }
    }
}

fn run_stores(command: Stores) -> Result<ExitCode> {
    let dirs = Dirs::open()?;
    match command {
        Stores::Up(up) if up.foreground => {
            let session = session::up(&dirs, &up.kinds(), Hold::Held)?;
            stay(session)?;
        }
        Stores::Up(up) => {
            session::up(&dirs, &up.kinds(), Hold::Detached)?;
        }
        Stores::Down => {
            let stopped = control::down(&dirs)?;
            if stopped.is_empty() {
                eprintln!("nothing was running");
            } else {
                eprintln!("stopped {}", stopped.join(", "));
            }
        }
        Stores::Status => {
            if !control::status(&dirs)? {
                return Ok(ExitCode::FAILURE);
            }
        }
        Stores::Env => {
            let mut all = State::load(&dirs)?.env();
            if let Some(newer) = ETCD_3_6.built() {
                let newer = newer.to_string_lossy().into_owned();
                all.insert(NEWER.to_owned(), newer);
            }
            for (name, value) in all {
                println!("export {name}='{}'", value.replace('\'', r"'\''"));
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Holds stores until somebody ends this command, or stops them all from elsewhere.
fn stay(mut session: Session) -> Result<()> {
    if !session.has_started() {
        eprintln!("all of it ran before: nothing to hold");
        return Ok(());
    }
    eprintln!("Ctrl-C stops the stores; `cargo xtask stores env` prints their URLs");
    while !interrupt::raised() {
        if !session.is_alive() {
            eprintln!("the stores were stopped from elsewhere");
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    session.stop()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }
}
