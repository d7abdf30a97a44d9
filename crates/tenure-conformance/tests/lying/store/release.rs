//! What the store does when a term is released or an attempt withdrawn.

use tenure_core::{Candidate, Error, ErrorKind, Grant, Operation, Time};

use super::Store;
use crate::lies::Lie;

impl Store {
    pub(crate) fn release(
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
        let damaged = self.stored(&key, now, None).damaged;
        if lie != Some(Lie::DamageGrantsToAll) {
            self.damage(damaged, Operation::Release)?;
        }
        if lie == Some(Lie::ReleaseByPrefix) {
            for (_, stored) in self.locks.iter_mut().filter(|(k, _)| k.starts_with(&key)) {
                stored.end(false, true);
            }
            return Ok(());
        }
        let stored = self.stored(&key, now, None);
        let ours = stored.term.as_ref().is_some_and(|term| match lie {
            Some(Lie::ReleaseByName) => true,
            Some(Lie::ReleaseByIdentity) => term.identity == identity,
            Some(Lie::RenewChangesTheToken) => term.campaign == grant.candidate.campaign,
            Some(Lie::ReleaseByCampaign) => {
                term.token == grant.token.as_u64() && term.campaign == grant.candidate.campaign
            }
            _ => term.is_of(grant, &identity),
        });
        if ours && lie == Some(Lie::ReleaseByConnection) {
            let of = stored.term.as_ref().map(|term| term.connection);
            for stored in self.locks.values_mut() {
                if stored.term.as_ref().map(|term| term.connection) == of {
                    stored.end(false, true);
                }
            }
            return Ok(());
        }
        if ours {
            stored.end(false, lie != Some(Lie::ReleaseWakesNobody));
        } else if lie == Some(Lie::SecondReleaseFails) {
            let text = "the lock is not held";
            return Err(self.error(ErrorKind::InvalidInput, Operation::Release, text));
        }
        Ok(())
    }

    pub(crate) fn withdraw(
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
        let damaged = self.stored(&key, now, None).damaged;
        if lie != Some(Lie::DamageGrantsToAll) {
            self.damage(damaged, Operation::Withdraw)?;
        }
        let stored = self.stored(&key, now, None);
        if lie != Some(Lie::QueueKeepsTheWithdrawn) {
            stored.queue.retain(|waiter| {
                let number = waiter.campaign != candidate.campaign;
                let name = waiter.identity != candidate.identity.as_str();
                match lie {
                    Some(Lie::QueueByHalfTheName) => number && name,
                    _ => number || name,
                }
            });
        }
        let ours = stored.term.as_ref().is_some_and(|term| match lie {
            Some(Lie::WithdrawRemovesTheHolder) => true,
            Some(Lie::WithdrawByCampaign) => term.campaign == candidate.campaign,
            _ => term.campaign == candidate.campaign && term.identity == identity,
        });
        if ours {
            stored.end(true, lie != Some(Lie::WithdrawWakesNobody));
        } else if lie == Some(Lie::WithdrawOfNothingFails) && stored.term.is_none() {
            let text = "the lock is not held";
            return Err(self.error(ErrorKind::InvalidInput, Operation::Withdraw, text));
        }
        Ok(())
    }
}
