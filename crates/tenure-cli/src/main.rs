//! `tenure`: run a command on exactly one of many hosts, and see who leads.

#[cfg(not(target_os = "linux"))]
compile_error!(
    "the tenure binary needs Linux: only there a command can be made to die with the process that \
     holds its lock; the library runs elsewhere too"
);

mod backend_file;
mod commands;
mod failure;
mod log;
mod options;
mod output;
mod supervisor;

use std::io::{self, IsTerminal as _};
use std::process::ExitCode;

use clap::Parser as _;
use clap::error::ErrorKind;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::Directive;

use crate::commands::run::WAITING;
use crate::commands::{bench, demo, doctor, run, status, watch};
use crate::failure::{Failure, exit};
use crate::options::{Cli, Command};
use crate::output::harmless;
use crate::supervisor::{exec, guard_process, subreaper};

/// The variable that says what to log.
const LOG: &str = "TENURE_LOG";

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    if !cli.command.is_part_of_run() {
        log_to_stderr();
    }
    let outcome = match cli.command {
        Command::Run(args) => run::run(args),
        Command::Status(args) => status::status(&args),
        Command::Watch(args) => watch::watch(&args),
        Command::Doctor(args) => doctor::doctor(&args),
        Command::Bench(args) => bench::bench(&args),
        Command::Demo(args) => demo::demo(args),
        #[cfg(any(feature = "kube-lease", feature = "kube-configmap"))]
        Command::Rbac(args) => commands::rbac::rbac(args),
        Command::Exec(args) => Err(exec::exec(&args)),
        Command::Guard(args) => guard_process::serve(&args),
        Command::Subreaper(args) => subreaper::serve(&args),
        Command::Work(args) => demo::records::work(&args.record),
    };
    let code = outcome.unwrap_or_else(|failure| {
        complain(&failure);
        failure.code
    });
    log::flush();
    ExitCode::from(code)
}

fn complain(failure: &Failure) {
    log::write(&format!("tenure: {failure}\n"));
}

/// Help and version go to standard output; the rest is an error, which may quote what was typed:
/// a URL with its password in the wrong place, for instance.
fn usage(error: &clap::Error) -> ExitCode {
    if error.use_stderr() {
        let text = format!("{error}{}", missing_dashes(error));
        log::write(&harmless(&tenure::redact(&text)));
        log::flush();
        ExitCode::from(exit::ERROR)
    } else {
        // A closed pipe is fine: who asked for help has seen enough of it.
        let _closed = error.print();
        ExitCode::SUCCESS
    }
}

/// What is missing when the command of `run` is taken for an option.
fn missing_dashes(error: &clap::Error) -> &'static str {
    let mut arguments = std::env::args_os().skip(1);
    let is_run = arguments.next().is_some_and(|command| command == "run");
    if is_run && error.kind() == ErrorKind::UnknownArgument && !arguments.any(|it| it == "--") {
        return "\nPut -- before the command: tenure run [OPTIONS] -- CMD\n";
    }
    ""
}

fn log_to_stderr() {
    let terminal = io::stderr().is_terminal();
    let default = if terminal {
        "warn,tenure=info".to_owned()
    } else {
        format!("warn,{WAITING}=info")
    };
    let chosen = std::env::var(LOG).unwrap_or_default();
    let filter = if chosen.is_empty() {
        EnvFilter::new(default)
    } else {
        EnvFilter::new(understood(&chosen))
    };
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(log::Log)
        // It would tell of them on standard error, and panic when that is what is closed: whoever
        // reads the log may go at any time, and the term goes on.
        .log_internal_errors(false)
        .with_ansi(terminal && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty()))
        .init();
}

/// The directives of `chosen` that can be obeyed. The filter itself would complain about the others
/// in a way that panics when standard error is closed.
fn understood(chosen: &str) -> String {
    let is_understood = |directive: &&str| match directive.parse::<Directive>() {
        Ok(_) => true,
        Err(error) => {
            let complaint = format!("ignoring \"{directive}\" in {LOG}: {error}");
            complain(&Failure::new(harmless(&complaint)));
            false
        }
    };
    let directives = chosen.split(',').filter(|part| !part.is_empty());
    let directives: Vec<&str> = directives.filter(is_understood).collect();
    directives.join(",")
}
