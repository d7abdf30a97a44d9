//! What each event must not be.

use std::time::Duration;

use super::{Checker, Mint, REPORT_SLACK, Vacancy, at_most, time_to_act};
use crate::Moment;
use crate::history::{TermId, TermInfo};
use crate::invariant::Invariant;

impl Checker<'_> {
    pub(super) fn released(&mut self, token: u64, working: Option<TermId>) {
        if let Some(vacancy) = self.vacant.last_mut() {
            vacancy.until = vacancy.until.min(self.now + vacancy.after_release);
        }
        if let Some(term) = working
            && !self.is_amnesiac()
        {
            self.broken(
                Invariant::ReleaseAfterWork,
                format!("token {token} was released while the work of term {term} ran"),
            );
        }
    }

    /// Whoever gives two locks back begins with the second.
    pub(super) fn in_order(&mut self, store: u8, candidate: usize) {
        if self.gives_both == Some(candidate) {
            if store == 0 {
                self.broken(
                    Invariant::Order,
                    format!("candidate {candidate} gave back the first lock before the second"),
                );
            }
            self.gives_both = None;
        }
    }

    /// Work has stopped: was it reported if that was long after its term?
    pub(super) fn outlived(&mut self, id: TermId) {
        let (Some(term), Some(over)) = (self.term(id), self.over.get(&id)) else {
            return;
        };
        let late = self.now.saturating_sub(*over);
        if late > term.policy.stop_grace() + REPORT_SLACK && !self.overrun_told.contains(&id) {
            self.broken(
                Invariant::Reported,
                format!("the work of term {id} went on for {late:?}, and nobody was told"),
            );
        }
    }

    pub(super) fn state_lost(&mut self) {
        self.state_lost = Some(self.now);
        self.begin_again();
    }

    /// The store begins again: so do its tokens.
    pub(super) fn begin_again(&mut self) {
        self.begun_again = Some(self.now);
        self.last_minted = [0; 2];
        self.minted.clear();
        self.tokens.clear();
        self.elected.clear();
    }

    pub(super) fn minted(&mut self, store: u8, mint: Mint) {
        let token = mint.token;
        if let Some(last) = self.last_minted.get_mut(usize::from(store)) {
            let before = std::mem::replace(last, token);
            if token <= before {
                self.broken(
                    Invariant::Tokens,
                    format!("the store minted {token} after {before}"),
                );
            }
        }
        self.mints.push(mint);
        self.minted.insert(token, self.mints.len() - 1);
    }

    /// The mint that a candidate has heard of.
    pub(super) fn mint_of(&self, term: &TermInfo) -> Option<usize> {
        let mut mints = self.mints.iter().rev();
        let position = mints.position(|mint| {
            (mint.token, mint.candidate, mint.life) == (term.token, term.candidate, term.life)
        })?;
        Some(self.mints.len() - 1 - position)
    }

    pub(super) fn elected(&mut self, id: TermId) {
        let Some(term) = self.term(id) else {
            return;
        };
        let token = term.token;
        if let Some(Vacancy { until, how, .. }) = self.vacant.pop() {
            let late = self.now.saturating_sub(until);
            if !late.is_zero() {
                self.broken(
                    Invariant::Leaderless,
                    format!("the new leader after {how} came {late:?} too late"),
                );
            }
        }
        if self.refused.remove(&(term.candidate, term.life)) {
            let candidate = term.candidate;
            self.broken(
                Invariant::GivesUp,
                format!("candidate {candidate} was refused at first, and nobody was told"),
            );
        }
        let mint = self.mint_of(term);
        if let Some(mint) = mint {
            self.mint_of.insert(id, mint);
        }
        if self.is_recent(self.begun_again.as_ref()) && !self.minted.contains_key(&token) {
            // Its answer was on the way when the store's tokens began again.
            return;
        }
        if !self.tokens.insert(token) {
            self.broken(Invariant::Tokens, format!("token {token} was used before"));
        }
        // Terms that began before this token was minted must have smaller ones.
        match self
            .minted
            .get(&token)
            .and_then(|mint| self.mints.get(*mint))
        {
            Some(mint) => {
                let minted = mint.at;
                let before = self.elected.partition_point(|(at, _)| *at < minted);
                let largest = before.checked_sub(1).and_then(|i| self.elected.get(i));
                if let Some((_, largest)) = largest
                    && *largest >= token
                    && self.now >= self.tokens_rise_from
                {
                    let largest = *largest;
                    self.broken(
                        Invariant::Tokens,
                        format!("token {token} came after {largest}"),
                    );
                }
            }
            None => self.broken(Invariant::Tokens, format!("token {token} was never minted")),
        }
        let largest = self.elected.last().map_or(0, |(_, largest)| *largest);
        self.elected.push((self.now, largest.max(token)));
    }

    pub(super) fn covered(&mut self, id: TermId, until: Moment, covered: Option<Moment>) {
        if self.is_excused(id) || until <= self.now {
            return;
        }
        let act = self
            .term(id)
            .map_or(Duration::ZERO, |t| time_to_act(t.policy.lease()));
        let beyond = (until + act).saturating_sub(covered.unwrap_or_default());
        if beyond > Duration::from_micros(1) {
            self.broken(
                Invariant::Covered,
                format!(
                    "term {id} is valid until {until:?}; acting then takes until {beyond:?} beyond \
                     its lease"
                ),
            );
        }
    }

    pub(super) fn stepping_down(
        &mut self,
        id: TermId,
        cause: &str,
        left: Duration,
        disturbed: bool,
    ) {
        self.stepping_down.entry(id).or_insert(self.now);
        let grace = self
            .term(id)
            .map_or(Duration::ZERO, |t| t.policy.stop_grace());
        if cause == "heartbeats_missed" && !disturbed && at_most(left) < grace {
            self.broken(
                Invariant::ToldInTime,
                format!("the work of term {id} was told {left:?} before the end, not {grace:?}"),
            );
        }
        self.changes_in_calm(id);
    }

    pub(super) fn never_told(&mut self, id: TermId) {
        let grace = self
            .term(id)
            .map_or(Duration::ZERO, |t| t.policy.stop_grace());
        if !grace.is_zero() {
            self.broken(
                Invariant::ToldInTime,
                format!("the work of term {id} was told at the end, not {grace:?} before it"),
            );
        }
    }

    pub(super) fn ended(&mut self, id: TermId) {
        self.ended.entry(id).or_insert(self.now);
        self.drained(id);
        self.changes_in_calm(id);
    }

    /// Terms end only when they are made to.
    pub(super) fn changes_in_calm(&mut self, id: TermId) {
        let first = self.ending.insert(id);
        if self.settled && first && !self.is_recent(self.provoked.get(&id)) {
            self.broken(
                Invariant::Recovery,
                format!("term {id} ends in calm weather for no reason"),
            );
        }
    }

    /// A term is not kept up beyond the drain limit.
    pub(super) fn drained(&mut self, id: TermId) {
        let (Some(term), Some(since)) = (self.term(id), self.stepping_down.get(&id)) else {
            return;
        };
        let limit = *since + at_most(term.drain_limit + term.policy.validity());
        if self.now > limit {
            let beyond = self.now.saturating_sub(limit);
            self.broken(
                Invariant::Drain,
                format!("term {id} was kept up {beyond:?} beyond its drain limit"),
            );
        }
    }

    pub(super) fn finish(&mut self) {
        for Vacancy { until, how, .. } in std::mem::take(&mut self.vacant) {
            if self.now > until {
                self.broken(Invariant::Leaderless, format!("nobody leads after {how}"));
            }
        }
        for (id, until) in std::mem::take(&mut self.must_notice) {
            let ended = self.ended.get(&id).copied().unwrap_or(self.now);
            if ended > until {
                let late = ended.saturating_sub(until);
                self.broken(
                    Invariant::Noticed,
                    format!("term {id} noticed the deletion of its lock {late:?} too late"),
                );
            }
        }
        let going_on: Vec<TermId> = self.stepping_down.keys().copied().collect();
        for id in going_on {
            if !self.ended.contains_key(&id) {
                self.drained(id);
            }
        }
    }
}
