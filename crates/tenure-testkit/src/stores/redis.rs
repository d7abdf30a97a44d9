//! Redis: one server, with its own defaults for durability: snapshots, and no append-only file.

use std::process::Command;

use crate::free_port;
use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::launch::Launch;
use super::server::{Env, Server};
use crate::bound::Ending;
use crate::provision;
use crate::shell::capture;

/// A running server.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Redis {
    port: u16,
}

impl Redis {
    pub(super) fn start(launch: &mut Launch<'_>) -> Result<Self> {
        let port = free_port();
        let folder = launch.folder("redis", None)?;
        let program = provision::program("redis-server")?;
        let mut spec = launch.spec("redis", program, folder, Ending::Plain);
        let arguments = format!("--bind 127.0.0.1 --port {port} --daemonize no --dir .");
        spec.args = arguments.split(' ').map(str::to_owned).collect();
        launch.run(&spec)?;
        Ok(Self { port })
    }

    fn cli(&self, arguments: &[&str]) -> Result<String> {
        let answer = capture(
            Command::new(provision::program("redis-cli")?)
                .env_remove("REDISCLI_AUTH")
                .args(["-h", "127.0.0.1", "-p", &self.port.to_string(), "-e"])
                .args(arguments),
        )?;
        Ok(answer.replace('\r', "").trim_end().to_owned())
    }
}

/// One field of `INFO`.
fn field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    info.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key == name).then(|| value.trim())
    })
}

impl Server for Redis {
    fn probe(&self) -> Result<String> {
        let pong = self.cli(&["PING"])?;
        if pong != "PONG" {
            bail!("Redis answers PING with {pong:?}");
        }
        let info = self.cli(&["INFO", "server"])?;
        let version = field(&info, "redis_version").context("Redis names no version")?;
        Ok(version.to_owned())
    }

    fn env(&self) -> Result<Env> {
        let url = format!("redis://127.0.0.1:{}", self.port);
        Ok(vec![("TENURE_TEST_REDIS_URL", url)])
    }
}
