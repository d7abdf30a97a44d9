//! The `tenure` binary with one more store: `tenure-mariadb run --backend mariadb://h/db ...`.

use std::process::ExitCode;

use tenure::{Error, Registry, Store};
use tenure_example_mariadb::connect;

fn main() -> Result<ExitCode, Error> {
    let mariadb = Store::new("mariadb", connect)
        .with_examples(&["mariadb://user@host/database"])
        .with_look_only("create", "off");
    Ok(tenure_cli::main(&Registry::new().with(mariadb)?))
}
