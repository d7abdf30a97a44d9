use futures_util::{FutureExt as _, StreamExt as _};
use tenure_core::FencingToken;

use super::*;
use crate::config::PostgresConfig;

fn led(pid: i32) -> Announcement {
    Announcement {
        pid,
        lock: "a".to_owned(),
        lease: Duration::from_secs(20),
        token: FencingToken::from_counter(42).unwrap(),
        identity: "pod-1".to_owned(),
        value: None,
    }
}

fn notifications(watch_sessions: usize) -> Arc<Notifications> {
    let config = PostgresConfig::server("127.0.0.1:1").unwrap();
    let config = config.watch_sessions(watch_sessions);
    let tasks = Tasks::here().unwrap();
    let connector = Connector::new(Arc::new(config), tasks.process().clone());
    Notifications::new(Arc::new(connector), tasks)
}

#[tokio::test]
async fn a_release_is_heard_although_the_lock_was_won_since() {
    let (notifications, key) = (notifications(1), AdvisoryKey::Big(1));
    let mut changes = notifications.changes(key);
    notifications.released(key, 6, false);
    notifications.announced(key, led(7), false);
    assert_eq!(changes.next().await, Some(Hint::MayBeFree));
    notifications.announced(key, led(7), false);
    let left = Duration::from_secs(10);
    assert_eq!(changes.next().await, Some(Hint::HeldFor(left)));
}

#[tokio::test]
async fn the_end_of_a_holder_that_was_announced_is_waited_for() {
    let (notifications, key) = (notifications(1), AdvisoryKey::Big(1));
    let _changes = notifications.changes(key);
    notifications.announced(key, led(7), false);
    assert!(notifications.state().watchers.contains_key(&7));
}

#[tokio::test]
async fn no_other_session_speaks_for_the_holder_that_the_server_shows() {
    let (notifications, key) = (notifications(1), AdvisoryKey::Big(1));
    let mut changes = notifications.changes(key);
    notifications.seen(key, 7);
    assert!(notifications.watch(key, 7));
    notifications.announced(key, led(8), false);
    assert_eq!(notifications.announcement(key, 8), None);
    assert!(notifications.state().watchers.contains_key(&7));
    assert_eq!(changes.next().now_or_never(), None);
    // It had won the lock since.
    notifications.seen(key, 8);
    assert_eq!(notifications.announcement(key, 8), Some(led(8)));
    // Of a lock that nothing here has looked at, nothing is kept.
    let other = AdvisoryKey::Big(2);
    notifications.announced(other, led(8), false);
    assert!(!notifications.state().announcements.contains_key(&other));
}

#[tokio::test]
async fn nobody_sleeps_through_heartbeats_where_no_end_is_waited_for() {
    let (notifications, key) = (notifications(0), AdvisoryKey::Big(1));
    let mut changes = notifications.changes(key);
    notifications.announced(key, led(7), false);
    assert_eq!(changes.next().now_or_never(), None);
}
