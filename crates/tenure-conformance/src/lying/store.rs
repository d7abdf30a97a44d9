//! The store of the model: what is done at once when a request arrives.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Duration;

use tenure_core::{
    CampaignId, Candidate, Error, ErrorKind, FencingToken, Grant, Holder, Occupancy, Operation,
    Time,
};
use tokio::sync::watch;

use super::{Honest, Lie};
use crate::Answers;

const HOUR: Duration = Duration::from_secs(3600);
pub(super) const SECRET: &str = "correct-horse-battery";

#[derive(Debug)]
pub(super) struct Store {
    lie: Option<Lie>,
    fifo: bool,
    by_session: bool,
    /// Sessions that have ended.
    over: HashSet<u64>,
    locks: HashMap<String, Slot>,
    last_token: u64,
    attempts: u64,
    pub(super) answers: Answers,
}

#[derive(Debug)]
struct Slot {
    term: Option<Term>,
    /// The last term, for lies about the past.
    past: Option<Term>,
    queue: VecDeque<Waiter>,
    /// The tokens of terms that ended with their session.
    cut: HashSet<u64>,
    tokens: u64,
    damaged: bool,
    deleted: bool,
    changed: watch::Sender<()>,
}

impl Default for Slot {
    fn default() -> Self {
        Self {
            term: None,
            past: None,
            queue: VecDeque::new(),
            cut: HashSet::new(),
            tokens: 0,
            damaged: false,
            deleted: false,
            changed: watch::Sender::new(()),
        }
    }
}

#[derive(Clone, Debug)]
pub(super) struct Term {
    identity: String,
    campaign: CampaignId,
    pub(super) token: u64,
    value: Option<String>,
    lease: Duration,
    began: Time,
    renewed: Time,
    ends: Time,
    connection: u64,
    withdrawn: bool,
    expired: bool,
    renewals: u64,
}

#[derive(Debug)]
struct Waiter {
    identity: String,
    campaign: CampaignId,
    last_asked: Time,
    lease: Duration,
}

/// Who asks for what.
pub(super) struct Ask<'a> {
    pub(super) lock: &'a str,
    pub(super) candidate: &'a Candidate,
    pub(super) lease: Duration,
    pub(super) connection: u64,
    pub(super) now: Time,
}

/// The answer to a renewal.
pub(super) struct Renewed {
    pub(super) token: u64,
    pub(super) lease: Duration,
}

pub(super) enum Answer {
    Held {
        token: u64,
        /// Of an adopted term: when the attempt before was applied.
        began: Time,
        adopted: bool,
    },
    Taken {
        holder: Option<Holder>,
        free_in: Option<Duration>,
    },
}

impl Store {
    pub(super) fn new(kind: Honest, lie: Option<Lie>) -> Self {
        Self {
            lie,
            fifo: kind == Honest::Fifo,
            by_session: kind == Honest::Session,
            over: HashSet::new(),
            locks: HashMap::new(),
            last_token: 0,
            attempts: 0,
            answers: Answers::Prompt,
        }
    }

    fn lies(&self, lie: Lie) -> bool {
        self.lie == Some(lie)
    }

    fn key(&self, lock: &str, connection: u64) -> String {
        match self.lie {
            Some(Lie::NamesTruncated) => lock.chars().take(63).collect(),
            Some(Lie::DotsBecomeHyphens) => lock.replace('.', "-"),
            Some(Lie::ConnectionsApart) => format!("{connection}/{lock}"),
            _ => lock.to_owned(),
        }
    }

    fn identity(&self, candidate: &Candidate) -> String {
        let identity = candidate.identity.as_str();
        match self.lie {
            Some(Lie::IdentitiesUnquoted) => identity.replace(['"', '\\', '\''], ""),
            Some(Lie::IdentitiesLowercased) => identity.to_lowercase(),
            _ => identity.to_owned(),
        }
    }

    fn value(&self, candidate: &Candidate) -> Option<String> {
        let value = candidate.value.as_ref()?.as_str();
        match self.lie {
            Some(Lie::ValuesLost) => None,
            Some(Lie::ValuesTruncated) => Some(value.chars().take(255).collect()),
            _ => Some(value.to_owned()),
        }
    }

