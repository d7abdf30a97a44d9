use futures_util::future::{join, join_all};
use tenure_conformance::proxy::{FaultProxy, Way};

use super::*;
use crate::config::RedisConfig;
use crate::net::network::Network;
use crate::support::{start_pair, until, within_limit};

/// Each of them would wait for its own answer, one after the other, long after its caller has gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_wait_for_replicas_on_a_dead_connection_end_together() {
    let Some((master, replica)) = start_pair(&[]) else {
        return;
    };
    let proxy = FaultProxy::start(([127, 0, 0, 1], master.port).into()).unwrap();
    let address = Address::parse(&proxy.address().to_string(), 0).unwrap();
    let config = RedisConfig::server(&address.to_string()).unwrap();
    let network = Network::new(config).unwrap();
    let connection = within_limit("a connection", network.open_master(&address));
    let connection = connection.await.unwrap();
    replica.freeze();
    let write = connection.query(cmd("SET").arg("key").arg("value")).await;
    write.unwrap();
    let wanted = Replicas {
        count: 1,
        timeout: Duration::from_millis(500),
    };
    let calls = join_all((0..100).map(|_| connection.replicated(wanted)));
    let dies = async {
        until("one waits for the replica", async || {
            let clients = master.text(&["INFO", "clients"]);
            clients.contains("blocked_clients:1")
        })
        .await;
        proxy.lose(Way::Both);
    };
    let both = within_limit("all calls", join(calls, dies));
    let (outcomes, ()) = both.await;
    assert!(outcomes.iter().all(Result::is_err));
    replica.thaw();
}
