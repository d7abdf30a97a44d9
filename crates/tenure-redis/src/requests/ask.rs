//! Asks a leader to resign.

use std::time::Duration;

use async_trait::async_trait;
use tenure_core::FencingToken;

use super::script::Script;
use crate::errors::StoreError;
use crate::topology::lock_server::{LockServer, Request};

/// A wish for the term with this token.
pub(crate) struct AskToResign<'a> {
    /// The lock's key.
    pub(crate) key: &'a str,
    pub(crate) token: FencingToken,
    pub(crate) lasts: Duration,
}

#[async_trait]
impl Request for AskToResign<'_> {
    type Answer = ();

    async fn send(&self, server: &LockServer) -> Result<(), StoreError> {
        let (token, lasts) = (self.token.to_string(), self.lasts.as_millis().to_string());
        let answer = ASK.run(server, &[self.key], &[&token, &lasts]).await;
        answer.map(drop)
    }
}

/// Appends the wish to the lock's value, if that is of the term: a tab, `resign=`, and the time of
/// the server's clock in milliseconds at which it ends. The next renewal meets it without reading
/// more than before, and it goes with the lock.
///
/// KEYS: the lock. ARGV: token, how long the wish lasts in milliseconds.
static ASK: Script = Script::new(
    r"
local held = read(KEYS[1])
local campaign, token = string.match(held, '^1 (%S+) (%d+) %d+ %S')
if campaign == nil or campaign == '-' or token ~= ARGV[1] then return 0 end
local time = redis.call('TIME')
local ends = time[1] * 1000 + math.floor(time[2] / 1000) + ARGV[2]
local asked = string.gsub(held, '\tresign=%d+$', '') .. string.format('\tresign=%.0f', ends)
local left = redis.call('PTTL', KEYS[1])
if left < 1 then return 0 end
redis.call('SET', KEYS[1], asked, 'PX', left)
return 1
",
);
