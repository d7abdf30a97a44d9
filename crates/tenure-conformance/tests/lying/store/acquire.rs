//! What the store does when a candidate asks for a lock.

use std::time::Duration;

use tenure_core::{Error, ErrorKind, Operation, Time};

use super::{Answer, Ask, Store, StoredLock, Term, holder_of};
use crate::lies::Lie;

impl Store {
    pub(crate) fn acquire(&mut self, ask: &Ask<'_>) -> Result<Answer, Error> {
        self.attempts += 1;
        if self.lies(Lie::LongNamesRefused) && ask.lock.len() > 63 {
            let text = "the name is too long";
            return Err(self.error(ErrorKind::InvalidInput, Operation::Acquire, text));
        }
        let key = self.key(ask.lock, ask.connection);
        let identity = self.identity(ask.candidate);
        let (lie, fifo, attempts) = (self.lie, self.fifo, self.attempts);
        let by_session = self.by_session;
        let stored = self.stored(&key, ask.now, Some(ask.lease));
        if stored.damaged && lie == Some(Lie::DamageGrantsToAll) {
            self.last_token += 1;
            return Ok(Answer::Held {
                token: self.last_token,
                began: ask.now,
                adopted: false,
            });
        }
        let damaged = stored.damaged;
        self.damage(damaged, Operation::Acquire)?;
        let stored = self.stored(&key, ask.now, Some(ask.lease));
        if let Some(term) = &mut stored.term {
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
                stored.wait(fifo, ask);
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
            let held = |stored: &&StoredLock| stored.term.is_some();
            if self.locks.values().filter(held).count() >= 512 {
                return refusal;
            }
        }
        let stored = self.stored(key, ask.now, None);
        if stored.deleted && lie == Some(Lie::DeletedStaysTaken) {
            return refusal;
        }
        if lie != Some(Lie::QueueKeepsTheSilent) {
            stored
                .queue
                .retain(|waiter| ask.now < waiter.last_asked + waiter.lease);
        }
        if fifo
            && lie != Some(Lie::QueueUnfair)
            && let Some(first) = stored.queue.front()
            && !(first.campaign == ask.candidate.campaign
                && first.identity == ask.candidate.identity.as_str())
        {
            stored.wait(fifo, ask);
            return refusal;
        }
        None
    }

    pub(super) fn grant(&mut self, key: &str, ask: &Ask<'_>) -> Answer {
        let lie = self.lie;
        let identity = self.identity(ask.candidate);
        let value = self.value(ask.candidate);
        self.last_token += 1;
        let mut token = self.last_token;
        let stored = self.stored(key, ask.now, None);
        stored.tokens += 1;
        match (lie, &stored.past) {
            (Some(Lie::TokenReuse), _) => token = 7,
            (Some(Lie::TokenKeptOverExpiry), Some(past)) if past.expired => token = past.token,
            (Some(Lie::TokenKeptOverWithdrawal), Some(past)) if past.withdrawn => {
                token = past.token;
            }
            (Some(Lie::TokenInTheRecord), _) => token = stored.tokens,
            _ => {}
        }
        stored
            .queue
            .retain(|waiter| waiter.campaign != ask.candidate.campaign);
        stored.term = Some(Term {
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
        stored.changed.send_replace(());
        Answer::Held {
            token,
            began: ask.now,
            adopted: false,
        }
    }
}
