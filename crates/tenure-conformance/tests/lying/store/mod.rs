//! The store of the model: what is done at once when a request arrives.

mod acquire;
mod release;
mod renew;

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Duration;

use tenure_core::{
    CampaignId, Candidate, Error, ErrorKind, FencingToken, Grant, Holder, Occupancy, Operation,
    Time,
};
use tokio::sync::watch;

use crate::lies::{Honest, Lie};
use tenure_conformance::Answers;

const HOUR: Duration = Duration::from_secs(3600);
pub(crate) const SECRET: &str = "correct-horse-battery";

#[derive(Debug)]
pub(crate) struct Store {
    lie: Option<Lie>,
    fifo: bool,
    by_session: bool,
    /// Sessions that have ended.
    over: HashSet<u64>,
    locks: HashMap<String, StoredLock>,
    last_token: u64,
    attempts: u64,
    pub(crate) answers: Answers,
}

#[derive(Debug)]
struct StoredLock {
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

impl Default for StoredLock {
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
pub(crate) struct Term {
    identity: String,
    campaign: CampaignId,
    pub(crate) token: u64,
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
pub(crate) struct Ask<'a> {
    pub(crate) lock: &'a str,
    pub(crate) candidate: &'a Candidate,
    pub(crate) lease: Duration,
    pub(crate) connection: u64,
    pub(crate) now: Time,
}

/// The answer to a renewal.
pub(crate) struct Renewed {
    pub(crate) token: u64,
    pub(crate) lease: Duration,
}

pub(crate) enum Answer {
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
    pub(crate) fn new(kind: Honest, lie: Option<Lie>) -> Self {
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
    fn stored(&mut self, key: &str, now: Time, asked: Option<Duration>) -> &mut StoredLock {
        let lie = self.lie;
        let stored = self.locks.entry(key.to_owned()).or_default();
        if let Some(term) = &stored.term {
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
                let mut past = stored.term.take();
                if let Some(past) = &mut past {
                    past.expired = true;
                }
                stored.past = past;
            }
        }
        stored
    }

    fn damage(&self, damaged: bool, operation: Operation) -> Result<(), Error> {
        if !damaged {
            return Ok(());
        }
        assert!(!self.lies(Lie::DamagePanics), "cannot parse the record");
        Err(self.error(ErrorKind::Corrupted, operation, "the record is damaged"))
    }

    pub(crate) fn error(&self, kind: ErrorKind, operation: Operation, text: &str) -> Error {
        match self.lie {
            Some(Lie::ErrorsInternal) => Error::new(ErrorKind::Internal, operation, text),
            Some(Lie::ErrorsOfNoOperation) => Error::new(kind, Operation::Campaign, text),
            Some(Lie::SecretInErrors) => Error::new(kind, operation, format!("{text}: {SECRET}")),
            _ => Error::new(kind, operation, text),
        }
    }

    pub(crate) fn is_over(&self, session: u64) -> bool {
        self.over.contains(&session)
    }

    /// The session that holds a lock.
    pub(crate) fn session_of(&self, lock: &str) -> Option<u64> {
        let term = self.locks.get(lock)?.term.as_ref()?;
        Some(term.connection)
    }

    /// A session has ended, or a connection where there are none.
    pub(crate) fn session_over(&mut self, session: u64) {
        if !self.by_session && !self.lies(Lie::LocksEndWithConnections) {
            return;
        }
        if self.by_session {
            self.over.insert(session);
        }
        for stored in self.locks.values_mut() {
            if let Some(term) = stored
                .term
                .as_ref()
                .filter(|term| term.connection == session)
            {
                stored.cut.insert(term.token);
                stored.end(false, true);
            }
        }
    }

    /// Takes the term out, for a renewal that writes it again later.
    pub(crate) fn take_out(&mut self, grant: &Grant) -> Option<Term> {
        let stored = self.locks.get_mut(grant.lock.as_str())?;
        stored
            .term
            .take_if(|term| term.token == grant.token.as_u64())
    }

    pub(crate) fn put_back(&mut self, lock: &str, term: Option<Term>) {
        if let (Some(stored), Some(term)) = (self.locks.get_mut(lock), term) {
            stored.term = Some(term);
        }
    }

    pub(crate) fn holder(
        &mut self,
        lock: &str,
        connection: u64,
        now: Time,
    ) -> Result<Occupancy, Error> {
        let lie = self.lie;
        let key = self.key(lock, connection);
        let damaged = self.stored(&key, now, None).damaged;
        if lie != Some(Lie::DamageGrantsToAll) {
            self.damage(damaged, Operation::Holder)?;
        }
        let stored = self.stored(&key, now, None);
        let Some(term) = &mut stored.term else {
            if lie == Some(Lie::QueueShowsItsFirst)
                && let Some(first) = stored.queue.front()
            {
                return Ok(Occupancy::Led(Holder::new(&first.identity)));
            }
            let past = stored.past.as_ref().filter(|past| match lie {
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
    pub(crate) fn left(&mut self, lock: &str, connection: u64, now: Time) -> Option<Duration> {
        let key = self.key(lock, connection);
        let stored = self.stored(&key, now, None);
        stored.term.as_ref().map(|term| term.ends.since(now))
    }

    pub(crate) fn watch(&mut self, lock: &str, connection: u64) -> watch::Receiver<()> {
        let key = self.key(lock, connection);
        self.locks.entry(key).or_default().changed.subscribe()
    }

    pub(crate) fn connection_gone(&mut self, connection: u64) {
        if !self.lies(Lie::GoneConnectionsKeepLocks) {
            return;
        }
        for term in self
            .locks
            .values_mut()
            .filter_map(|stored| stored.term.as_mut())
        {
            if term.connection == connection {
                term.ends = Time::from_nanos(u64::MAX);
            }
        }
    }

    pub(crate) fn delete(&mut self, lock: &str) {
        let lie = self.lie;
        for (key, stored) in &mut self.locks {
            if key != lock && !key.ends_with(&format!("/{lock}")) {
                continue;
            }
            let keeps_damage = stored.damaged && lie == Some(Lie::DamageStays);
            stored.term = None;
            stored.past = None;
            stored.tokens = 0;
            stored.damaged = keeps_damage;
            stored.deleted = true;
            stored.changed.send_replace(());
        }
    }

    pub(crate) fn corrupt(&mut self, lock: &str) {
        if let Some(stored) = self.locks.get_mut(lock) {
            stored.damaged = true;
        }
    }

    pub(crate) fn restart(&mut self) {
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

impl StoredLock {
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
