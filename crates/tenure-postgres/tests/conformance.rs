//! The contract's suite on a real server.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod support;

use std::process::Command;
use std::sync::{Arc, Mutex};

use support::{PASSWORD, Server, start};
use tenure_conformance::proxy::{FaultProxy, Way};
use tenure_conformance::{Answers, Hook, Subject, async_trait};
use tenure_core::{Error, LockBackend};
use tenure_postgres::{PostgresBackend, PostgresConfig};

struct Postgres {
    server: Mutex<Server>,
    proxy: FaultProxy,
}

/// Without the restart grace, which lasts as long as a lease: the suite's longest is ten minutes,
/// and its server some seconds old. What the grace does is tested in `servers.rs`.
fn config(port: u16) -> PostgresConfig {
    let url = format!(
        "postgres://app:{PASSWORD}@127.0.0.1:{port}/postgres?sslmode=disable&connect_timeout=10\
         &restart_grace=off"
    );
    PostgresConfig::from_url(&url).unwrap()
}

#[async_trait]
impl Subject for Postgres {
    async fn connect(&self) -> Result<Arc<dyn LockBackend>, Error> {
        let backend = PostgresBackend::connect(config(self.proxy.address().port())).await?;
        Ok(Arc::new(backend))
    }

    fn conditions_met(&self) -> bool {
        // fsync and synchronous_commit are on, and there is no standby to fail over to.
        true
    }

    fn secrets(&self) -> Vec<String> {
        vec![PASSWORD.to_owned()]
    }

    async fn restart_store(&self) -> Hook {
        let mut server = self.server.lock().unwrap();
        server.stop("QUIT");
        server.restart();
        Hook::Done
    }

    async fn answers(&self, answers: Answers) -> Hook {
        match answers {
            Answers::Prompt => self.proxy.restore(),
            Answers::Late(delay) => self.proxy.delay(Way::Answers, delay),
            Answers::Lost => self.proxy.lose(Way::Answers),
        }
        Hook::Done
    }

    async fn connect_to_nothing(&self) -> Option<Result<Arc<dyn LockBackend>, Error>> {
        let port = support::free_port();
        let backend = PostgresBackend::connect(config(port)).await;
        Some(backend.map(|backend| Arc::new(backend) as Arc<dyn LockBackend>))
    }

    fn contender(&self) -> Option<Command> {
        let mut command = tenure_conformance::reexec("contender");
        let port = self.server.lock().unwrap().port;
        command.env("TENURE_TEST_PORT", port.to_string());
        Some(command)
    }
}

/// Does nothing when it is run among the other tests.
#[test]
fn contender() {
    tenure_conformance::contender_main(async || {
        let port = std::env::var("TENURE_TEST_PORT").unwrap().parse().unwrap();
        Contender { port }
    });
}

struct Contender {
    port: u16,
}

#[async_trait]
impl Subject for Contender {
    async fn connect(&self) -> Result<Arc<dyn LockBackend>, Error> {
        Ok(Arc::new(PostgresBackend::connect(config(self.port)).await?))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_suite_is_green() {
    let Some(server) = start(&["max_connections=300"]) else {
        return;
    };
    let proxy = FaultProxy::start(([127, 0, 0, 1], server.port).into()).unwrap();
    let subject = Postgres {
        server: Mutex::new(server),
        proxy,
    };
    let report = tenure_conformance::run_all("postgres", &subject).await;
    report.log();
    assert!(report.is_green(), "{report}");
}
