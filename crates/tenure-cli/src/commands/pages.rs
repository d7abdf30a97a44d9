//! `tenure completions` and `tenure man`: what packages install beside the binary.

use tenure::Registry;

use crate::failure::Failure;
use crate::options::{self, CompletionsArgs, ManArgs};
use crate::output::print;

/// Prints a script for a shell.
pub(crate) fn completions(args: &CompletionsArgs, registry: &Registry) -> Result<u8, Failure> {
    let mut script = Vec::new();
    let command = &mut options::command(registry);
    clap_complete::generate(args.shell, command, "tenure", &mut script);
    print(String::from_utf8_lossy(&script).trim_end())?;
    Ok(0)
}

/// Writes a page for `tenure`, and one for each command.
pub(crate) fn man(args: &ManArgs, registry: &Registry) -> Result<u8, Failure> {
    let shown = args.directory.display().to_string();
    let cannot = |error| {
        let shown = shown.escape_debug();
        Failure::new(format!("cannot write manual pages to \"{shown}\": {error}"))
    };
    std::fs::create_dir_all(&args.directory).map_err(cannot)?;
    clap_mangen::generate_to(options::command(registry), &args.directory).map_err(cannot)?;
    Ok(0)
}