    /// The lock, after the end of a lease that is over.
    fn slot(&mut self, key: &str, now: Time, asked: Option<Duration>) -> &mut Slot {
        let lie = self.lie;
        let slot = self.locks.entry(key.to_owned()).or_default();
        if let Some(term) = &slot.term {
            let lease = match (lie, asked) {
                (Some(Lie::JudgesByTheAskersLease), Some(asked)) => term.lease.min(asked),
                _ => term.lease,
            };
            let ends = match lie {
                Some(Lie::NeverExpires) => Time::from_nanos(u64::MAX),
                Some(Lie::ExpiresLate) => term.ends + HOUR,
                Some(Lie::ExpiresEarly) => term.ends.minus(term.lease / 2),
                Some(Lie::RenewedExpiresEarly) if term.renewals > 0 => {
                    term.ends.minus(term.lease / 2)
                }
                Some(Lie::JudgesByTheAskersLease) => term.ends.min(term.renewed + lease),
                _ => term.ends,
            };
            if now >= ends {
                let mut past = slot.term.take();
                if let Some(past) = &mut past {
                    past.expired = true;
                }
                slot.past = past;
            }
        }
        slot
    }

    fn damage(&self, damaged: bool, operation: Operation) -> Result<(), Error> {
        if !damaged {
            return Ok(());
        }
        assert!(!self.lies(Lie::DamagePanics), "cannot parse the record");
        Err(self.error(ErrorKind::Corrupted, operation, "the record is damaged"))
    }

    pub(super) fn error(&self, kind: ErrorKind, operation: Operation, text: &str) -> Error {
        match self.lie {
            Some(Lie::ErrorsInternal) => Error::new(ErrorKind::Internal, operation, text),
            Some(Lie::ErrorsOfNoOperation) => Error::new(kind, Operation::Campaign, text),
            Some(Lie::SecretInErrors) => Error::new(kind, operation, format!("{text}: {SECRET}")),
            _ => Error::new(kind, operation, text),
        }
    }

    pub(super) fn acquire(&mut self, ask: &Ask<'_>) -> Result<Answer, Error> {
        self.attempts += 1;
        if self.lies(Lie::LongNamesRefused) && ask.lock.len() > 63 {
            let text = "the name is too long";
            return Err(self.error(ErrorKind::InvalidInput, Operation::Acquire, text));
        }
        let key = self.key(ask.lock, ask.connection);
        let identity = self.identity(ask.candidate);
        let (lie, fifo, attempts) = (self.lie, self.fifo, self.attempts);
        let by_session = self.by_session;
        let slot = self.slot(&key, ask.now, Some(ask.lease));
        if slot.damaged && lie == Some(Lie::DamageGrantsToAll) {
            self.last_token += 1;
            return Ok(Answer::Held {
                token: self.last_token,
                began: ask.now,
                adopted: false,
            });
        }
        let damaged = slot.damaged;
        self.damage(damaged, Operation::Acquire)?;
        let slot = self.slot(&key, ask.now, Some(ask.lease));
        if let Some(term) = &mut slot.term {
            let same = match lie {
                Some(Lie::AdoptsNothing) => false,
                Some(Lie::AdoptsPerConnection) => {
                    term.campaign == ask.candidate.campaign && term.connection == ask.connection
                }
                Some(Lie::SharesByIdentity) => term.identity == identity,
                Some(Lie::AdoptsByCampaign) => term.campaign == ask.candidate.campaign,
                Some(Lie::AdoptsByConnection) => term.connection == ask.connection,
                _ => {
                    term.campaign == ask.candidate.campaign
                        && term.identity == identity
                        && (!by_session || term.connection == ask.connection)
                }
            };
            if same {
                let began = term.began;
                if lie != Some(Lie::AdoptsWithoutExtending) {
                    term.renewed = ask.now;
                    term.ends = ask.now + ask.lease;
                }
                term.connection = ask.connection;
                return Ok(Answer::Held {
                    token: term.token,
                    began,
                    adopted: true,
                });
            }
            if !(lie == Some(Lie::GrantsTwice) && attempts.is_multiple_of(3)) {
                let mut holder = holder_of(term, ask.now);
                if lie == Some(Lie::RefusalNamesTheAsker) {
                    identity.clone_into(&mut holder.identity);
                }
                let left = term.ends.since(ask.now);
                let free_in = Some(match lie {
                    Some(Lie::RefusalOversleeps) => left * 10,
                    _ => left,
                });
                slot.wait(fifo, ask);
                return Ok(Answer::Taken {
                    holder: Some(holder),
                    free_in,
                });
            }
        }
        if let Some(refusal) = self.free_but_refused(&key, ask) {
            return Ok(refusal);
        }
        Ok(self.grant(&key, ask))
    }

