//! The stores' clients: what a call asks for, and what it makes of the answers.

use std::time::Duration;

use tenure_core::Time;
use tenure_core::machine::{Failure, Input};

use crate::mutant::Mutant;
use crate::store::{Answer, Owner, Record, Request, Step, StoreKind};
use crate::world::{Call, Candidate, Grant, Operation, Proof, Rules, Seen, Wire};

/// How often a call reads the record again after somebody else's write came in between.
const ATTEMPTS: u8 = 2;

impl Candidate {
    /// What a call asks for first.
    pub(crate) fn first_request(&self, rules: &Rules, of: usize, operation: Operation) -> Request {
        let lease = rules.policies[of].lease();
        let grant = self.grant.unwrap_or(Grant {
            token: 0,
            version: 0,
        });
        let records = rules.options.store == StoreKind::Records;
        match operation {
            Operation::Acquire | Operation::Withdraw if records => Request::Get,
            Operation::Renew if records => renewal(grant, grant.version, lease),
            Operation::Release if records => release(grant.version),
            Operation::Acquire => Request::Acquire { lease },
            Operation::Renew => Request::Renew {
                token: grant.token,
                lease,
            },
            Operation::Release => Request::Release { token: grant.token },
            Operation::Withdraw => Request::Withdraw,
        }
    }

    /// What an answer means to the machine; `None` if there is none, or the call goes on.
    pub(crate) fn read_answer(&mut self, rules: &Rules, of: usize) -> Option<Input> {
        let call = self.call?;
        let Wire::Answer(answer) = call.wire else {
            return None;
        };
        match self.judge(rules, of, &call, answer) {
            Verdict::Ask(request) => {
                let conflicts = call.conflicts + u8::from(answer == Answer::Conflict);
                self.call = Some(Call {
                    sent: self.now,
                    wire: Wire::Request(request),
                    conflicts,
                    ..call
                });
                None
            }
            Verdict::Tell(input) => {
                self.call = None;
                Some(input)
            }
        }
    }

    fn judge(&mut self, rules: &Rules, of: usize, call: &Call, answer: Answer) -> Verdict {
        let lease = rules.policies[of].lease();
        match answer {
            Answer::Refused { retry_after } => failed(retry_after),
            Answer::Conflict if call.conflicts + 1 >= ATTEMPTS => failed(None),
            Answer::Conflict => Verdict::Ask(Request::Get),
            Answer::Found(found) => self.found(rules, of, call, found),
            Answer::Written(version) => {
                self.note(rules, version);
                match call.operation {
                    Operation::Acquire => {
                        self.grant = Some(Grant {
                            token: version,
                            version,
                        });
                        self.held(rules, call.sent, lease)
                    }
                    Operation::Renew => {
                        if let Some(grant) = &mut self.grant {
                            grant.version = version;
                        }
                        self.renewed(rules, call.sent, lease)
                    }
                    Operation::Release | Operation::Withdraw => Verdict::Tell(Input::Done),
                }
            }
            Answer::Held { token, lease } => {
                self.grant = Some(Grant { token, version: 0 });
                self.held(rules, call.sent, lease)
            }
            Answer::Taken { free_in } => Verdict::Tell(Input::Taken { free_in }),
            Answer::Renewed { lease } => self.renewed(rules, call.sent, lease),
            Answer::Lost => Verdict::Tell(Input::Lost),
            Answer::Done => Verdict::Tell(Input::Done),
        }
    }

    fn found(&mut self, rules: &Rules, of: usize, call: &Call, found: Option<Record>) -> Verdict {
        let lease = rules.policies[of].lease();
        let me = self.me(of);
        if let Some(record) = found {
            self.note(rules, record.version);
        }
        let is_own = found.is_some_and(|record| record.owner == Some(me));
        match call.operation {
            Operation::Acquire => match found {
                None => Verdict::Ask(acquire(None, lease, true)),
                Some(record) => {
                    let left = self.left(rules, of, &record);
                    if is_own || record.owner.is_none() || left.is_zero() {
                        let waited = self.has_waited(&record);
                        Verdict::Ask(acquire(Some(record.version), lease, waited))
                    } else {
                        let free_in = Some(left);
                        Verdict::Tell(Input::Taken { free_in })
                    }
                }
            },
            Operation::Renew => {
                let grant = self.grant.filter(|grant| {
                    is_own
                        && found
                            .and_then(|record| record.token)
                            .is_none_or(|token| token == grant.token)
                });
                match (grant, found) {
                    (Some(grant), Some(record)) => {
                        Verdict::Ask(renewal(grant, record.version, lease))
                    }
                    (_, None) if rules.mutant(Mutant::RenewIsUpsert) => {
                        Verdict::Ask(Request::Write {
                            expected: None,
                            step: Step::Renew,
                            token: self.grant.map(|grant| grant.token),
                            lease,
                            waited: false,
                        })
                    }
                    _ => Verdict::Tell(Input::Lost),
                }
            }
            Operation::Release | Operation::Withdraw => {
                let by_name = rules.mutant(Mutant::ReleaseByName)
                    && call.operation == Operation::Release
                    || rules.mutant(Mutant::WithdrawByName)
                        && call.operation == Operation::Withdraw;
                match found {
                    Some(record) if is_own || (by_name && record.owner.is_some()) => {
                        Verdict::Ask(release(record.version))
                    }
                    _ => Verdict::Tell(Input::Done),
                }
            }
        }
    }

