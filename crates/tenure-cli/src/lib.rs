//! The commands of the `tenure` binary as a library: for a binary of your own that serves a store of
//! your own.
//!
//! ```no_run
//! use std::process::ExitCode;
//!
//! use tenure::{MemoryBackend, Registry, Store};
//!
//! fn main() -> Result<ExitCode, tenure::Error> {
//!     let scratch = Store::new("scratch", |url| async move {
//!         url.finish()?;
//!         Ok(MemoryBackend::private()) // your backend here
//!     });
//!     Ok(tenure_cli::main(&Registry::new().with(scratch)?))
//! }
//! ```
//!
//! The binary then takes `scratch:` URLs wherever `tenure` takes a URL: `run`, `status`, `watch`,
//! `doctor`, `bench`. The features of this crate say which stores of the workspace it has beside.

#[cfg(not(target_os = "linux"))]
compile_error!(
    "the tenure binary needs Linux: only there a command can be made to die with the process that \
     holds its lock; the library runs elsewhere too"
);

mod backend_file;
mod command_line;
mod commands;
mod failure;
mod help;
mod log;
mod options;
mod output;
mod store_options;
mod supervisor;

use std::ffi::OsString;
use std::io::{self, IsTerminal as _};
use std::process::ExitCode;

use clap::FromArgMatches as _;
use clap::builder::{FalseyValueParser, TypedValueParser as _};
use clap::error::ErrorKind;
use tenure::Registry;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::Directive;

use crate::commands::run::WAITING;
use crate::commands::{
    bench, demo, doctor, list, pages, policy, run, status, step_down, version, watch,
};
use crate::failure::{Failure, exit};
use crate::options::{Cli, Command, LogFormat};
use crate::output::harmless;
use crate::supervisor::{exec, guard_process, subreaper};

/// The variables that say what to log; the first one that is set counts.
const LOG: [&str; 2] = ["TENURE_LOG", "RUST_LOG"];

/// Does what the command line says, with the stores of `registry`, and gives the exit code.
///
/// To be called first thing in a `main` without a runtime of its own, on the main thread: `run`
/// handles signals, is the parent of the command, and starts this program again for its helpers. A
/// helper comes here too, so do nothing before this call that a second process must not do.
pub fn main(registry: &Registry) -> ExitCode {
    let matches = command_line::command(registry).try_get_matches();
    let parsed = matches.and_then(|matches| {
        let parsed = Cli::from_arg_matches(&matches);
        parsed.map_err(|error| error.format(&mut command_line::command(registry)))
    });
    let cli = match parsed {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    let is_json = cli.log_format == LogFormat::Json || cli.command.prints_json();
    if is_json {
        log::write_json();
    }
    if !cli.command.is_part_of_run() {
        log_to_stderr(is_json);
    }
    let outcome = match cli.command {
        Command::Run(args) => run::run(args, registry),
        Command::Status(args) => status::status(&args, registry),
        Command::Watch(args) => watch::watch(&args, registry),
        Command::List(args) => list::list(&args, registry),
        Command::StepDown(args) => step_down::step_down(&args, registry),
        Command::Doctor(args) => doctor::doctor(&args, registry),
        Command::Bench(args) => bench::bench(&args, registry),
        Command::Demo(args) => demo::demo(args, registry),
        #[cfg(any(feature = "kube-lease", feature = "kube-configmap"))]
        Command::Rbac(args) => commands::rbac::rbac(args),
        Command::Policy(args) => policy::policy(&args),
        Command::Version(args) => version::version(&args, registry),
        Command::Completions(args) => pages::completions(&args, registry),
        Command::Man(args) => pages::man(&args, registry),
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
    log::write(&log::error_line(&failure.to_string(), failure.code));
}

/// Help and version go to standard output; the rest is an error, which may quote what was typed:
/// a URL with its password in the wrong place, for instance.
fn usage(error: &clap::Error) -> ExitCode {
    if error.use_stderr() {
        let text = format!("{error}{}", missing_dashes(error));
        let text = harmless(&tenure::redact(&text));
        if is_json_asked_for() {
            log::write_json();
        }
        // What is printed without an error, as without any argument, is the help.
        match text.strip_prefix("error: ") {
            Some(text) => log::write(&log::error_line(text.trim_end(), exit::ERROR)),
            None => log::write(&text),
        }
        log::flush();
        ExitCode::from(exit::ERROR)
    } else {
        match error.print() {
            // A closed pipe is fine: who asked for help has seen enough of it.
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                let failure = Failure::new(format!("cannot write to standard output: {error}"));
                complain(&failure);
                log::flush();
                ExitCode::from(failure.code)
            }
            _ => ExitCode::SUCCESS,
        }
    }
}

/// As far as a command line tells that cannot be understood.
fn is_json_asked_for() -> bool {
    let arguments: Vec<_> = std::env::args_os()
        .skip(1)
        .take_while(|it| it != "--")
        .collect();
    let is_format = |pair: &[OsString]| pair[0] == "--log-format" && pair[1] == "json";
    arguments
        .iter()
        .any(|it| it == "--json" || it == "--log-format=json")
        || arguments.windows(2).any(is_format)
        || is_switched_on("TENURE_JSON")
        || std::env::var_os("TENURE_LOG_FORMAT").is_some_and(|it| it == "json")
}

/// Whether a variable is read as a switch that is on, as the options read it.
fn is_switched_on(variable: &str) -> bool {
    let read =
        |value: OsString| FalseyValueParser::new().parse_ref(&clap::Command::new(""), None, &value);
    std::env::var_os(variable).is_some_and(|value| read(value).unwrap_or(false))
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

/// Where errors are JSON the log is too: who reads the one gets the other.
fn log_to_stderr(is_json: bool) {
    let terminal = io::stderr().is_terminal();
    let default = if terminal {
        "warn,tenure=info".to_owned()
    } else {
        format!("warn,{WAITING}=info")
    };
    let chosen = LOG.map(|name| (name, std::env::var(name).unwrap_or_default()));
    let filter = match chosen.iter().find(|(_, chosen)| !chosen.is_empty()) {
        None => EnvFilter::new(default),
        Some((name, chosen)) => EnvFilter::new(understood(name, chosen)),
    };
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(log::Log)
        // It would tell of them on standard error, and panic when that is what is closed: who
        // reads the log may go at any time, and the term goes on.
        .log_internal_errors(false)
        .with_ansi(terminal && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty()));
    if is_json {
        lines.json().flatten_event(true).with_ansi(false).init();
    } else {
        lines.init();
    }
}

/// The directives of `chosen` that can be obeyed. The filter itself would complain about the others
/// in a way that panics when standard error is closed.
fn understood(name: &str, chosen: &str) -> String {
    let is_understood = |directive: &&str| match directive.parse::<Directive>() {
        Ok(_) => true,
        Err(error) => {
            let complaint = format!("ignoring \"{directive}\" in {name}: {error}");
            log::write(&log::warning_line(&harmless(&tenure::redact(&complaint))));
            false
        }
    };
    let directives = chosen.split(',').filter(|part| !part.is_empty());
    let directives: Vec<&str> = directives.filter(is_understood).collect();
    directives.join(",")
}