    /// The lock is free; others may come first, or it may be broken.
    fn free_but_refused(&mut self, key: &str, ask: &Ask<'_>) -> Option<Answer> {
        let (lie, fifo) = (self.lie, self.fifo);
        let refusal = Some(Answer::Taken {
            holder: None,
            free_in: Some(Duration::from_millis(1)),
        });
        if lie == Some(Lie::FullAt512) {
            let held = |slot: &&Slot| slot.term.is_some();
            if self.locks.values().filter(held).count() >= 512 {
                return refusal;
            }
        }
        let slot = self.slot(key, ask.now, None);
        if slot.deleted && lie == Some(Lie::DeletedStaysTaken) {
            return refusal;
        }
        if lie != Some(Lie::QueueKeepsTheSilent) {
            slot.queue
                .retain(|waiter| ask.now < waiter.last_asked + waiter.lease);
        }
        if fifo
            && lie != Some(Lie::QueueUnfair)
            && let Some(first) = slot.queue.front()
            && !(first.campaign == ask.candidate.campaign
                && first.identity == ask.candidate.identity.as_str())
        {
            slot.wait(fifo, ask);
            return refusal;
        }
        None
    }

    fn grant(&mut self, key: &str, ask: &Ask<'_>) -> Answer {
        let lie = self.lie;
        let identity = self.identity(ask.candidate);
        let value = self.value(ask.candidate);
        self.last_token += 1;
        let mut token = self.last_token;
        let slot = self.slot(key, ask.now, None);
        slot.tokens += 1;
        match (lie, &slot.past) {
            (Some(Lie::TokenReuse), _) => token = 7,
            (Some(Lie::TokenKeptOverExpiry), Some(past)) if past.expired => token = past.token,
            (Some(Lie::TokenKeptOverWithdrawal), Some(past)) if past.withdrawn => {
                token = past.token;
            }
            (Some(Lie::TokenInTheRecord), _) => token = slot.tokens,
            _ => {}
        }
        slot.queue
            .retain(|waiter| waiter.campaign != ask.candidate.campaign);
        slot.term = Some(Term {
            identity,
            campaign: ask.candidate.campaign,
            token,
            value,
            lease: ask.lease,
            began: ask.now,
            renewed: ask.now,
            // Until its answer has come, a keepalive that nobody stops keeps it.
            ends: match lie {
                Some(Lie::AcquireKeepsOrphans) => Time::from_nanos(u64::MAX),
                _ => ask.now + ask.lease,
            },
            connection: ask.connection,
            withdrawn: false,
            expired: false,
            renewals: 0,
        });
        slot.changed.send_replace(());
        Answer::Held {
            token,
            began: ask.now,
            adopted: false,
        }
    }

    /// The answer to an acquire or renew has come: a keepalive that was started is stopped.
    pub(super) fn settle(&mut self, lock: &str, connection: u64, token: u64, end: Time) {
        let key = self.key(lock, connection);
        if let Some(slot) = self.locks.get_mut(&key)
            && let Some(term) = &mut slot.term
            && term.token == token
        {
            term.ends = end;
        }
    }

