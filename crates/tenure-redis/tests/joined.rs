//! Elections that exist already, under keys whose names are no lock names.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::sync::Arc;

use tenure_core::{Election, ErrorKind, Identity, LockBackend as _, Occupancy, Time, Verdict};
use tenure_redis::{RedisBackend, RedisConfig};
use tenure_testkit::redis::{Server, join_cluster, start, start_nodes};
use tenure_testkit::{LONG, candidate, held, lock, renewed, until, within_limit};

/// The backend of one server or of a cluster, with `lock_key=leader:KEY`.
async fn join(url: &str, key: &str) -> Arc<RedisBackend> {
    let config = RedisConfig::from_url(&format!("{url}?lock_key=leader:{key}")).unwrap();
    Arc::new(RedisBackend::connect(config).await.unwrap())
}

/// As other programs take a lock: `SET key value NX PX`.
fn take(server: &Server, key: &str, millis: &str) -> bool {
    server.text(&["SET", key, "theirs", "NX", "PX", millis]) == "OK"
}

#[tokio::test]
async fn elections_with_names_of_others_are_joined_by_their_keys() {
    let Some(server) = start(&[]) else { return };
    let url = format!("redis://{}", server.address());
    for (number, key) in ["WantNumberOne", "my_leader", "a/b"].iter().enumerate() {
        let backend = join(&url, key).await;
        assert!(take(&server, key, "60000"));
        let Occupancy::Led(holder) = backend.holder(&lock("leader")).await.unwrap() else {
            panic!("theirs leads");
        };
        assert_eq!(holder.identity, "theirs");
        assert!(holder.expires_in.is_some());

        let election = Election::builder(backend.clone(), lock("leader"))
            .identity(Identity::new(format!("ours-{number}")).unwrap())
            .build()
            .unwrap();
        let waiting = election.clone();
        let campaign = tokio::spawn(async move { waiting.campaign().await });
        until("ours waits", async || {
            let channels = server.text(&["PUBSUB", "CHANNELS", &format!("{{{key}}}.*")]);
            !channels.is_empty()
        })
        .await;
        assert!(!campaign.is_finished(), "theirs leads");
        // It ends as it does when its program has died.
        server.command(&["PEXPIRE", key, "1"]);
        server.command(&["PUBLISH", &format!("{{{key}}}.released"), ""]);
        let leadership = within_limit("our turn", campaign).await.unwrap().unwrap();
        assert!(!take(&server, key, "60000"), "ours leads");
        let _permit = leadership.confirm().await.unwrap();
        assert!(
            backend
                .checks(&lock("leader"), LONG)
                .await
                .iter()
                .all(|check| {
                    let joined = check.verdict != Verdict::Unusable;
                    assert!(joined, "{check:?}");
                    joined
                })
        );
        leadership.resign().await.unwrap();
        assert_eq!(server.text(&["KEYS", "*"]), format!("{{{key}}}.fence"));
        server.command(&["FLUSHALL"]);
    }
    let twice = format!("{url}?lock_key=leader:tenure:%7Bjob%7D");
    let backend = RedisBackend::connect(RedisConfig::from_url(&twice).unwrap());
    let backend = backend.await.unwrap();
    let refused = backend.holder(&lock("job")).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::InvalidInput, "{refused}");
    let checks = backend.checks(&lock("job"), LONG).await;
    assert_eq!(checks[0].verdict, Verdict::Unusable, "{checks:?}");
    // Under the name that has the key it is the election of the lock `job` elsewhere.
    let other = RedisBackend::connect(RedisConfig::from_url(&url).unwrap());
    let (other, job, a) = (other.await.unwrap(), lock("job"), candidate("a", 1));
    let grant = held(other.acquire(&job, &a, LONG).await.unwrap());
    let Occupancy::Led(holder) = backend.holder(&lock("leader")).await.unwrap() else {
        panic!("it is held");
    };
    assert_eq!(holder.token, Some(grant.token));
}

#[tokio::test]
async fn in_a_cluster_all_keys_of_a_joined_election_are_in_one_slot() {
    let Some(nodes) = start_nodes(3) else { return };
    join_cluster(&nodes).await;
    let url = format!("redis+cluster://{}", nodes[0].address());
    let slot = |key: &str| nodes[0].number(&["CLUSTER", "KEYSLOT", key]);
    for (key, fence) in [
        ("my_leader", "{my_leader}.fence"),
        ("a/b", "{a/b}.fence"),
        ("app{x}leader", "app{x}leader:fence"),
    ] {
        assert_eq!(slot(key), slot(fence));
        let encoded = key.replace('{', "%7B").replace('}', "%7D");
        let backend = join(&url, &encoded).await;
        let lock = lock("leader");
        let grant = backend.acquire(&lock, &candidate("a", 1), LONG).await;
        let grant = renewed(
            backend
                .renew(&held(grant.unwrap()), Time::ZERO)
                .await
                .unwrap(),
        );
        let exists = |key: &str| {
            let found = |node: &Server| node.try_command(&["EXISTS", key]).ok();
            nodes
                .iter()
                .filter_map(found)
                .any(|found| found == redis_number(1))
        };
        assert!(exists(key) && exists(fence), "{key}");
        let checks = backend.checks(&lock, LONG).await;
        let is_usable = |check: &tenure_core::Check| check.verdict != Verdict::Unusable;
        assert!(checks.iter().all(is_usable), "{checks:?}");
        backend.release(&grant).await.unwrap();
        assert!(!exists(key) && exists(fence), "{key}");
    }
}

fn redis_number(number: i64) -> tenure_redis::redis::Value {
    tenure_redis::redis::Value::Int(number)
}

/// What the documentation asks for, of this key alone.
#[tokio::test]
async fn a_user_of_the_key_alone_takes_part() {
    let Some(server) = start(&[]) else { return };
    let rights = "~my_leader ~{my_leader}.* &{my_leader}.* +ping +evalsha +eval +get +getrange \
                  +set +del +pexpire +pttl +time +info +publish +subscribe +unsubscribe";
    let mut user = vec!["ACL", "SETUSER", "app", "on", ">pw"];
    user.extend(rights.split_whitespace());
    server.command(&user);
    let url = format!("redis://app:pw@{}", server.address());
    let backend = join(&url, "my_leader").await;
    let lock = lock("leader");
    let grant = backend.acquire(&lock, &candidate("a", 1), LONG).await;
    let grant = held(grant.unwrap());
    let checks = backend.checks(&lock, LONG).await;
    for name in ["permissions", "wake-ups"] {
        let check = checks.iter().find(|check| check.name == name).unwrap();
        assert_eq!(check.verdict, Verdict::Fine, "{check:?}");
    }
    backend.release(&grant).await.unwrap();
    // The line that is shown to a user without rights is of this key too.
    server.command(&["ACL", "SETUSER", "app", "resetkeys"]);
    let refused = backend.holder(&lock).await.unwrap_err();
    let line = "~tenure:* &tenure:* ~my_leader ~{my_leader}.* &{my_leader}.*";
    assert!(refused.message().contains(line), "{refused}");
}
