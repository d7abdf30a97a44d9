//! Extends a term: a leader's heartbeat.

use std::time::Duration;

use async_trait::async_trait;
use tenure_core::{Candidate, FencingToken, Holder, Time};

use super::script::Script;
use crate::config::Replicas;
use crate::errors::StoreError;
use crate::topology::lock_server::{LockServer, Request};
use crate::value::{holder, identity_and_value};

/// Whether the term goes on.
pub(crate) enum Outcome {
    Renewed {
        /// The leader was asked to resign, and for how long that counts yet.
        asked: Option<Duration>,
    },
    Lost(Option<Holder>),
}

/// A heartbeat of one term. It owns what it needs, since it may go on when its caller goes.
pub(crate) struct Renew {
    /// That of the lock.
    pub(crate) key: String,
    pub(crate) candidate: Candidate,
    pub(crate) token: FencingToken,
    /// In milliseconds, at least one.
    pub(crate) lease: u64,
    /// Those that must confirm it, where they are asked for.
    pub(crate) replicas: Option<Replicas>,
}

/// The time of sending, from which the new lease counts, and whether it does.
pub(crate) type Answer = (Time, Outcome);

#[async_trait]
impl Request for Renew {
    type Answer = Answer;

    async fn send(&self, server: &LockServer) -> Result<Answer, StoreError> {
        let value = format!(
            "1 {} {} {} {}",
            self.candidate.campaign,
            self.token,
            self.lease,
            identity_and_value(&self.candidate)
        );
        let arguments = [&*value, &self.lease.to_string()];
        let answer = RENEW.run(server, &[&self.key], &arguments).await?;
        if answer.number != 1 {
            let holder = holder(&answer.text(1)?, answer.millis(2)?);
            return Ok((server.sent_at, Outcome::Lost(holder)));
        }
        if let Some(replicas) = self.replicas {
            server.connection.replicated(replicas).await?;
        }
        let asked = (!answer.parts.is_empty()).then(|| answer.millis(1));
        let asked = asked.transpose()?;
        Ok((server.sent_at, Outcome::Renewed { asked }))
    }
}

/// What an answer proves: from when on the term goes on.
pub(crate) fn proof(answer: &Result<Answer, StoreError>) -> Option<Time> {
    match answer {
        Ok((sent_at, Outcome::Renewed { .. })) => Some(*sent_at),
        _ => None,
    }
}

/// Extends a term: the one with the same campaign, token and identity.
///
/// KEYS: the lock. ARGV: its value as it is to be, lease.
///
/// Without a value the script still sends a delete. A demoted master that has dropped its data
/// refuses that write. So its answer does not look like the end of the term, which may go on at the
/// new master.
///
/// A wish that the leader resign makes the value another one, so it is looked for only then. It
/// stays in the value until its end: the answer that tells of it may be lost.
///
/// The expiry comes first: it needs no memory, and after it the server lets the script go on when
/// its memory is full. The value is written only when it has changed: mostly there is one
/// comparison and one command, which is as short as a conditional renewal gets.
static RENEW: Script = Script::new(
    r"
local held = read(KEYS[1])
if held ~= ARGV[1] then
  if held == '' and not redis.call('GET', KEYS[1]) then
    redis.call('DEL', KEYS[1])
    return {0, '', 0}
  end
  local pattern = '^(1 %S+ %d+ )%d+ (%S+)'
  local term, me = string.match(ARGV[1], pattern)
  local held_term, owner = string.match(held, pattern)
  if held_term ~= term or owner ~= me then
    return {0, held, redis.call('PTTL', KEYS[1])}
  end
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
  local wish = string.match(held, '\tresign=(%d+)$')
  if wish then
    local time = redis.call('TIME')
    local left = wish - time[1] * 1000 - math.floor(time[2] / 1000)
    if left > 0 then
      redis.call('SET', KEYS[1], ARGV[1] .. '\tresign=' .. wish, 'PX', ARGV[2])
      return {1, left}
    end
  end
  redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
  return 1
end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 1
",
);