    /// The token of the renewed term, or who has the lock now.
    pub(super) fn renew(
        &mut self,
        grant: &Grant,
        renewals: u64,
        connection: u64,
        now: Time,
    ) -> Result<Result<Renewed, Option<Holder>>, Error> {
        let key = self.key(grant.lock.as_str(), connection);
        let lie = self.lie;
        let identity = self.identity(&grant.candidate);
        let value = self.value(&grant.candidate);
        let ask = Ask {
            lock: grant.lock.as_str(),
            candidate: &grant.candidate,
            lease: grant.lease,
            connection,
            now,
        };
        let damaged = self.slot(&key, now, None).damaged;
        if lie != Some(Lie::DamageGrantsToAll) {
            self.damage(damaged, Operation::Renew)?;
        }
        let granted = |token| {
            Ok(Ok(Renewed {
                token,
                lease: grant.lease,
            }))
        };
        let slot = self.slot(&key, now, None);
        let Some(term) = &mut slot.term else {
            let resumed =
                lie == Some(Lie::RenewAfterLoss) && slot.cut.contains(&grant.token.as_u64());
            if (resumed || lie == Some(Lie::RenewUpserts))
                && let Answer::Held { token, .. } = self.grant(&key, &ask)
            {
                return granted(token);
            }
            return Ok(Err(None));
        };
        let ours = match lie {
            Some(Lie::RenewByIdentity) => term.identity == identity,
            Some(Lie::RenewRefusesOlderGrants) => {
                term.token == grant.token.as_u64() && term.renewals == renewals
            }
            Some(Lie::RenewByCampaign) => {
                term.token == grant.token.as_u64() && term.campaign == grant.candidate.campaign
            }
            _ => term.is_of(grant, &identity),
        };
        if !ours {
            let holder = holder_of(term, now);
            if lie == Some(Lie::RenewTakesOver)
                && let Answer::Held { token, .. } = self.grant(&key, &ask)
            {
                return granted(token);
            }
            return Ok(Err(Some(holder)));
        }
        term.renewals += 1;
        if lie != Some(Lie::ValuesFrozen) && lie != Some(Lie::ValuesLate) {
            term.value = value;
        }
        let told = match lie {
            Some(Lie::RenewTellsTheOldLease) => term.lease,
            _ => grant.lease,
        };
        term.lease = grant.lease;
        if lie != Some(Lie::RenewDoesNotExtend) {
            term.renewed = now;
            term.ends = match lie {
                Some(Lie::RenewKeepsOrphans) => Time::from_nanos(u64::MAX),
                _ => now + term.lease,
            };
        }
        if lie == Some(Lie::RenewChangesTheToken) {
            term.token += 1000;
        }
        Ok(Ok(Renewed {
            token: term.token,
            lease: told,
        }))
    }

    /// Writes what the renewal of `grant` publishes, if its term still goes on.
    pub(super) fn write_value(&mut self, grant: &Grant, connection: u64) {
        let key = self.key(grant.lock.as_str(), connection);
        let value = self.value(&grant.candidate);
        if let Some(slot) = self.locks.get_mut(&key)
            && let Some(term) = &mut slot.term
            && term.token == grant.token.as_u64()
        {
            term.value = value;
        }
    }

    pub(super) fn is_over(&self, session: u64) -> bool {
        self.over.contains(&session)
    }

    /// The session that holds a lock.
    pub(super) fn session_of(&self, lock: &str) -> Option<u64> {
        let term = self.locks.get(lock)?.term.as_ref()?;
        Some(term.connection)
    }

    /// A session has ended, or a connection where there are none.
    pub(super) fn session_over(&mut self, session: u64) {
        if !self.by_session && !self.lies(Lie::LocksEndWithConnections) {
            return;
        }
        if self.by_session {
            self.over.insert(session);
        }
        for slot in self.locks.values_mut() {
            if let Some(term) = slot.term.as_ref().filter(|term| term.connection == session) {
                slot.cut.insert(term.token);
                slot.end(false, true);
            }
        }
    }

    /// Takes the term out, for a renewal that writes it again later.
    pub(super) fn take_out(&mut self, grant: &Grant) -> Option<Term> {
        let slot = self.locks.get_mut(grant.lock.as_str())?;
        slot.term.take_if(|term| term.token == grant.token.as_u64())
    }

    pub(super) fn put_back(&mut self, lock: &str, term: Option<Term>) {
        if let (Some(slot), Some(term)) = (self.locks.get_mut(lock), term) {
            slot.term = Some(term);
        }
    }

