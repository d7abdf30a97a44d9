//! The stores: a record judged by observation, a key with a lifetime, sessions in a queue.
//!
//! Each is as small as the protocol allows: it applies one request at a time, and tells the
//! [`Witness`] what it has done to whom.

use std::time::Duration;

use tenure_core::Time;

use crate::mutant::Mutant;
use crate::time::START;
use crate::{Invariant, Violation};

/// What the candidates compete for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StoreKind {
    /// A record with a version, written by compare-and-swap; each candidate judges by its own
    /// clock whether its holder lives, as on Kubernetes.
    Records,
    /// A key with a lifetime, which the store ends by its own clock, as on Redis.
    Keys,
    /// Places in a queue that end with their sessions, as on etcd.
    Sessions,
}

impl StoreKind {
    /// All stores.
    pub const ALL: [Self; 3] = [Self::Records, Self::Keys, Self::Sessions];

    /// The store's name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Records => "records",
            Self::Keys => "keys",
            Self::Sessions => "sessions",
        }
    }
}

/// A version of a record, or a token: numbers that the store counts up. Only their order counts,
/// so that [`World`](crate::world::World) renumbers them after each step.
pub(crate) type Number = u8;

/// A campaign of a candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Owner {
    pub(crate) candidate: u8,
    pub(crate) campaign: Number,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Record {
    pub(crate) version: Number,
    pub(crate) owner: Option<Owner>,
    pub(crate) token: Option<Number>,
    pub(crate) lease: Duration,
}

