//! The contract's suite on a real server.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod support;

use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use support::{PASSWORD, Server, start};
use tenure_conformance::proxy::{FaultProxy, Way};
use tenure_conformance::{Answers, Hook, Subject, async_trait};
use tenure_core::{Capabilities, Error, LockBackend, LockName};
use tenure_postgres::{AdvisoryKey, PostgresBackend, PostgresConfig};

struct Postgres {
    server: Mutex<Server>,
    proxy: FaultProxy,
    /// Whether the server is younger than its data: then the restart grace is on, as by default.
    /// Before, it would only withhold a lease of ten minutes on a server that is seconds old.
    restarted: AtomicBool,
}

fn config(port: u16) -> PostgresConfig {
    let url = format!(
        "postgres://app:{PASSWORD}@127.0.0.1:{port}/postgres?sslmode=disable&connect_timeout=10"
    );
    PostgresConfig::from_url(&url).unwrap()
}

#[async_trait]
impl Subject for Postgres {
    async fn connect(&self) -> Result<Arc<dyn LockBackend>, Error> {
        let config = config(self.proxy.address().port());
        let config = config.restart_grace(self.restarted.load(Ordering::SeqCst));
        Ok(Arc::new(PostgresBackend::connect(config).await?))
    }

    fn lease(&self, _: &Capabilities) -> Duration {
        // Longer than a restart of the server, and than a login when the machine is busy.
        Duration::from_secs(2)
    }

    fn conditions_met(&self) -> bool {
        // fsync and synchronous_commit are on, and there is no standby to fail over to.
        true
    }

    fn secrets(&self) -> Vec<String> {
        vec![PASSWORD.to_owned()]
    }

    /// There is no record to delete; what an operator can do to a lock is to end its session.
    async fn delete_lock(&self, lock: &LockName) -> Hook {
        const END: &str = "SELECT pg_terminate_backend(pid, 60000) FROM pg_locks \
            WHERE locktype = 'advisory' AND granted AND objsubid = 1 \
            AND ((classid::int8 << 32) | objid::int8) = $1";
        let port = self.server.lock().unwrap().port;
        let AdvisoryKey::Big(key) = config(port).key_of(lock) else {
            return Hook::Failed("a key of two integers".to_owned());
        };
        match support::admin(port).await.query(END, &[&key]).await {
            // None, when its lease has ended meanwhile.
            Ok(_) => Hook::Done,
            Err(error) => Hook::Failed(error.to_string()),
        }
    }

    async fn restart_store(&self) -> Hook {
        let mut server = self.server.lock().unwrap();
        server.stop("QUIT");
        server.restart();
        self.restarted.store(true, Ordering::SeqCst);
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
        let config = config(self.port).restart_grace(false);
        Ok(Arc::new(PostgresBackend::connect(config).await?))
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
        restarted: AtomicBool::new(false),
    };
    let suite = if support::is_named() {
        "postgres_newest"
    } else {
        "postgres"
    };
    let report = tenure_conformance::run_all(suite, &subject).await;
    report.log();
    assert!(report.is_green(), "{report}");
}
