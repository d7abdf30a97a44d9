//! The steps of the protocol, each one script that the server runs as a whole, and the values
//! that they keep.
//!
//! The lock's key holds `1 <campaign> <token> <lease in ms> <identity>[ <published value>]` and
//! expires with the lease. `1` is the format's version. None of the first five fields can hold a
//! space; the published value comes last because it can.
//!
//! The fence's key, `...:fence`, holds `<last token> <incarnation> <lease in ms>` of the last term and
//! never expires. The incarnation is the server's replication id, which every restart and every
//! promotion of a replica changes.

use std::sync::OnceLock;
use std::time::Duration;

use redis::{Cmd, Value, cmd};
use tenure_core::record::MAX_LEASE;
use tenure_core::{Candidate, ErrorKind, FencingToken, Holder, LockName};

use crate::errors::{self, StoreError};
use crate::topology::lock_server::LockServer;

/// Takes the lock, or adopts what an earlier attempt of this candidate has left: of its identity and
/// of its campaign.
///
/// KEYS: the lock, its fence. ARGV: campaign, lease, identity with value, longest lease, how long
/// it is in quarantine if it has no fence, how long beyond a lease if that is another
/// incarnation's, whether it counts as one without a fence in any case.
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
/// - A user who may not ask for the incarnation gets no lock.
/// - The fence is written first: with a full memory (OOM) nothing is written at all then.
/// - An operator may have taken the expiry away (PERSIST); the lock would never be free again.
/// - What it grants is the bare token, the cheapest answer to make: a list of a number and a
///   string takes the server a microsecond more, of twenty. The time becomes a token by cutting
///   and joining its digits: with arithmetic it takes two more, and five on a server at rest.
static ACQUIRE: Script = Script::new(
    r"
local held = redis.call('GET', KEYS[1])
local adopted
if held then
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
local fence = redis.call('GET', KEYS[2])
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
if before ~= '' and incarnation ~= before then
  if tonumber(last) >= now then last = string.format('%.0f', last + 1000000) end
  local wait = math.max(tonumber(ARGV[2]), math.min(tonumber(lease) or 0, tonumber(ARGV[4])))
  wait = wait + tonumber(ARGV[6])
  redis.call('SET', KEYS[2], last .. ' ' .. incarnation .. ' ' .. ARGV[2])
  redis.call('SET', KEYS[1], '1 - 0 ' .. wait .. ' ', 'PX', wait)
  return {2, wait, before, incarnation}
end
if ARGV[5] ~= '0' and (not fence or ARGV[7] == '1') then
  if tonumber(last) >= now then last = string.format('%.0f', last + 1000000) end
  redis.call('SET', KEYS[2], last .. ' ' .. incarnation .. ' ' .. ARGV[2])
  redis.call('SET', KEYS[1], '1 - 0 ' .. ARGV[5] .. ' ', 'PX', ARGV[5])
  return {2, tonumber(ARGV[5]), '', incarnation}
end
if adopted then
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
  local mine = '1 ' .. ARGV[1] .. ' ' .. adopted .. ' ' .. ARGV[2] .. ' ' .. ARGV[3]
  if mine ~= held then redis.call('SET', KEYS[1], mine, 'PX', ARGV[2]) end
  return tonumber(adopted)
end
local token = now
if tonumber(last) >= now then
  token = last + 1
  digits = string.format('%.0f', token)
end
if token >= 281474976710656 then return {3, KEYS[2]} end
redis.call('SET', KEYS[2], digits .. ' ' .. incarnation .. ' ' .. ARGV[2])
local mine = '1 ' .. ARGV[1] .. ' ' .. digits .. ' ' .. ARGV[2] .. ' ' .. ARGV[3]
redis.call('SET', KEYS[1], mine, 'PX', ARGV[2])
return token
",
);

/// Extends a term: the one with the same campaign, token and identity.
///
/// KEYS: the lock. ARGV: its value as it is to be, lease.
///
/// Without a value the script still sends a delete. A demoted master that has dropped its data
/// refuses that write. So its answer does not look like the end of the term, which may go on at the
/// new master.
///
/// The expiry comes first: it needs no memory, and after it the server lets the script go on when
/// its memory is full. The value is written only when it has changed: mostly there is one
/// comparison and one command, which is as short as a conditional renewal gets.
static RENEW: Script = Script::new(
    r"
local held = redis.call('GET', KEYS[1])
if held ~= ARGV[1] then
  if not held then
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
  redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
  return 1
end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 1
",
);

