//! Takes a lock.
//!
//! The fence's key, `...:fence`, holds `<last token> <incarnation> <lease in ms>` of the last term and
//! never expires. The incarnation is the server's replication id, which every restart and every
//! promotion of a replica changes.

use std::time::Duration;

use async_trait::async_trait;
use tenure_core::record::MAX_LEASE;
use tenure_core::{Candidate, FencingToken, Holder, Time};

use super::release::Release;
use super::script::{Answer, Script};
use crate::config::Replicas;
use crate::errors::{self, StoreError};
use crate::keys::KeyNames;
use crate::net::incarnation::Change;
use crate::topology::lock_server::{LockServer, Request};
use crate::value::{holder, identity_and_value, lease_in};

/// What an attempt has met.
pub(crate) enum Outcome {
    Held(FencingToken),
    Taken {
        holder: Option<Holder>,
        /// When to look again: at most the lease that the value names, or the candidate's own
        /// if it names none. The expiry may be later, after the server's clock was set back
        /// (hazard 5) or under something foreign (hazard 17). But the next heartbeat sets it
        /// right, or the foreign thing goes, and candidates that sleep until then are not told.
        left: Duration,
    },
    /// The server is not the one that granted the last term, or has been restarted since.
    NewIncarnation {
        wait: Duration,
        before: String,
        now: String,
    },
}

/// An attempt to take a lock.
pub(crate) struct Acquire<'a> {
    pub(crate) keys: &'a KeyNames,
    pub(crate) candidate: &'a Candidate,
    /// In milliseconds, at least one.
    pub(crate) lease: u64,
    /// Those that must confirm a grant, where they are asked for.
    pub(crate) replicas: Option<Replicas>,
}

#[async_trait]
impl Request for Acquire<'_> {
    /// With the time of sending, from which a grant counts.
    type Answer = (Time, Outcome);

    async fn send(&self, server: &LockServer) -> Result<Self::Answer, StoreError> {
        let outcome = self.run(server).await?;
        if let (Outcome::Held(token), Some(replicas)) = (&outcome, self.replicas)
            && let Err(error) = server.connection.replicated(replicas).await
        {
            // Not held. If giving it back fails as well, it ends with its lease.
            let release = Release {
                keys: self.keys,
                candidate: self.candidate,
                token: Some(*token),
            };
            let _ended = release.send(server).await;
            return Err(error);
        }
        Ok((server.sent_at, outcome))
    }
}

impl Acquire<'_> {
    async fn run(&self, server: &LockServer) -> Result<Outcome, StoreError> {
        let lease = Duration::from_millis(self.lease);
        let beyond = server.connection.quarantine();
        let change = server.last_change();
        let quarantine = change
            .as_ref()
            .map_or(Duration::ZERO, |change| change.quarantine(lease + beyond));
        let is_back = change.as_ref().is_some_and(|change| change.is_back);
        let (campaign, millis) = (self.candidate.campaign.to_string(), self.lease.to_string());
        let (longest, fence) = (MAX_LEASE.as_millis().to_string(), self.keys.fence());
        let (identity, beyond) = (
            identity_and_value(self.candidate),
            beyond.as_millis().to_string(),
        );
        let quarantine = quarantine.as_millis().to_string();
        let is_back = if is_back { "1" } else { "0" };
        let all = [
            &*campaign,
            &millis,
            &identity,
            &longest,
            &quarantine,
            &beyond,
            is_back,
        ];
        let keys = [self.keys.lock(), &fence];
        let answer = match server.failovers {
            None => ACQUIRE.run(server, &keys, &all).await?,
            Some(number) => {
                let (key, number) = (self.keys.failovers(), number.to_string());
                let keys = [&keys[..], &[&key]].concat();
                let all = [&all[..], &[&number]].concat();
                ACQUIRE.run(server, &keys, &all).await?
            }
        };
        self.outcome(&answer, change.as_ref())
    }

    pub(super) fn outcome(
        &self,
        answer: &Answer,
        change: Option<&Change>,
    ) -> Result<Outcome, StoreError> {
        if answer.parts.is_empty() {
            let token = u64::try_from(answer.number).ok();
            let token = token.and_then(|token| FencingToken::from_counter(token).ok());
            let corrupted = || errors::corrupted(self.keys.lock(), "holds no fencing token");
            return Ok(Outcome::Held(token.ok_or_else(corrupted)?));
        }
        match answer.number {
            0 => {
                let (value, left) = (answer.text(1)?, answer.millis(2)?);
                let longest = lease_in(&value).unwrap_or(Duration::from_millis(self.lease));
                Ok(Outcome::Taken {
                    holder: holder(&value, left),
                    left: left.min(longest),
                })
            }
            2 => Ok(Outcome::NewIncarnation {
                wait: answer.millis(1)?,
                before: match answer.text(2)? {
                    unmarked if unmarked.is_empty() => {
                        change.map_or_else(String::new, |change| change.before.clone())
                    }
                    before => before,
                },
                now: answer.text(3)?,
            }),
            _ => Err(errors::corrupted(
                &answer.text(1)?,
                "holds something that this library has not written",
            )),
        }
    }
}

