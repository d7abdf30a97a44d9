//! `cargo xtask chaos`: the fault suite of `crates/tenure-chaos`, with the servers that it needs.

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::{Context as _, Result, ensure};
use tenure_testkit::bound;
use tenure_testkit::paths;
use tenure_testkit::provision::{self, Need, kube_apiserver};

use crate::steps::cargo;

/// Provides the servers and runs the suite with these arguments.
pub(crate) fn chaos(arguments: &[OsString]) -> Result<ExitCode> {
    let mut texts = arguments.iter().map(|argument| argument.to_string_lossy());
    let for_kubernetes = texts.any(|text| text.contains("kube-") || text == "--all");
    provision::ensure(&Need::ALL)?;
    let mut cargo = bound::watched(cargo())?;
    cargo.args(["build", "--quiet", "-p", "tenure-chaos", "--bins"]);
    let status = cargo.current_dir(paths::workspace()).status();
    ensure!(
        status.context("cargo build")?.success(),
        "it does not build"
    );
    let program = std::env::current_exe()?.with_file_name("chaos");
    // The candidates and servers end with this command.
    let mut command = bound::watched(program.as_os_str())?;
    command.args(arguments).current_dir(paths::workspace());
    if for_kubernetes {
        let server = kube_apiserver::provide()?;
        command.env("TENURE_TEST_KUBE_APISERVER", server.program);
    }
    let ended = command.status().context("the fault suite")?;
    Ok(if ended.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
