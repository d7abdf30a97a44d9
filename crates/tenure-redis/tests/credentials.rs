//! A password that changes in the middle of a term.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod support;

use std::fs;

use support::Connects as _;
use tenure_core::{ErrorKind, LockBackend as _, Time};
use tenure_redis::RedisBackend;
use tenure_testkit::redis::start;
use tenure_testkit::{LONG, candidate, held, lock, renewed, until};

#[tokio::test]
async fn a_term_outlives_a_change_of_the_password() {
    let Some(server) = start(&[]) else { return };
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("password");
    fs::write(&file, "first\n").unwrap();
    let allow = |password: &str| {
        let password = format!(">{password}");
        let rights = ["on", "resetpass", &password, "~*", "&*", "+@all"];
        server.command(&[&["ACL", "SETUSER", "app"], &rights[..]].concat());
    };
    allow("first");
    let config = server.config().user("app").password_file(&file);
    let backend = RedisBackend::connect(config).await.unwrap();
    let us = candidate("us", 1);
    let grant = held(backend.acquire(&lock("rotated"), &us, LONG).await.unwrap());

    // The connection stays logged in.
    allow("second");
    let grant = renewed(backend.renew(&grant, Time::ZERO).await.unwrap());
    // The next one has an old password until the mounted file follows.
    server.command(&["CLIENT", "KILL", "USER", "app"]);
    until("the old password is refused", async || {
        let renewal = backend.renew(&grant, Time::ZERO).await;
        renewal.is_err_and(|error| error.kind() == ErrorKind::Forbidden)
    })
    .await;
    fs::write(&file, "second\n").unwrap();
    let mut renewal = None;
    until("the new password is used", async || {
        renewal = backend.renew(&grant, Time::ZERO).await.ok();
        renewal.is_some()
    })
    .await;
    let kept = renewed(renewal.unwrap());
    assert_eq!(kept.token, grant.token);
    backend.release(&kept).await.unwrap();
}