/// Takes the lock, or adopts what an earlier attempt of this candidate has left: of its identity and
/// of its campaign.
///
/// KEYS: the lock, its fence, and with sentinels the failover that the last term knew of.
///
/// ARGV: campaign, lease, identity with value, longest lease; how long it is in quarantine if it has
/// no fence, and how long beyond a lease if that is another incarnation's. Then whether it counts as
/// one without a fence in any case, and the number of the latest failover.
///
/// - The token is one more than the last, and at least the server's time in tenths of a
///   millisecond: so it rises too when the fence was lost, if the clocks did not go back. (Terms
///   that follow each other faster than that are not to be had; 48 bits last until the year 2860.)
/// - Another incarnation than the fence's means that terms may have been granted that this server
///   never heard of, the last of which may still be going on. So the lock is in quarantine for a
///   lease: no candidate gets it (`-` stands in place of a campaign). It is longer by as much as the
///   term may still be renewed elsewhere. A campaign that finds an attempt of its own there waits
///   too: the attempt may have been taken back, and another been granted, unheard of here.
///   Where the tokens are ahead of the clock, so that they are counted up, room is left for those
///   of the terms unheard of.
/// - A server that was restarted with nothing kept, or replaced, has no fence to tell by; and one
///   that has come back as it was has one that tells nothing. There the caller knows, who was
///   connected to it before.
/// - With sentinels a later failover than the last term knew of counts as another incarnation: the
///   server may have come back as it was, after another one was the master.
/// - A user who may not ask for the incarnation gets no lock.
/// - The first write is refused when memory is full (OOM), and then nothing is written at all.
/// - A value that is there but empty is read as none; `NX` tells it, as the last step, since asking
///   first would cost each acquisition a command.
/// - An operator may have taken the expiry away (PERSIST); the lock would never be free again.
/// - What it grants is the bare token, the cheapest answer to make: a list of a number and a
///   string takes the server a microsecond more, of twenty. The time becomes a token by cutting
///   and joining its digits: with arithmetic it takes two more, and five on a server at rest.
static ACQUIRE: Script = Script::new(
    r"
local held = read(KEYS[1])
local adopted
if held ~= '' then
  local campaign, token, lease, owner = string.match(held, '^1 (%S+) (%d+) (%d+) (%S*)')
  if campaign ~= ARGV[1] or owner ~= string.match(ARGV[3], '^%S+') then
    local left = redis.call('PTTL', KEYS[1])
    if left == -1 then
      lease = tonumber(lease)
      if not lease or lease < 1 then return {3, KEYS[1]} end
      left = math.min(lease, tonumber(ARGV[4]))
      redis.call('PEXPIRE', KEYS[1], left)
    end
    return {0, held, left}
  end
  adopted = token
end
local last, before, lease = '0', '', ''
local fence = read(KEYS[2])
if fence == '' then fence = redis.call('GET', KEYS[2]) end
if fence then
  last, before, lease = string.match(fence, '^(%d+) ?(%w*) ?(%d*)$')
  if not last then return {3, KEYS[2]} end
end
local info = redis.call('INFO', 'replication')
local _, at = string.find(info, 'master_replid:', 1, true)
local incarnation = before
if at then incarnation = string.sub(info, at + 1, at + 40) end
local time = redis.call('TIME')
local digits = time[1] .. string.sub('00000' .. time[2], -6, -3)
local now = tonumber(digits)
local known, news
if KEYS[3] then
  known = tonumber(read(KEYS[3]))
  news = not known or known < tonumber(ARGV[8])
end
local wait
local told = before
if before ~= '' and (incarnation ~= before or (known and news)) then
  wait = math.max(tonumber(ARGV[2]), math.min(tonumber(lease) or 0, tonumber(ARGV[4])))
  wait = wait + tonumber(ARGV[6])
elseif ARGV[5] ~= '0' and (not fence or ARGV[7] == '1') then
  wait = tonumber(ARGV[5])
  told = ''
end
if wait then
  local present = held == '' and 'NX' or 'XX'
  if redis.call('SET', KEYS[1], '1 - 0 ' .. wait .. ' ', 'PX', wait, present) then
    if tonumber(last) >= now then last = string.format('%.0f', last + 1000000) end
    redis.call('SET', KEYS[2], last .. ' ' .. incarnation .. ' ' .. ARGV[2])
    if news then redis.call('SET', KEYS[3], ARGV[8]) end
    return {2, wait, told, incarnation}
  end
elseif adopted then
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
  local mine = '1 ' .. ARGV[1] .. ' ' .. adopted .. ' ' .. ARGV[2] .. ' ' .. ARGV[3]
  if mine ~= held then redis.call('SET', KEYS[1], mine, 'PX', ARGV[2]) end
  return tonumber(adopted)
else
  local token = now
  if tonumber(last) >= now then
    token = last + 1
    digits = string.format('%.0f', token)
  end
  if token >= 281474976710656 then return {3, KEYS[2]} end
  redis.call('SET', KEYS[2], digits .. ' ' .. incarnation .. ' ' .. ARGV[2])
  if news then redis.call('SET', KEYS[3], ARGV[8]) end
  local mine = '1 ' .. ARGV[1] .. ' ' .. digits .. ' ' .. ARGV[2] .. ' ' .. ARGV[3]
  if redis.call('SET', KEYS[1], mine, 'PX', ARGV[2], 'NX') then return token end
end
local left = redis.call('PTTL', KEYS[1])
if left == -1 then return {3, KEYS[1]} end
return {0, '', left}
",
);
