//! `tenure`: run a command on exactly one of many hosts, and see who leads.

use std::process::ExitCode;

use tenure::Registry;

fn main() -> ExitCode {
    tenure_cli::main(&Registry::new())
}