    pub(super) fn release(
        &mut self,
        grant: &Grant,
        connection: u64,
        now: Time,
    ) -> Result<(), Error> {
        let lie = self.lie;
        if lie == Some(Lie::ReleaseDoesNothing) {
            return Ok(());
        }
        let key = self.key(grant.lock.as_str(), connection);
        let identity = self.identity(&grant.candidate);
        let damaged = self.slot(&key, now, None).damaged;
        if lie != Some(Lie::DamageGrantsToAll) {
            self.damage(damaged, Operation::Release)?;
        }
        if lie == Some(Lie::ReleaseByPrefix) {
            for (_, slot) in self.locks.iter_mut().filter(|(k, _)| k.starts_with(&key)) {
                slot.end(false, true);
            }
            return Ok(());
        }
        let slot = self.slot(&key, now, None);
        let ours = slot.term.as_ref().is_some_and(|term| match lie {
            Some(Lie::ReleaseByName) => true,
            Some(Lie::ReleaseByIdentity) => term.identity == identity,
            Some(Lie::RenewChangesTheToken) => term.campaign == grant.candidate.campaign,
            Some(Lie::ReleaseByCampaign) => {
                term.token == grant.token.as_u64() && term.campaign == grant.candidate.campaign
            }
            _ => term.is_of(grant, &identity),
        });
        if ours && lie == Some(Lie::ReleaseByConnection) {
            let of = slot.term.as_ref().map(|term| term.connection);
            for slot in self.locks.values_mut() {
                if slot.term.as_ref().map(|term| term.connection) == of {
                    slot.end(false, true);
                }
            }
            return Ok(());
        }
        if ours {
            slot.end(false, lie != Some(Lie::ReleaseWakesNobody));
        } else if lie == Some(Lie::SecondReleaseFails) {
            let text = "the lock is not held";
            return Err(self.error(ErrorKind::InvalidInput, Operation::Release, text));
        }
        Ok(())
    }

    pub(super) fn withdraw(
        &mut self,
        lock: &str,
        candidate: &Candidate,
        connection: u64,
        now: Time,
    ) -> Result<(), Error> {
        let lie = self.lie;
        if lie == Some(Lie::WithdrawDoesNothing) {
            return Ok(());
        }
        let key = self.key(lock, connection);
        let identity = self.identity(candidate);
        let damaged = self.slot(&key, now, None).damaged;
        if lie != Some(Lie::DamageGrantsToAll) {
            self.damage(damaged, Operation::Withdraw)?;
        }
        let slot = self.slot(&key, now, None);
        if lie != Some(Lie::QueueKeepsTheWithdrawn) {
            slot.queue.retain(|waiter| {
                let number = waiter.campaign != candidate.campaign;
                let name = waiter.identity != candidate.identity.as_str();
                match lie {
                    Some(Lie::QueueByHalfTheName) => number && name,
                    _ => number || name,
                }
            });
        }
        let ours = slot.term.as_ref().is_some_and(|term| match lie {
            Some(Lie::WithdrawRemovesTheHolder) => true,
            Some(Lie::WithdrawByCampaign) => term.campaign == candidate.campaign,
            _ => term.campaign == candidate.campaign && term.identity == identity,
        });
        if ours {
            slot.end(true, lie != Some(Lie::WithdrawWakesNobody));
        } else if lie == Some(Lie::WithdrawOfNothingFails) && slot.term.is_none() {
            let text = "the lock is not held";
            return Err(self.error(ErrorKind::InvalidInput, Operation::Withdraw, text));
        }
        Ok(())
    }