/// A key with a lifetime, or a place in the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub(crate) owner: Owner,
    pub(crate) token: Number,
    pub(crate) expires: Time,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Step {
    Acquire,
    Renew,
    Release,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Request {
    Get,
    Write {
        expected: Option<Number>,
        step: Step,
        token: Option<Number>,
        lease: Duration,
        /// Seen by the checker only: the writer has waited a lease since it received the version.
        waited: bool,
    },
    Acquire {
        lease: Duration,
    },
    Renew {
        token: Number,
        lease: Duration,
    },
    Release {
        token: Number,
    },
    Withdraw,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Answer {
    Found(Option<Record>),
    Written(Number),
    Conflict,
    Held { token: Number, lease: Duration },
    Taken { free_in: Option<Duration> },
    Renewed { lease: Duration },
    Lost,
    Done,
    Refused { retry_after: Option<Duration> },
}

/// How many places the queue has: leftovers of earlier campaigns stand there too.
const PLACES: usize = 5;

#[derive(Clone, Debug, Hash)]
pub(crate) struct Store {
    pub(crate) now: Time,
    pub(crate) counter: Number,
    pub(crate) record: Option<Record>,
    pub(crate) key: Option<Key>,
    pub(crate) queue: [Option<Key>; PLACES],
    /// The largest token of a term so far, for the checker.
    pub(crate) last_token: Number,
}

/// What a request has done, besides its answer.
#[derive(Debug, Default)]
pub(crate) struct Witness {
    pub(crate) violations: Vec<Violation>,
    /// The lock may have become free.
    pub(crate) freed: bool,
    /// A session that had the lock has ended.
    pub(crate) lost: Option<Key>,
}

impl Witness {
    pub(crate) fn broken(&mut self, invariant: Invariant, text: String) {
        self.violations.push(Violation { invariant, text });
    }

    fn must(&mut self, holds: bool, invariant: Invariant, text: impl FnOnce() -> String) {
        if !holds {
            self.broken(invariant, text());
        }
    }
}

impl Store {
    pub(crate) fn new() -> Self {
        Self {
            now: START,
            // Larger than the last token: a counter that stands still is right once.
            counter: 1,
            record: None,
            key: None,
            queue: [None; PLACES],
            last_token: 0,
        }
    }

    /// Ends what has expired.
    pub(crate) fn expire(&mut self, witness: &mut Witness) {
        let now = self.now;
        if self.key.is_some_and(|key| key.expires <= now) {
            self.key = None;
        }
        let head = self.queue[0];
        let keep = |place: &Option<Key>| place.is_none_or(|place| place.expires > now);
        if !self.queue.iter().all(keep) {
            self.queue_retain(|place| place.expires > now);
            self.head_changed(head, witness);
        }
    }

    /// An operator deletes the lock, or ends the session that holds it.
    pub(crate) fn delete(&mut self, witness: &mut Witness) {
        self.record = None;
        self.key = None;
        let head = self.queue[0];
        if let Some(head) = head {
            self.queue_retain(|place| place.token != head.token);
        }
        self.head_changed(head, witness);
        witness.freed = true;
    }

    pub(crate) fn is_held(&self) -> bool {
        self.record.is_some_and(|record| record.owner.is_some())
            || self.key.is_some()
            || self.queue[0].is_some()
    }

    pub(crate) fn apply(
        &mut self,
        kind: StoreKind,
        owner: Owner,
        request: Request,
        mutant: Option<Mutant>,
        witness: &mut Witness,
    ) -> Answer {
        self.expire(witness);
        match kind {
            StoreKind::Records => self.apply_to_record(owner, request, mutant, witness),
            StoreKind::Keys => self.apply_to_key(owner, request, mutant, witness),
            StoreKind::Sessions => self.apply_to_queue(owner, request, mutant, witness),
        }
    }

    fn count(&mut self) -> Number {
        self.counter += 1;
        self.counter
    }

    fn apply_to_record(
        &mut self,
        owner: Owner,
        request: Request,
        mutant: Option<Mutant>,
        witness: &mut Witness,
    ) -> Answer {
        let Request::Write {
            expected,
            step,
            token,
            lease,
            waited,
        } = request
        else {
            return Answer::Found(self.record);
        };
        let before = self.record;
        let version = before.map(|record| record.version);
        if version != expected && mutant != Some(Mutant::Unconditional) {
            return Answer::Conflict;
        }
        let held_by = before.and_then(|record| record.owner);
        let others = held_by.filter(|holder| *holder != owner);
        if step == Step::Acquire {
            witness.must(
                others.is_none() || (waited && version == expected),
                Invariant::I5,
                || format!("{owner:?} takes the lock over from {others:?} too early"),
            );
        } else {
            let of_term = before.and_then(|record| record.token).is_none_or(|had| {
                // A release has no token of its own to write.
                step == Step::Release || Some(had) == token
            });
            witness.must(held_by == Some(owner) && of_term, Invariant::I6, || {
                format!("{step:?} of {owner:?} changes the record of {held_by:?}")
            });
        }
        let version = self.count();
        let released = step == Step::Release;
        self.record = Some(Record {
            version,
            owner: Some(owner).filter(|_| !released),
            token: token.filter(|_| !released),
            lease,
        });
        witness.freed |= released;
        if step == Step::Acquire {
            self.granted(version, owner, witness);
        }
        Answer::Written(version)
    }

    fn granted(&mut self, token: Number, owner: Owner, witness: &mut Witness) {
        witness.must(token > self.last_token, Invariant::I6, || {
            format!("the term of {owner:?} has a token that is not larger than all before")
        });
        self.last_token = self.last_token.max(token);
    }

    fn apply_to_key(
        &mut self,
        owner: Owner,
        request: Request,
        mutant: Option<Mutant>,
        witness: &mut Witness,
    ) -> Answer {
        let now = self.now;
        let is_own = |key: &Key| {
            key.owner == owner
                || (mutant == Some(Mutant::IdentityAdopts)
                    && key.owner.candidate == owner.candidate)
        };
        match request {
            Request::Acquire { lease } => match &mut self.key {
                None => {
                    if mutant != Some(Mutant::TokenReuse) {
                        self.counter += 1;
                    }
                    let token = self.counter;
                    self.key = Some(Key {
                        owner,
                        token,
                        expires: now + lease,
                    });
                    self.granted(token, owner, witness);
                    Answer::Held { token, lease }
                }
                Some(key) if is_own(key) => {
                    if mutant != Some(Mutant::AdoptsWithoutExtending) {
                        key.expires = now + lease;
                    }
                    key.owner = owner;
                    let token = key.token;
                    Answer::Held { token, lease }
                }
                Some(key) => Answer::Taken {
                    free_in: Some(key.expires.since(now)),
                },
            },
            Request::Renew { token, lease } => match &mut self.key {
                Some(key) if key.token == token => {
                    let holder = key.owner;
                    key.expires = now + lease;
                    witness.must(holder == owner, Invariant::I6, || {
                        format!("the renewal of {owner:?} extends the key of {holder:?}")
                    });
                    Answer::Renewed { lease }
                }
                None if mutant == Some(Mutant::RenewIsUpsert) => {
                    witness.broken(
                        Invariant::I6,
                        format!("the renewal of {owner:?} makes the lock again"),
                    );
                    self.key = Some(Key {
                        owner,
                        token,
                        expires: now + lease,
                    });
                    Answer::Renewed { lease }
                }
                _ => Answer::Lost,
            },
            Request::Release { token } => {
                let any = mutant == Some(Mutant::ReleaseByName);
                self.end_key(owner, |key| key.token == token || any, witness)
            }
            Request::Withdraw => {
                let any = mutant == Some(Mutant::WithdrawByName);
                self.end_key(owner, |key| key.owner == owner || any, witness)
            }
            Request::Get | Request::Write { .. } => Answer::Conflict,
        }
    }

    fn end_key(
        &mut self,
        owner: Owner,
        ends: impl Fn(&Key) -> bool,
        witness: &mut Witness,
    ) -> Answer {
        if let Some(key) = self.key.filter(ends) {
            let holder = key.owner;
            witness.must(holder == owner, Invariant::I6, || {
                format!("what {owner:?} gives back is the key of {holder:?}")
            });
            self.key = None;
            witness.freed = true;
        }
        Answer::Done
    }

    fn apply_to_queue(
        &mut self,
        owner: Owner,
        request: Request,
        mutant: Option<Mutant>,
        witness: &mut Witness,
    ) -> Answer {
        let now = self.now;
        match request {
            Request::Acquire { lease } => {
                let expires = now + lease;
                let mut places = self.queue.iter_mut().flatten();
                let token = if let Some(place) = places.find(|place| place.owner == owner) {
                    place.expires = expires;
                    place.token
                } else {
                    let token = self.count();
                    let Some(free) = self.queue.iter_mut().find(|place| place.is_none()) else {
                        return Answer::Refused { retry_after: None };
                    };
                    *free = Some(Key {
                        owner,
                        token,
                        expires,
                    });
                    token
                };
                let first = self.queue[0].is_some_and(|place| place.owner == owner);
                if first || mutant == Some(Mutant::QueueIsIgnored) {
                    self.last_token = self.last_token.max(token);
                    Answer::Held { token, lease }
                } else {
                    Answer::Taken { free_in: None }
                }
            }
            Request::Renew { token, lease } => {
                let any = mutant == Some(Mutant::SessionProvesAnyTerm);
                let mut places = self.queue.iter_mut().flatten();
                let own = places.find(|place| {
                    place.token == token || (any && place.owner.candidate == owner.candidate)
                });
                let Some(place) = own else {
                    return Answer::Lost;
                };
                place.expires = now + lease;
                let holder = place.owner;
                witness.must(holder == owner, Invariant::I6, || {
                    format!("the renewal of {owner:?} extends the place of {holder:?}")
                });
                Answer::Renewed { lease }
            }
            Request::Release { token } => {
                self.leave(|place| place.token == token, witness);
                Answer::Done
            }
            Request::Withdraw => {
                self.leave(|place| place.owner == owner, witness);
                Answer::Done
            }
            Request::Get | Request::Write { .. } => Answer::Conflict,
        }
    }

    /// The holder gives its place back itself: nobody has to be told that it is lost.
    fn leave(&mut self, leaves: impl Fn(&Key) -> bool, witness: &mut Witness) {
        let head = self.queue[0];
        self.queue_retain(|place| !leaves(place));
        witness.freed |= head != self.queue[0];
    }

    fn head_changed(&mut self, head: Option<Key>, witness: &mut Witness) {
        if head != self.queue[0] {
            witness.lost = head;
            witness.freed = true;
        }
    }

    fn queue_retain(&mut self, keep: impl Fn(&Key) -> bool) {
        let mut kept = [None; PLACES];
        let places = self.queue.iter().flatten().filter(|place| keep(place));
        for (slot, place) in kept.iter_mut().zip(places) {
            *slot = Some(*place);
        }
        self.queue = kept;
    }

    /// Whether a request can still change anything, now or later. Versions and tokens do not come
    /// back.
    pub(crate) fn may_still_apply(&self, owner: Owner, request: &Request) -> bool {
        let mut keys = self.key.iter().chain(self.queue.iter().flatten());
        match *request {
            Request::Get => false,
            Request::Acquire { .. } | Request::Write { expected: None, .. } => true,
            Request::Write { expected, .. } => self.record.map(|record| record.version) == expected,
            Request::Renew { token, .. } | Request::Release { token } => {
                keys.any(|key| key.token == token)
            }
            Request::Withdraw => keys.any(|key| key.owner == owner),
        }
    }

    /// Every number in here.
    pub(crate) fn numbers(&mut self, visit: &mut impl FnMut(&mut Number)) {
        visit(&mut self.counter);
        visit(&mut self.last_token);
        if let Some(record) = &mut self.record {
            record.numbers(visit);
        }
        for key in self.key.iter_mut().chain(self.queue.iter_mut().flatten()) {
            visit(&mut key.token);
        }
    }

    /// Every owner in here.
    pub(crate) fn owners(&mut self, visit: &mut impl FnMut(&mut Owner)) {
        if let Some(owner) = self
            .record
            .as_mut()
            .and_then(|record| record.owner.as_mut())
        {
            visit(owner);
        }
        for key in self.key.iter_mut().chain(self.queue.iter_mut().flatten()) {
            visit(&mut key.owner);
        }
    }
}

impl Record {
    pub(crate) fn numbers(&mut self, visit: &mut impl FnMut(&mut Number)) {
        visit(&mut self.version);
        self.token.iter_mut().for_each(visit);
    }
}

impl Request {
    pub(crate) fn numbers(&mut self, visit: &mut impl FnMut(&mut Number)) {
        match self {
            Self::Get | Self::Acquire { .. } | Self::Withdraw => {}
            Self::Write {
                expected, token, ..
            } => {
                expected.iter_mut().for_each(&mut *visit);
                token.iter_mut().for_each(visit);
            }
            Self::Renew { token, .. } | Self::Release { token } => visit(token),
        }
    }
}

impl Answer {
    pub(crate) fn numbers(&mut self, visit: &mut impl FnMut(&mut Number)) {
        match self {
            Self::Found(Some(record)) => record.numbers(visit),
            Self::Written(version) => visit(version),
            Self::Held { token, .. } => visit(token),
            _ => {}
        }
    }

    pub(crate) fn owner(&mut self) -> Option<&mut Owner> {
        match self {
            Self::Found(Some(record)) => record.owner.as_mut(),
            _ => None,
        }
    }
}
