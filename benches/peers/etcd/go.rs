//! Hand-overs by etcd's own Go library: a process built from `tests/etcd-go`.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::support::Cluster;

pub struct Go {
    _process: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
}

impl Go {
    /// Builds and starts the program; `None`, with a line that says so, where there is no Go.
    pub async fn start(server: &Cluster) -> Option<Self> {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/etcd-go");
        let program = server.dir.path().join("etcd-go");
        let mut build = Command::new("go");
        build.current_dir(source).args(["build", "-o"]);
        match build.arg(&program).arg(".").status().await {
            Ok(status) => assert!(status.success(), "go build: {status}"),
            Err(error) => {
                println!("LEFT OUT: no Go to build etcd's own elections with: {error}");
                return None;
            }
        }
        let mut process = Command::new(program)
            .args(["--endpoint", &server.members[0].address()])
            .args(["--election", "go"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let input = process.stdin.take().unwrap();
        let output = BufReader::new(process.stdout.take().unwrap()).lines();
        Some(Self {
            _process: process,
            input,
            output,
        })
    }

    /// As the program itself has measured it.
    pub async fn hand_over(&mut self, wait: Duration) -> Duration {
        let line = format!("{}\n", wait.as_millis());
        self.input.write_all(line.as_bytes()).await.unwrap();
        let nanos = self.output.next_line().await.unwrap().unwrap();
        Duration::from_nanos(nanos.parse().unwrap())
    }
}
