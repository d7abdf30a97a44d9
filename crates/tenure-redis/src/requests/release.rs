//! Ends a term, or takes back an attempt.

use async_trait::async_trait;
use tenure_core::{Candidate, FencingToken};

use super::script::Script;
use crate::errors::StoreError;
use crate::keys::KeyNames;
use crate::topology::lock_server::{LockServer, Request};

/// Ends the candidate's term with this token, or any of its campaign's.
pub(crate) struct Release<'a> {
    pub(crate) keys: &'a KeyNames,
    pub(crate) candidate: &'a Candidate,
    pub(crate) token: Option<FencingToken>,
}

#[async_trait]
impl Request for Release<'_> {
    /// Why the message to those who wait could not be sent, if it could not.
    type Answer = Option<String>;

    async fn send(&self, server: &LockServer) -> Result<Self::Answer, StoreError> {
        let token = self
            .token
            .map_or_else(String::new, |token| token.to_string());
        let answer = RELEASE
            .run(
                server,
                &[self.keys.lock()],
                &[
                    &self.candidate.campaign.to_string(),
                    self.candidate.identity.as_str(),
                    &token,
                    &self.keys.channel(),
                ],
            )
            .await?;
        Ok(Some(answer.text(1)?).filter(|problem| !problem.is_empty()))
    }
}

/// Ends a term, or takes back an attempt: deletes the lock if it belongs to this campaign and
/// identity, and wakes the candidates that wait.
///
/// KEYS: the lock. ARGV: campaign, identity, token (empty for any), channel.
///
/// A message that may not be sent does not keep the lock from being released. A value that is not
/// there is deleted too, as in a renewal.
static RELEASE: Script = Script::new(
    r"
local held = read(KEYS[1])
if held == '' then held = redis.call('GET', KEYS[1]) end
if held then
  local campaign, token, owner = string.match(held, '^1 (%S+) (%d+) %d+ (%S+)')
  if campaign ~= ARGV[1] or owner ~= ARGV[2] or (ARGV[3] ~= '' and token ~= ARGV[3]) then
    return {0, ''}
  end
end
redis.call('DEL', KEYS[1])
if not held then return {0, ''} end
local sent = redis.pcall('PUBLISH', ARGV[4], '')
if type(sent) == 'table' and sent.err then return {1, sent.err} end
return {1, ''}
",
);
