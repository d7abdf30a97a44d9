//! The `tenure` binary with one more store: `tenure-sqlite run --backend sqlite:///locks.db ...`.

use std::process::ExitCode;

use tenure::{Error, Reach, Registry, Store};
use tenure_example_sqlite::connect;

fn main() -> Result<ExitCode, Error> {
    let sqlite = Store::new("sqlite", connect)
        .with_examples(&["sqlite:///directory/locks.db"])
        .with_reach(Reach::Host)
        .with_look_only("create", "false");
    Ok(tenure_cli::main(&Registry::new().with(sqlite)?))
}