    pub(super) fn holder(
        &mut self,
        lock: &str,
        connection: u64,
        now: Time,
    ) -> Result<Occupancy, Error> {
        let lie = self.lie;
        let key = self.key(lock, connection);
        let damaged = self.slot(&key, now, None).damaged;
        if lie != Some(Lie::DamageGrantsToAll) {
            self.damage(damaged, Operation::Holder)?;
        }
        let slot = self.slot(&key, now, None);
        let Some(term) = &mut slot.term else {
            if lie == Some(Lie::QueueShowsItsFirst)
                && let Some(first) = slot.queue.front()
            {
                return Ok(Occupancy::Led(Holder::new(&first.identity)));
            }
            let past = slot.past.as_ref().filter(|past| match lie {
                Some(Lie::HolderOutlivesRelease) => !past.expired,
                Some(Lie::HolderOutlivesLease) => past.expired,
                _ => false,
            });
            return Ok(match (lie, past) {
                (_, Some(past)) => Occupancy::Led(holder_of(past, now)),
                (Some(Lie::HolderInvented), None) => Occupancy::Led(Holder::new("nobody")),
                _ => Occupancy::Free,
            });
        };
        if lie == Some(Lie::LookingExtends) {
            term.ends = now + term.lease;
        }
        let holder = holder_of(term, now);
        Ok(match lie {
            Some(Lie::HolderAlwaysFree) => Occupancy::Free,
            Some(Lie::HolderUnsureOfItself) if term.connection == connection => {
                Occupancy::Unknown(holder)
            }
            _ => Occupancy::Led(holder),
        })
    }

    /// What a hint says about the lock now.
    pub(super) fn left(&mut self, lock: &str, connection: u64, now: Time) -> Option<Duration> {
        let key = self.key(lock, connection);
        let slot = self.slot(&key, now, None);
        slot.term.as_ref().map(|term| term.ends.since(now))
    }

    pub(super) fn watch(&mut self, lock: &str, connection: u64) -> watch::Receiver<()> {
        let key = self.key(lock, connection);
        self.locks.entry(key).or_default().changed.subscribe()
    }

    pub(super) fn connection_gone(&mut self, connection: u64) {
        if !self.lies(Lie::GoneConnectionsKeepLocks) {
            return;
        }
        for term in self
            .locks
            .values_mut()
            .filter_map(|slot| slot.term.as_mut())
        {
            if term.connection == connection {
                term.ends = Time::from_nanos(u64::MAX);
            }
        }
    }

    pub(super) fn delete(&mut self, lock: &str) {
        let lie = self.lie;
        for (key, slot) in &mut self.locks {
            if key != lock && !key.ends_with(&format!("/{lock}")) {
                continue;
            }
            let keeps_damage = slot.damaged && lie == Some(Lie::DamageStays);
            slot.term = None;
            slot.past = None;
            slot.tokens = 0;
            slot.damaged = keeps_damage;
            slot.deleted = true;
            slot.changed.send_replace(());
        }
    }

    pub(super) fn corrupt(&mut self, lock: &str) {
        if let Some(slot) = self.locks.get_mut(lock) {
            slot.damaged = true;
        }
    }

    pub(super) fn restart(&mut self) {
        match self.lie {
            Some(Lie::TokenInMemory) => self.last_token = 0,
            Some(Lie::LocksInMemory) => self.locks.clear(),
            _ => {}
        }
    }
}

impl Term {
    fn is_of(&self, grant: &Grant, identity: &str) -> bool {
        self.token == grant.token.as_u64()
            && self.campaign == grant.candidate.campaign
            && self.identity == identity
    }
}

impl Slot {
    fn wait(&mut self, fifo: bool, ask: &Ask<'_>) {
        if !fifo {
            return;
        }
        let campaign = ask.candidate.campaign;
        let identity = ask.candidate.identity.as_str();
        let same =
            |waiter: &&mut Waiter| waiter.campaign == campaign && waiter.identity == identity;
        match self.queue.iter_mut().find(same) {
            Some(waiter) => waiter.last_asked = ask.now,
            None => self.queue.push_back(Waiter {
                identity: ask.candidate.identity.to_string(),
                campaign,
                last_asked: ask.now,
                lease: ask.lease,
            }),
        }
    }

    fn end(&mut self, withdrawn: bool, wakes: bool) {
        let mut past = self.term.take();
        if let Some(past) = &mut past {
            past.withdrawn = withdrawn;
        }
        self.past = past;
        if wakes {
            self.changed.send_replace(());
        }
    }
}

fn holder_of(term: &Term, now: Time) -> Holder {
    let mut holder = Holder::new(&term.identity);
    holder.token = FencingToken::from_counter(term.token).ok();
    holder.value.clone_from(&term.value);
    holder.expires_in = Some(term.ends.since(now));
    holder
}
