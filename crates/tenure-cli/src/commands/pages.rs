//! `tenure completions` and `tenure man`: what packages install beside the binary.

use clap::CommandFactory as _;

use crate::failure::Failure;
use crate::options::{Cli, CompletionsArgs, ManArgs};
use crate::output::print;

/// Prints a script for a shell.
pub(crate) fn completions(args: &CompletionsArgs) -> Result<u8, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "tenure", &mut script);
    print(String::from_utf8_lossy(&script).trim_end())?;
    Ok(0)
}

/// Writes a page for `tenure`, and one for each command.
pub(crate) fn man(args: &ManArgs) -> Result<u8, Failure> {
    let shown = args.directory.display().to_string();
    let cannot = |error| {
        let shown = shown.escape_debug();
        Failure::new(format!("cannot write manual pages to \"{shown}\": {error}"))
    };
    std::fs::create_dir_all(&args.directory).map_err(cannot)?;
    clap_mangen::generate_to(Cli::command(), &args.directory).map_err(cannot)?;
    Ok(0)
}
