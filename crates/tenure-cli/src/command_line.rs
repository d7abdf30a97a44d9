//! The command line as its help, scripts and pages show it: with the stores of a registry, and with
//! the name of the binary.

use std::path::Path;

use clap::CommandFactory as _;
use tenure::{Reach, Registry};

use crate::options::Cli;

/// The stores whose URLs come first in the help.
const FIRST_EXAMPLES: [&str; 2] = [ON_ONE_HOST, "redis://host:6379"];

const ON_ONE_HOST: &str = "file:///directory";

/// The command line, whose help names the stores of `registry`.
pub(crate) fn command(registry: &Registry) -> clap::Command {
    let (short, long) = backend_help(registry);
    let takes_store = |command: &clap::Command| {
        let mut arguments = command.get_arguments();
        arguments.any(|argument| argument.get_id() == "backend_file")
    };
    // These two keep the order, as `mut_subcommand` and `mut_arg` do not.
    Cli::command().mut_subcommands(|command| {
        if !takes_store(&command) {
            return command;
        }
        command.mut_args(|argument| {
            if argument.get_id() == "backend" {
                argument.help(short.clone()).long_help(long.clone())
            } else {
                argument
            }
        })
    })
}

/// The name by which this program was started, for scripts and pages that name it: a binary with
/// stores of its own has one of its own.
pub(crate) fn program() -> String {
    let started = std::env::args_os().next();
    let name = started.as_deref().map(Path::new).and_then(Path::file_name);
    let name = name.map(|name| name.to_string_lossy().into_owned());
    // It becomes a part of shell scripts.
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    name.filter(|name| !name.is_empty() && name.chars().all(is_plain))
        .unwrap_or_else(|| "tenure".to_owned())
}

/// What `--backend` takes, in short and in full.
fn backend_help(registry: &Registry) -> (String, String) {
    let (mut first, mut others) = (Vec::new(), Vec::new());
    for store in registry.stores() {
        if store.reach() == Reach::Process {
            continue;
        }
        for example in store.examples() {
            if store.is_built_in() && FIRST_EXAMPLES.contains(example) {
                first.push(*example);
            } else {
                others.push(*example);
            }
        }
    }
    if first.is_empty() && !others.is_empty() {
        first.push(others.remove(0));
    }
    let first: Vec<String> = first
        .into_iter()
        .map(|example| match example {
            ON_ONE_HOST => format!("\"{example}\" for the processes of one host"),
            _ => format!("\"{example}\""),
        })
        .collect();
    let short = format!("The store's URL, such as {}", first.join(", or "));
    if others.is_empty() {
        return (short.clone(), short);
    }
    let others = others.join(", ");
    let long = format!("{short}\n\nOthers, if they were compiled in: {others}.");
    (short, long)
}

#[cfg(test)]
mod tests {
    use tenure::{MemoryBackend, Store};

    use super::*;

    #[test]
    fn the_help_shows_the_urls_that_the_registry_serves() {
        let scratch = Store::new("scratch", |_| async { Ok(MemoryBackend::private()) });
        let scratch = scratch.with_examples(&["scratch://a", "scratch://b"]);
        let registry = Registry::empty().with(scratch).unwrap();
        let (short, long) = backend_help(&registry);
        assert_eq!(short, "The store's URL, such as \"scratch://a\"");
        assert!(long.ends_with("compiled in: scratch://b."), "{long}");
    }
}
