//! `tenure completions` and `tenure man`: what packages install beside the binary.

use tenure::Registry;

use crate::command_line;
use crate::failure::Failure;
use crate::options::{CompletionsArgs, ManArgs};
use crate::output::print;

/// Prints a script for a shell.
pub(crate) fn completions(args: &CompletionsArgs, registry: &Registry) -> Result<u8, Failure> {
    let mut script = Vec::new();
    let command = &mut without_hidden(&command_line::command(registry));
    clap_complete::generate(args.shell, command, command_line::program(), &mut script);
    print(String::from_utf8_lossy(&script).trim_end())?;
    Ok(0)
}

/// What a shell offers: not the commands by which tenure starts itself.
fn without_hidden(command: &clap::Command) -> clap::Command {
    let shown = command.get_subcommands().filter(|it| !it.is_hide_set());
    clap::Command::new("tenure")
        .version(env!("CARGO_PKG_VERSION"))
        .about(command.get_about().cloned().unwrap_or_default())
        .args(command.get_arguments().cloned())
        .subcommands(shown.cloned())
}

/// Writes a page for the program, and one for each command.
pub(crate) fn man(args: &ManArgs, registry: &Registry) -> Result<u8, Failure> {
    let shown = args.directory.display().to_string();
    let cannot = |error| {
        let shown = shown.escape_debug();
        Failure::new(format!("cannot write manual pages to \"{shown}\": {error}"))
    };
    std::fs::create_dir_all(&args.directory).map_err(cannot)?;
    let program = command_line::program();
    let command = command_line::command(registry)
        .display_name(&program)
        .bin_name(&program);
    clap_mangen::generate_to(command, &args.directory).map_err(cannot)?;
    Ok(0)
}
