//! `cargo xtask retention`: how many leaders keep their terms through an outage, by
//! `benches/retention`, with the servers and peers that it needs.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context as _, Result, ensure};
use tenure_testkit::paths;
use tenure_testkit::provision::{self, Need, kube_apiserver};
use tenure_testkit::stores::kind::Kind;

use crate::steps::{cargo, forget_this_package};

const OURS: &str = "build --release --package tenure-retention";

// The target folder is shared, so that what both workspaces need is built once.
const KUBERT: &str = "build --release --manifest-path=benches/kubernetes/Cargo.toml \
                      --target-dir=target --bench=many";

/// Builds the programs, and runs the measurement with these arguments.
pub(crate) fn retention(arguments: &[OsString]) -> Result<ExitCode> {
    let names = |word: &str| {
        let mut texts = arguments.iter().map(|argument| argument.to_string_lossy());
        texts.any(|text| text.contains(word))
    };
    let stores = Kind::ALL.into_iter().map(Kind::need);
    let needs: Vec<Need> = stores.chain([Need::Protoc]).collect();
    provision::ensure(&needs)?;
    let program = built(OURS)?;
    // It starts others in namespaces of its own, and sees to their end itself.
    let mut command = Command::new(program);
    command.args(arguments).current_dir(paths::workspace());
    if names("kube-") {
        let server = kube_apiserver::provide()?;
        command.env("TENURE_TEST_KUBE_APISERVER", server.program);
    }
    if names("kubert") || names("kube-lease") && !names("--cells") && !names("--restart") {
        command.env("TENURE_RETENTION_KUBERT", built(KUBERT)?);
    }
    let ended = command.status().context("the measurement")?;
    Ok(if ended.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Builds a program. Its file.
fn built(arguments: &str) -> Result<PathBuf> {
    let mut command = Command::new(cargo());
    command
        .args(arguments.split_whitespace())
        .arg("--message-format=json-render-diagnostics")
        .current_dir(paths::workspace())
        .stderr(Stdio::inherit());
    forget_this_package(&mut command);
    let output = command.output().context("cargo build")?;
    ensure!(output.status.success(), "it does not build");
    let text = String::from_utf8_lossy(&output.stdout);
    let mut files = text.lines().filter_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        message["executable"].as_str().map(PathBuf::from)
    });
    files.next_back().context("cargo build names no program")
}
