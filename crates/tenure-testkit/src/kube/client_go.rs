//! A candidate of client-go's own leader election: a process built from `tests/client-go`, or from
//! `tests/client-go-configmap` with an old one.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use super::server::Server;
use crate::environment::{kept, left_out};
use crate::wait::within_limit;

/// Builds the program; `None`, with a line that says so, where there is no Go.
///
/// Panics there when `TENURE_TEST_STRICT` is set.
pub fn program() -> Option<PathBuf> {
    built("client-go")
}

/// The same of the program that speaks of `ConfigMaps` too.
pub fn old_program() -> Option<PathBuf> {
    built("client-go-configmap")
}

fn built(name: &str) -> Option<PathBuf> {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests");
    let source = sources.join(name);
    let program = kept().join(name);
    let mut command = std::process::Command::new("go");
    command.current_dir(source).args(["build", "-o"]);
    match command.arg(&program).arg(".").status() {
        Ok(status) => assert!(status.success(), "go build: {status}"),
        Err(error) => {
            left_out(&format!("no Go to build a candidate of client-go: {error}"));
            return None;
        }
    }
    Some(program)
}

/// What client-go reads in the objects of these names: its record as JSON, or `refused`.
pub async fn read(program: &Path, server: &Server, names: &[String]) -> Vec<String> {
    let kubeconfig = std::env::var("TENURE_TEST_KUBECONFIG").unwrap();
    let mut process = Command::new(program)
        .args(["--read", "--kubeconfig", &kubeconfig])
        .args(["--namespace", &server.namespace])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut input = process.stdin.take().unwrap();
    let names = names.join("\n");
    let asking = async move { input.write_all(names.as_bytes()).await.unwrap() };
    let reading = async { tokio::join!(process.wait_with_output(), asking).0.unwrap() };
    let output = within_limit("what client-go reads", reading).await;
    assert!(output.status.success(), "{}", output.status);
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(str::to_owned).collect()
}

/// A candidate of client-go; killed when it is dropped.
#[derive(Debug)]
pub struct ClientGo {
    process: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
    _kubeconfig: tempfile::NamedTempFile,
}

impl ClientGo {
    /// `rhythm` are the flags for it; none are client-go's own defaults.
    pub fn start(
        program: &Path,
        server: &Server,
        lock: &str,
        identity: &str,
        rhythm: &[&str],
    ) -> Self {
        let kubeconfig = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&kubeconfig, server.kubeconfig()).unwrap();
        let mut process = Command::new(program)
            .arg("--kubeconfig")
            .arg(kubeconfig.path())
            .args(["--namespace", &server.namespace])
            .args(["--lock", lock, "--identity", identity])
            .args(rhythm)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let input = process.stdin.take().unwrap();
        let output = BufReader::new(process.stdout.take().unwrap()).lines();
        Self {
            process,
            input,
            output,
            _kubeconfig: kubeconfig,
        }
    }

    /// Waits until it says this.
    pub async fn says(&mut self, line: &str) {
        let saying = async {
            while let Some(said) = self.output.next_line().await.unwrap() {
                if said == line {
                    return;
                }
            }
            panic!("it ended without saying {line:?}");
        };
        within_limit(line, saying).await;
    }

    /// Gives the lock up and ends.
    pub async fn release(mut self) {
        self.input.write_all(b"release\n").await.unwrap();
        let ended = within_limit("its end", self.process.wait()).await.unwrap();
        assert!(ended.success(), "{ended}");
    }

    /// Kills it as a crash would.
    pub async fn kill(mut self) {
        self.process.kill().await.unwrap();
    }
}
