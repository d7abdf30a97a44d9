//! What the unit tests need of real servers.

pub(crate) use tenure_testkit::redis::{Server, start, start_pair, start_sentinels};
pub(crate) use tenure_testkit::{LIMIT, lock, until, within_limit};

use tenure_testkit::redis::WATCHED;

use crate::config::RedisConfig;

pub(crate) fn sentinel_config(sentinels: &[Server]) -> RedisConfig {
    let addresses: Vec<String> = sentinels.iter().map(Server::address).collect();
    RedisConfig::sentinel(addresses.iter().map(String::as_str), WATCHED).unwrap()
}
