//! What the store does when a term is renewed.

use tenure_core::{Error, Grant, Holder, Operation, Time};

use super::{Answer, Ask, Renewed, Store, holder_of};
use crate::lies::Lie;

impl Store {
    /// The answer to an acquire or renew has come: a keepalive that was started is stopped.
    pub(crate) fn settle(&mut self, lock: &str, connection: u64, token: u64, end: Time) {
        let key = self.key(lock, connection);
        if let Some(stored) = self.locks.get_mut(&key)
            && let Some(term) = &mut stored.term
            && term.token == token
        {
            term.ends = end;
        }
    }

    /// The token of the renewed term, or who has the lock now.
    pub(crate) fn renew(
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
        let damaged = self.stored(&key, now, None).damaged;
        if lie != Some(Lie::DamageGrantsToAll) {
            self.damage(damaged, Operation::Renew)?;
        }
        let granted = |token| {
            Ok(Ok(Renewed {
                token,
                lease: grant.lease,
            }))
        };
        let stored = self.stored(&key, now, None);
        let Some(term) = &mut stored.term else {
            let resumed =
                lie == Some(Lie::RenewAfterLoss) && stored.cut.contains(&grant.token.as_u64());
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
    pub(crate) fn write_value(&mut self, grant: &Grant, connection: u64) {
        let key = self.key(grant.lock.as_str(), connection);
        let value = self.value(&grant.candidate);
        if let Some(stored) = self.locks.get_mut(&key)
            && let Some(term) = &mut stored.term
            && term.token == grant.token.as_u64()
        {
            term.value = value;
        }
    }
}
