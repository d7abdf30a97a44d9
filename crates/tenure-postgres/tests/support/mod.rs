//! How the tests and their other processes reach the testkit's servers.
#![allow(dead_code, reason = "each test binary uses a part")]
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::env;
use std::time::Duration;

use tenure_postgres::{PostgresBackend, PostgresConfig};
use tenure_testkit::postgres::{Bouncer, Server, url_at};
use tenure_testkit::process::Again;

/// The backend of a server.
pub(crate) trait Connects {
    fn config(&self) -> PostgresConfig;

    async fn connect(&self) -> PostgresBackend {
        PostgresBackend::connect(self.config()).await.unwrap()
    }
}

impl Connects for Server {
    fn config(&self) -> PostgresConfig {
        config_at(self.port)
    }
}

impl Connects for Bouncer {
    fn config(&self) -> PostgresConfig {
        config_at(self.port)
    }
}

/// The configuration for a server or a proxy on this port.
pub(crate) fn config_at(port: u16) -> PostgresConfig {
    config_of(&url_at(port))
}

fn config_of(url: &str) -> PostgresConfig {
    let config = PostgresConfig::from_url(url).unwrap();
    config.connect_timeout(Duration::from_secs(20))
}

pub(crate) async fn connect_at(port: u16) -> PostgresBackend {
    PostgresBackend::connect(config_at(port)).await.unwrap()
}

/// This test binary again, running the test `role`; it learns of the server by [`told`].
pub(crate) fn again(role: &str, server: &Server, lease: Duration) -> Again {
    again_at(role, server, server.port, lease)
}

/// The same, where it finds the server behind another port.
pub(crate) fn again_at(role: &str, server: &Server, port: u16, lease: Duration) -> Again {
    let environment = [
        ("TENURE_TEST_CHILD", url_at(port)),
        ("TENURE_TEST_PORT", server.port.to_string()),
        ("TENURE_TEST_LEASE", lease.as_millis().to_string()),
    ];
    Again::start(role, &environment)
}

/// What such a process was told: the server and the lease.
pub(crate) fn told() -> Option<(PostgresConfig, Duration)> {
    let url = env::var("TENURE_TEST_CHILD").ok()?;
    let lease = env::var("TENURE_TEST_LEASE").ok()?.parse().unwrap();
    Some((config_of(&url), Duration::from_millis(lease)))
}
