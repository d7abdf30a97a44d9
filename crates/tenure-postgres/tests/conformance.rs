//! The contract's suite on a real server.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::FutureExt as _;
use tenure_conformance::proxy::FaultProxy;
use tenure_conformance::{Answers, Hook, Proxied, Stop, Target, async_trait, sessions};
use tenure_core::{
    Acquired, Candidate, Capabilities, Changes, Error, Grant, LockBackend, LockName, Loss,
    Occupancy, Renewal, SharedClock, Time,
};
use tenure_postgres::{AdvisoryKey, PostgresBackend, PostgresConfig};
use tenure_testkit::postgres::{self, PASSWORD, Server, start};

struct Postgres {
    server: Mutex<Server>,
    proxy: FaultProxy,
    /// Whether the server is younger than its data: then the quarantine is on, as by default.
    /// Before, it would only withhold a lease of ten minutes on a server that is seconds old.
    restarted: AtomicBool,
}

fn proxy_of(server: &Server) -> FaultProxy {
    FaultProxy::start(([127, 0, 0, 1], server.port).into()).unwrap()
}

/// All cases log in at once: on a busy machine that takes a while, most of it for the password.
fn config(port: u16) -> PostgresConfig {
    let url = format!(
        "postgres://app:{PASSWORD}@127.0.0.1:{port}/postgres?sslmode=disable&connect_timeout=60"
    );
    PostgresConfig::from_url(&url).unwrap()
}

impl Postgres {
    fn start() -> Option<Self> {
        let server = start(&["max_connections=300"])?;
        Some(Self {
            proxy: proxy_of(&server),
            server: Mutex::new(server),
            restarted: AtomicBool::new(false),
        })
    }

    fn proxy_of_its_own(&self) -> FaultProxy {
        proxy_of(&self.server.lock().unwrap())
    }

    fn config(&self, port: u16) -> PostgresConfig {
        config(port).quarantine(self.restarted.load(Ordering::SeqCst))
    }

    /// Ends the session that holds the lock.
    async fn terminate(&self, lock: &LockName) -> Hook {
        const END: &str = "SELECT pg_terminate_backend(pid, 60000) FROM pg_locks \
            WHERE locktype = 'advisory' AND granted AND objsubid = 1 \
            AND ((classid::int8 << 32) | objid::int8) = $1";
        let port = self.server.lock().unwrap().port;
        let AdvisoryKey::Big(key) = config(port).key_of(lock) else {
            return Hook::Failed("a key of two integers".to_owned());
        };
        match postgres::admin(port).await.query(END, &[&key]).await {
            // None, when its lease has ended meanwhile.
            Ok(_) => Hook::Done,
            Err(error) => Hook::Failed(error.to_string()),
        }
    }
}

#[async_trait]
impl Target for Postgres {
    async fn connect(&self) -> Result<Arc<dyn LockBackend>, Error> {
        let config = self.config(self.proxy.address().port());
        Ok(Arc::new(PostgresBackend::connect(config).await?))
    }

    fn lease(&self, _: &Capabilities) -> Duration {
        // Longer than a restart of the server, and than two logins when the machine is busy.
        Duration::from_secs(3)
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
        self.terminate(lock).await
    }

    async fn restart_store(&self) -> Hook {
        let mut server = self.server.lock().unwrap();
        server.stop("QUIT");
        server.restart();
        self.restarted.store(true, Ordering::SeqCst);
        Hook::Done
    }

    async fn answers(&self, answers: Answers) -> Hook {
        answers.through([&self.proxy])
    }

    async fn connect_by_proxy(&self) -> Option<Result<Proxied, Error>> {
        let proxy = self.proxy_of_its_own();
        let config = self.config(proxy.address().port());
        let connected = PostgresBackend::connect(config).await;
        Some(connected.map(|backend| Proxied::new(Arc::new(backend), [proxy])))
    }

    async fn end_session(&self, lock: &LockName) -> Hook {
        self.terminate(lock).await
    }

    async fn connect_to_nothing(&self) -> Option<Result<Arc<dyn LockBackend>, Error>> {
        let port = tenure_testkit::free_port();
        let backend = PostgresBackend::connect(config(port)).await;
        Some(backend.map(|backend| Arc::new(backend) as Arc<dyn LockBackend>))
    }

