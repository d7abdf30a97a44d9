//! An API server of the test's own, with an etcd of its own, that can be killed and started again.

use std::env;
use std::process::Command;

use super::launch::{arguments, write_secrets};
use super::server::Server;
use crate::environment::left_out;
use crate::etcd;
use crate::port::free_port;
use crate::process::Process;
use crate::wait::until;

/// A private API server; killed on drop.
#[derive(Debug)]
pub struct PrivateApi {
    /// How it is reached as the admin.
    pub server: Server,
    program: String,
    arguments: Vec<String>,
    process: Process,
    /// What it keeps its objects in.
    pub etcd: etcd::Cluster,
}

/// `None`, with a line that says so, if there is no program to start.
fn program() -> Option<String> {
    let program = env::var("TENURE_TEST_KUBE_APISERVER").ok();
    if program.is_none() {
        left_out(
            "TENURE_TEST_KUBE_APISERVER names no API server to start; \
             eval \"$(cargo xtask stores env)\" sets it",
        );
    }
    program
}

impl PrivateApi {
    /// Starts one, and waits until it serves. `None`: left out.
    pub async fn start() -> Option<Self> {
        program()?;
        Self::start_on(etcd::start()?).await
    }

    /// The same with more arguments.
    pub async fn start_with(more: &[&str]) -> Option<Self> {
        program()?;
        Self::start_with_on(more, etcd::start()?).await
    }

    /// Starts one on this etcd, and waits until it serves. `None`: left out.
    pub async fn start_on(etcd: etcd::Cluster) -> Option<Self> {
        Self::start_with_on(&[], etcd).await
    }

    async fn start_with_on(more: &[&str], etcd: etcd::Cluster) -> Option<Self> {
        let program = program()?;
        let (folder, port) = (etcd.dir.path().join("api"), free_port());
        write_secrets(&folder, &[("admin", "system:masters")]);
        let endpoint = format!("http://{}", etcd.members[0].address());
        let mut arguments = arguments(&endpoint, port, &folder);
        // It is also how long it waits for others when it is asked to end.
        arguments.push("--request-timeout=5s".to_owned());
        arguments.extend(more.iter().map(|argument| (*argument).to_owned()));
        let server = Server {
            url: format!("https://127.0.0.1:{port}"),
            ca: folder.join("ca.pem"),
            token_file: folder.join("admin.token"),
            namespace: "default".to_owned(),
        };
        let own = Self {
            process: Process::start(Command::new(&program).args(&arguments)),
            server,
            program,
            arguments,
            etcd,
        };
        own.until_it_serves().await;
        Some(own)
    }

    async fn until_it_serves(&self) {
        until("the API server serves", async || {
            self.server.has("/readyz").await && self.server.has("/api/v1/namespaces/default").await
        })
        .await;
    }

    /// Kills it as a crash would.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Asks it to end, and waits until it has.
    pub async fn terminate(&mut self) {
        self.process.signal("TERM");
        until("the API server has ended", async || {
            self.process.has_ended()
        })
        .await;
    }

    /// Starts it again on its data and its port.
    pub async fn start_again(&mut self) {
        self.process = Process::start(Command::new(&self.program).args(&self.arguments));
        self.until_it_serves().await;
    }
}