/// Ends a term, or takes back an attempt: deletes the lock if it belongs to this campaign and
/// identity, and wakes the candidates that wait.
///
/// KEYS: the lock. ARGV: campaign, identity, token (empty for any), channel.
///
/// A message that may not be sent does not keep the lock from being released. A value that is not
/// there is deleted too, as in [`RENEW`].
static RELEASE: Script = Script::new(
    r"
local held = redis.call('GET', KEYS[1])
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

/// For a command's name, a script's hash, and the number of keys.
const ROOM_FOR_HASH: usize = 64;

/// A script and the hash by which a server remembers it.
struct Script {
    text: &'static str,
    hash: OnceLock<String>,
}

impl Script {
    const fn new(text: &'static str) -> Self {
        Self {
            text,
            hash: OnceLock::new(),
        }
    }

    fn hash(&self) -> &str {
        let hash_of = || redis::Script::new(self.text).get_hash().to_owned();
        self.hash.get_or_init(hash_of)
    }

    /// Runs it by its hash, or by its text on a server that has forgotten it (SCRIPT FLUSH,
    /// restart, failover). Its numbered answer, not bounded.
    async fn run(
        &self,
        server: &LockServer,
        keys: &[&str],
        arguments: &[&str],
    ) -> Result<Answer, StoreError> {
        let command = |name: &str, script: &str| {
            let bytes: usize = keys.iter().chain(arguments).map(|text| text.len()).sum();
            // The text is sent seldom.
            let mut command =
                Cmd::with_capacity(3 + keys.len() + arguments.len(), bytes + ROOM_FOR_HASH);
            command.arg(name).arg(script).arg(keys.len());
            command.arg(keys).arg(arguments);
            command
        };
        let answer = match server.query(&command("EVALSHA", self.hash())).await {
            Err(error) if errors::wants_script(&error) => {
                server.query(&command("EVAL", self.text)).await?
            }
            answer => answer?,
        };
        match answer {
            Value::Int(number) => Ok(Answer {
                number,
                parts: Vec::new(),
            }),
            Value::Array(parts) => match parts.first() {
                Some(Value::Int(number)) => Ok(Answer {
                    number: *number,
                    parts,
                }),
                _ => Err(unreadable()),
            },
            _ => Err(unreadable()),
        }
    }
}

fn unreadable() -> StoreError {
    errors::unreadable("a script")
}

/// What a script has returned: a number alone, or one that says what the parts after it mean.
struct Answer {
    number: i64,
    parts: Vec<Value>,
}

impl Answer {
    fn text(&self, index: usize) -> Result<String, StoreError> {
        match self.parts.get(index) {
            Some(Value::BulkString(bytes)) => Ok(String::from_utf8_lossy(bytes).into_owned()),
            _ => Err(unreadable()),
        }
    }

    fn millis(&self, index: usize) -> Result<Duration, StoreError> {
        match self.parts.get(index) {
            Some(Value::Int(millis)) => Ok(millis_from(*millis)),
            _ => Err(unreadable()),
        }
    }
}

/// Negative numbers stand for "no expiry" and "no key".
fn millis_from(millis: i64) -> Duration {
    Duration::from_millis(u64::try_from(millis).unwrap_or(0))
}

/// The name of a lock's key, from which the others follow. The braces put both keys into one slot
/// of a cluster.
#[derive(Debug)]
pub(crate) struct Names {
    lock: String,
}

impl Names {
    pub(crate) fn new(prefix: &str, lock: &LockName) -> Self {
        Self {
            lock: format!("{prefix}:{{{lock}}}"),
        }
    }

    pub(crate) fn lock_key(&self) -> &str {
        &self.lock
    }

    fn fence(&self) -> String {
        format!("{}:fence", self.lock)
    }

    /// The channel on which releases of the lock are told.
    pub(crate) fn channel(&self) -> String {
        format!("{}:released", self.lock)
    }
}

pub(crate) enum Acquire {
    Held(FencingToken),
    Taken {
        holder: Option<Holder>,
        /// When to look again: at most the lease that the value names, or the candidate's own
        /// if it names none. The expiry may be later, after the server's clock was set back
        /// (hazard 5) or under something foreign (hazard 17); but the next heartbeat sets it
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

/// `lease` in milliseconds, at least one.
pub(crate) async fn acquire(
    server: &LockServer,
    names: &Names,
    candidate: &Candidate,
    lease: u64,
) -> Result<Acquire, StoreError> {
    let quarantine = server.quarantine(Duration::from_millis(lease));
    let answer = ACQUIRE
        .run(
            server,
            &[&names.lock, &names.fence()],
            &[
                &candidate.campaign.to_string(),
                &lease.to_string(),
                &identity_and_value(candidate),
                &MAX_LEASE.as_millis().to_string(),
                &quarantine.as_millis().to_string(),
                &server.connection.quarantine().as_millis().to_string(),
                if server.is_back() { "1" } else { "0" },
            ],
        )
        .await?;
    if answer.parts.is_empty() {
        let token = u64::try_from(answer.number).ok();
        let token = token.and_then(|token| FencingToken::from_counter(token).ok());
        let corrupted = || errors::corrupted(&names.lock, "holds no fencing token");
        return Ok(Acquire::Held(token.ok_or_else(corrupted)?));
    }
    match answer.number {
        0 => {
            let (value, left) = (answer.text(1)?, answer.millis(2)?);
            let longest = lease_in(&value).unwrap_or(Duration::from_millis(lease));
            Ok(Acquire::Taken {
                holder: holder(&value, left),
                left: left.min(longest),
            })
        }
        2 => Ok(Acquire::NewIncarnation {
            wait: answer.millis(1)?,
            before: match answer.text(2)? {
                unmarked if unmarked.is_empty() => server.former_incarnation().to_owned(),
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

pub(crate) enum Renew {
    Renewed,
    Lost(Option<Holder>),
}

/// `lease` in milliseconds, at least one.
pub(crate) async fn renew(
    server: &LockServer,
    names: &Names,
    candidate: &Candidate,
    token: FencingToken,
    lease: u64,
) -> Result<Renew, StoreError> {
    let value = format!(
        "1 {} {} {lease} {}",
        candidate.campaign,
        token.counter(),
        identity_and_value(candidate)
    );
    let answer = RENEW
        .run(server, &[&names.lock], &[&value, &lease.to_string()])
        .await?;
    if answer.number == 1 {
        return Ok(Renew::Renewed);
    }
    Ok(Renew::Lost(holder(&answer.text(1)?, answer.millis(2)?)))
}

/// Ends the candidate's term with this token, or any of its campaign's. Returns why the message to
/// those who wait could not be sent, if it could not.
pub(crate) async fn release(
    server: &LockServer,
    names: &Names,
    candidate: &Candidate,
    token: Option<FencingToken>,
) -> Result<Option<String>, StoreError> {
    let token = token.map_or_else(String::new, |token| token.counter().to_string());
    let answer = RELEASE
        .run(
            server,
            &[&names.lock],
            &[
                &candidate.campaign.to_string(),
                candidate.identity.as_str(),
                &token,
                &names.channel(),
            ],
        )
        .await?;
    Ok(Some(answer.text(1)?).filter(|problem| !problem.is_empty()))
}

/// Who holds the lock; `None` when it is free. Needs no right to write or to run scripts.
///
/// What is absent on a replica is not free: a master that was demoted under an open connection
/// may have thrown its data away. Who may not ask for its role has to believe it.
pub(crate) async fn look(server: &LockServer, names: &Names) -> Result<Option<Holder>, StoreError> {
    let value = match server.query(cmd("GET").arg(&names.lock)).await? {
        Value::Nil => {
            return match server.connection.refuse_replica().await {
                Err(error) if error.kind != ErrorKind::Forbidden => Err(error),
                _ => Ok(None),
            };
        }
        Value::BulkString(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        _ => return Err(errors::unreadable("GET")),
    };
    match server.query(cmd("PTTL").arg(&names.lock)).await? {
        // It has expired between the two.
        Value::Int(-2) => Ok(None),
        Value::Int(-1) => {
            let without_expiry = holder(&value, Duration::ZERO).map(|mut holder| {
                holder.expires_in = None;
                holder
            });
            without_expiry.map(Some).ok_or_else(|| {
                errors::corrupted(
                    &names.lock,
                    "holds something that this library has not written",
                )
            })
        }
        Value::Int(left) => Ok(holder(&value, millis_from(left))),
        _ => Err(errors::unreadable("PTTL")),
    }
}

fn identity_and_value(candidate: &Candidate) -> String {
    match &candidate.value {
        Some(value) => format!("{} {value}", candidate.identity),
        None => candidate.identity.to_string(),
    }
}

/// The lease that a lock's value names, of a term or of a quarantine: none
/// when this library would not have written it.
fn lease_in(value: &str) -> Option<Duration> {
    let mut fields = value.split(' ');
    if fields.next() != Some("1") {
        return None;
    }
    let lease = Duration::from_millis(fields.nth(2)?.parse().ok()?);
    (!lease.is_zero() && lease <= MAX_LEASE).then_some(lease)
}

/// Whom a lock's value names: no holder when it is not of this version, or in quarantine.
fn holder(value: &str, left: Duration) -> Option<Holder> {
    let mut fields = value.splitn(6, ' ');
    if fields.next() != Some("1") {
        return None;
    }
    let campaign = fields.next()?;
    let token = fields.next()?.parse().ok();
    let _lease = fields.next()?;
    let identity = fields.next()?;
    if campaign == "-" {
        return None;
    }
    let mut holder = Holder::new(identity);
    holder.token = token.and_then(|token| FencingToken::from_counter(token).ok());
    holder.value = fields.next().map(str::to_owned);
    // An expiry beyond the lease is no part of it, see `Acquire::Taken`.
    holder.expires_in = Some(left.min(lease_in(value).unwrap_or(MAX_LEASE)));
    Some(holder)
}

#[cfg(test)]
mod tests;