    fn contestant(&self) -> Option<Command> {
        let mut command = tenure_conformance::reexec("contestant");
        let port = self.server.lock().unwrap().port;
        command.env("TENURE_TEST_PORT", port.to_string());
        Some(command)
    }
}

/// Does nothing when it is run among the other tests.
#[test]
fn contestant() {
    tenure_conformance::contestant_main(async || {
        let port = std::env::var("TENURE_TEST_PORT").unwrap().parse().unwrap();
        Contestant { port }
    });
}

struct Contestant {
    port: u16,
}

#[async_trait]
impl Target for Contestant {
    async fn connect(&self) -> Result<Arc<dyn LockBackend>, Error> {
        let config = config(self.port).quarantine(false);
        Ok(Arc::new(PostgresBackend::connect(config).await?))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_suite_is_green() {
    let Some(subject) = Postgres::start() else {
        return;
    };
    let suite = if postgres::is_named() {
        "postgres_newest"
    } else {
        "postgres"
    };
    let report = tenure_conformance::run_all(suite, &subject).await;
    report.log();
    assert!(report.is_green(), "{report}");
}

/// The backend, but deaf: it hears of no lost session before it asks. Every other case passes.
#[derive(Debug)]
struct Deaf(Arc<dyn LockBackend>);

#[async_trait]
impl LockBackend for Deaf {
    fn capabilities(&self) -> Capabilities {
        self.0.capabilities()
    }

    fn clock(&self) -> SharedClock {
        self.0.clock()
    }

    async fn acquire(
        &self,
        lock: &LockName,
        candidate: &Candidate,
        lease: Duration,
    ) -> Result<Acquired, Error> {
        self.0.acquire(lock, candidate, lease).await
    }

    async fn renew(&self, grant: &Grant, not_before: Time) -> Result<Renewal, Error> {
        self.0.renew(grant, not_before).await
    }

    async fn release(&self, grant: &Grant) -> Result<(), Error> {
        self.0.release(grant).await
    }

    async fn withdraw(&self, lock: &LockName, candidate: &Candidate) -> Result<(), Error> {
        self.0.withdraw(lock, candidate).await
    }

    async fn holder(&self, lock: &LockName) -> Result<Occupancy, Error> {
        self.0.holder(lock).await
    }

    fn changes(&self, lock: &LockName) -> Changes {
        self.0.changes(lock)
    }

    fn loss(&self, _: &Grant) -> Option<Loss> {
        Some(Box::pin(std::future::pending()))
    }
}

struct DeafPostgres(Postgres);

#[async_trait]
impl Target for DeafPostgres {
    async fn connect(&self) -> Result<Arc<dyn LockBackend>, Error> {
        Ok(Arc::new(Deaf(self.0.connect().await?)))
    }

    async fn connect_by_proxy(&self) -> Option<Result<Proxied, Error>> {
        let proxy = self.0.proxy_of_its_own();
        let connected = PostgresBackend::connect(self.0.config(proxy.address().port())).await;
        Some(connected.map(|backend| Proxied::new(Arc::new(Deaf(Arc::new(backend))), [proxy])))
    }

    async fn end_session(&self, lock: &LockName) -> Hook {
        self.0.end_session(lock).await
    }

    fn patience(&self) -> Duration {
        // Each of the cases uses it up.
        Duration::from_secs(30)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_backend_that_is_deaf_to_lost_sessions_is_red() {
    let Some(postgres) = Postgres::start() else {
        return;
    };
    let subject = DeafPostgres(postgres);
    let verdicts = futures_util::future::join_all([
        sessions::a_reset_ends_the_term_before_the_next(&subject).boxed_local(),
        sessions::a_reset_under_a_renewal_ends_the_term_before_the_next(&subject).boxed_local(),
        sessions::an_end_of_answers_ends_the_term_before_the_next(&subject).boxed_local(),
        sessions::a_session_that_the_store_ends_is_told(&subject).boxed_local(),
        sessions::a_session_that_an_operator_ends_is_told(&subject).boxed_local(),
        sessions::a_lost_connection_is_told_to_all_its_terms(&subject).boxed_local(),
    ]);
    for verdict in verdicts.await {
        match verdict {
            Err(Stop::Failed(message)) => {
                assert!(message.contains("both lead until"), "{message}");
            }
            other => panic!("a deaf backend is not found: {other:?}"),
        }
    }
}
