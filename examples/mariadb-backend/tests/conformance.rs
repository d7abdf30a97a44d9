//! The conformance suite on a real server, in strict mode.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod support;

use std::process::Command;
use std::sync::{Arc, Mutex};

use mysql::prelude::Queryable as _;
use support::{PASSWORD, Server, url};
use tenure_conformance::proxy::FaultProxy;
use tenure_conformance::{Answers, Hook, Proxied, Target, async_trait};
use tenure_core::{Error, LockBackend, LockName};
use tenure_example_mariadb::{MariaDbBackend, connect};
use tenure_kit::Url;

struct MariaDb {
    server: Mutex<Server>,
    proxy: FaultProxy,
}

async fn open(url: &str) -> Result<MariaDbBackend, Error> {
    connect(Url::parse(url)?).await
}

#[async_trait]
impl Target for MariaDb {
    async fn connect(&self) -> Result<Arc<dyn LockBackend>, Error> {
        Ok(Arc::new(open(&url(self.proxy.address())).await?))
    }

    fn conditions_met(&self) -> bool {
        // innodb_flush_log_at_trx_commit has its default, and there is no replica.
        true
    }

    fn impossible_hooks(&self) -> Option<&[&str]> {
        // The lock has no record that could be damaged, or that others write to.
        Some(&["corrupt_lock", "write_beside"])
    }

    fn secrets(&self) -> Vec<String> {
        vec![PASSWORD.to_owned()]
    }

    /// What an operator can do to a lock is to end its session.
    async fn delete_lock(&self, lock: &LockName) -> Hook {
        self.end_session(lock).await
    }

    async fn restart_store(&self) -> Hook {
        self.server.lock().unwrap().restart();
        Hook::Done
    }

    async fn answers(&self, answers: Answers) -> Hook {
        answers.through([&self.proxy])
    }

    async fn connect_by_proxy(&self) -> Option<Result<Proxied, Error>> {
        let server = self.server.lock().unwrap().address();
        let proxy = FaultProxy::start(server).unwrap();
        let backend = open(&url(proxy.address())).await;
        Some(backend.map(|backend| Proxied::new(Arc::new(backend), [proxy])))
    }

    async fn end_session(&self, lock: &LockName) -> Hook {
        const SESSION: &str = "SELECT session FROM tenure_locks WHERE name = ?";
        let url = url(self.server.lock().unwrap().address());
        let url = url.replace("mariadb:", "mysql:");
        let (url, _) = url.split_once('?').unwrap();
        let mut on = mysql::Conn::new(url).unwrap();
        let session: Option<Option<u64>> = on.exec_first(SESSION, (lock.as_str(),)).unwrap();
        let session = session.flatten().unwrap();
        match on.query_drop(format!("KILL CONNECTION {session}")) {
            Ok(()) => Hook::Done,
            Err(error) => Hook::Failed(error.to_string()),
        }
    }

    async fn connect_to_nothing(&self) -> Option<Result<Arc<dyn LockBackend>, Error>> {
        let proxy = FaultProxy::start(self.proxy.address()).unwrap();
        proxy.refuse(true).await;
        let backend = open(&url(proxy.address())).await;
        Some(backend.map(|backend| Arc::new(backend) as Arc<dyn LockBackend>))
    }

    fn contestant(&self) -> Option<Command> {
        let mut command = tenure_conformance::reexec("contestant");
        let server = self.server.lock().unwrap().address();
        command.env("MARIADB_URL", url(server));
        Some(command)
    }
}

/// Does nothing when it is run among the other tests.
#[test]
fn contestant() {
    tenure_conformance::contestant_main(async || Contestant {
        url: std::env::var("MARIADB_URL").unwrap(),
    });
}

struct Contestant {
    url: String,
}

#[async_trait]
impl Target for Contestant {
    async fn connect(&self) -> Result<Arc<dyn LockBackend>, Error> {
        Ok(Arc::new(open(&self.url).await?))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_suite_is_green() {
    let Some(server) = Server::start() else {
        return;
    };
    let target = MariaDb {
        proxy: FaultProxy::start(server.address()).unwrap(),
        server: Mutex::new(server),
    };
    let report = tenure_conformance::run_all("mariadb", &target).await;
    report.log();
    assert!(report.is_green(), "{report}");
}
