use std::time::Instant;

use futures_util::FutureExt as _;
use futures_util::future::join_all;
use tenure_core::LockBackend as _;

use super::*;
use crate::backend::RedisBackend;
use crate::config::Servers;
use crate::support::{
    LIMIT, Server, lock, sentinel_config, start, start_sentinels, until, within_limit,
};
use crate::topology::deployment::Deployment;

fn route(config: &RedisConfig) -> MasterRoute {
    let Servers::Sentinel { sentinels, master } = &config.servers else {
        panic!("no sentinels");
    };
    let network = Arc::new(Network::new(config.clone()).unwrap());
    let deployment = Arc::new(Deployment::default());
    let sentinels = Sentinels::new(sentinels, master, network.clone(), deployment);
    MasterRoute {
        sentinels: Arc::new(sentinels),
        network,
    }
}

/// The answer may be old when it comes.
#[tokio::test]
async fn a_confirmation_counts_from_when_the_sentinels_were_asked() {
    let Some(master) = start(&[]) else { return };
    let servers = start_sentinels(&master);
    let config = sentinel_config(&servers).connect_timeout(LIMIT);
    let route = route(&config);
    let clock = &route.network.clock;
    let end = |from: Time| from + trust(&config);

    servers.iter().for_each(Server::freeze);
    let mut connecting = Box::pin(route.connect());
    assert!((&mut connecting).now_or_never().is_none());
    let asked = clock.now();
    servers.iter().for_each(Server::thaw);
    let confirmation = connecting.await.unwrap().authority.unwrap();
    assert!(!confirmation.counts(end(asked)));

    servers.iter().for_each(Server::freeze);
    let mut looking = confirmation.look();
    assert!((&mut looking).now_or_never().is_none());
    let asked = clock.now();
    servers.iter().for_each(Server::thaw);
    looking.await.unwrap();
    assert!(!confirmation.counts(end(asked)));
    assert!(confirmation.counts(asked));
}

/// And one that is not polled keeps no other waiting.
#[tokio::test]
async fn callers_share_a_question() {
    let Some(master) = start(&[]) else { return };
    let servers = start_sentinels(&master);
    let config = sentinel_config(&servers);
    let confirmation = route(&config).connect().await.unwrap().authority.unwrap();

    servers.iter().for_each(Server::freeze);
    let mut unpolled = confirmation.look();
    assert!((&mut unpolled).now_or_never().is_none());
    let looking = (0..1000).map(|_| confirmation.look());
    let all = within_limit("all answers", join_all(looking)).await;
    assert!(all.iter().all(Result::is_err));
    servers.iter().for_each(Server::thaw);
    until("they answer", async || confirmation.look().await.is_ok()).await;
}

/// On a runtime that stands still no task asks the sentinels.
#[test]
fn a_call_from_another_runtime_is_bounded_where_the_own_one_stands_still() {
    let Some(master) = start(&[]) else { return };
    let servers = start_sentinels(&master);
    let runtime = || {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_all().build().unwrap()
    };
    let (still, other) = (runtime(), runtime());
    let config = sentinel_config(&servers);
    let trust = trust(&config);
    let backend = still.block_on(RedisBackend::connect(config)).unwrap();
    let connected_at = Instant::now();
    let error = other.block_on(async {
        until("no confirmation counts any more", async || {
            connected_at.elapsed() > trust
        })
        .await;
        let lock = lock("still");
        within_limit("an answer", backend.holder(&lock))
            .await
            .unwrap_err()
    });
    assert!(error.to_string().contains("sentinels"), "{error}");
    assert!(error.is_retryable());
}
