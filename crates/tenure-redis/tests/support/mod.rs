//! How the tests reach the testkit's servers.
#![allow(dead_code, reason = "each test binary uses a part")]
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use tenure_redis::{RedisBackend, RedisConfig};
use tenure_testkit::redis::{Server, WATCHED};

/// The backend of a server.
pub(crate) trait Connects {
    fn config(&self) -> RedisConfig;

    async fn connect(&self) -> RedisBackend;
}

impl Connects for Server {
    fn config(&self) -> RedisConfig {
        RedisConfig::server(&self.address()).unwrap()
    }

    async fn connect(&self) -> RedisBackend {
        RedisBackend::connect(self.config()).await.unwrap()
    }
}

pub(crate) fn sentinel_config(sentinels: &[Server]) -> RedisConfig {
    let addresses: Vec<String> = sentinels.iter().map(Server::address).collect();
    RedisConfig::sentinel(addresses.iter().map(String::as_str), WATCHED).unwrap()
}