    fn me(&self, of: usize) -> Owner {
        Owner {
            candidate: u8::try_from(of).unwrap_or(u8::MAX),
            campaign: self.campaign,
        }
    }

    /// How long the record's lease can still last, as far as this candidate knows (I5).
    fn left(&self, rules: &Rules, of: usize, record: &Record) -> Duration {
        let lease = if rules.mutant(Mutant::OwnDuration) {
            rules.policies[of].lease()
        } else {
            record.lease
        };
        match self.seen {
            Some(seen) => (seen.at + lease).since(self.now),
            None => lease,
        }
    }

    fn has_waited(&self, record: &Record) -> bool {
        self.received.is_some_and(|received| {
            received.version == record.version && self.now >= received.at + record.lease
        })
    }

    /// The lease runs from the receipt of a changed version (I5).
    fn note(&mut self, rules: &Rules, version: u8) {
        let at = self.now;
        let changed = |seen: &Seen| seen.version != version;
        if self.received.as_ref().is_none_or(changed) {
            self.received = Some(Seen { version, at });
        }
        let from = match self.seen {
            Some(seen) if seen.version == version || rules.mutant(Mutant::FirstSight) => seen.at,
            // As if the lease had been over long ago.
            None if rules.mutant(Mutant::UnprovenIsFree) => at.minus(Duration::from_secs(60)),
            _ => at,
        };
        self.seen = Some(Seen { version, at: from });
    }

    fn held(&mut self, rules: &Rules, sent: Time, lease: Duration) -> Verdict {
        let (proven_at, told) = self.proven(rules, sent, lease);
        Verdict::Tell(Input::Held {
            proven_at,
            lease: told,
        })
    }

    fn renewed(&mut self, rules: &Rules, sent: Time, lease: Duration) -> Verdict {
        let (proven_at, told) = self.proven(rules, sent, lease);
        Verdict::Tell(Input::Renewed {
            proven_at,
            lease: told,
        })
    }

    /// What the machine is told of a proof, and notes what is true.
    fn proven(&mut self, rules: &Rules, sent: Time, lease: Duration) -> (Time, Duration) {
        let from = if rules.mutant(Mutant::LeaseFromAnswer) {
            self.now
        } else {
            sent
        };
        self.proof = Some(Proof {
            at: sent,
            told: from,
            lease,
        });
        let told = if rules.mutant(Mutant::ValidityIsLease) {
            // So much that the validity of it is the lease.
            lease * 11 / 9 + Duration::from_millis(60)
        } else {
            lease
        };
        (from, told)
    }
}

enum Verdict {
    Ask(Request),
    Tell(Input),
}

fn failed(retry_after: Option<Duration>) -> Verdict {
    Verdict::Tell(Input::Failed(Failure {
        permanent: false,
        retry_after,
        unanswered: false,
    }))
}

fn acquire(expected: Option<u8>, lease: Duration, waited: bool) -> Request {
    Request::Write {
        expected,
        step: Step::Acquire,
        token: None,
        lease,
        waited,
    }
}

fn renewal(grant: Grant, version: u8, lease: Duration) -> Request {
    Request::Write {
        expected: Some(version),
        step: Step::Renew,
        token: Some(grant.token),
        lease,
        waited: false,
    }
}

fn release(version: u8) -> Request {
    Request::Write {
        expected: Some(version),
        step: Step::Release,
        token: None,
        lease: Duration::from_secs(1),
        waited: false,
    }
}
