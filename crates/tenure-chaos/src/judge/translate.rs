//! From the lines of real processes to a history as the simulator writes it.
//!
//! What a real store does is not seen, so two things differ from a simulation. The moment at which
//! a store mints a token lies between the campaign's request and the election; a history is right
//! if there is such a moment for each term with which tokens rise. And until when the store grants
//! a lease is unknown, so `Covered` is not judged.

use std::time::Duration;

use anyhow::{Context as _, Result};
use tenure::Policy;
use tenure_sim::history::{Event, Fault as SimFault, History};

use crate::candidate::policy;
use crate::fault::{Fault, Promise};
use crate::history::{Line, Nanos};
use crate::judge::minimums::struck;
use crate::judge::terms::{BothBelieved, TermSeen, overlaps};
use crate::judge::verdict::{Rules, Struck};

/// A history on its way.
pub(super) struct Translation<'a> {
    terms: &'a [TermSeen],
    rules: &'a Rules,
    struck: Vec<Struck>,
    overlaps: Vec<BothBelieved>,
    gaps: Vec<Gap>,
    minted: Vec<Nanos>,
    start: Nanos,
    end: Nanos,
}

/// A time without a leader.
#[derive(Clone, Copy, Debug)]
struct Gap {
    from: Nanos,
    /// `None`: until the end of the history.
    to: Option<Nanos>,
    /// When somebody must lead.
    must_end: Nanos,
    /// The fault that it is about.
    after: Option<usize>,
}

impl<'a> Translation<'a> {
    pub(super) fn new(lines: &[Line], terms: &'a [TermSeen], rules: &'a Rules) -> Result<Self> {
        let first = lines.first().context("an empty history")?;
        let last = lines.last().context("an empty history")?;
        // What candidates do when they are told to end is not a time without a leader.
        let over = lines.iter().find(|line| line.event == "over");
        let mut this = Self {
            terms,
            rules,
            struck: struck(lines),
            overlaps: overlaps(terms),
            gaps: Vec::new(),
            minted: Vec::new(),
            start: first.at,
            end: last.at,
        };
        this.gaps = this.find_gaps(over.map_or(last.at, |line| line.at));
        this.minted = this.find_mints();
        Ok(this)
    }

    fn name_of(&self, struck: &Struck) -> Option<Fault> {
        let mut all = self.rules.faults.iter().map(|applies| applies.fault);
        all.find(|fault| fault.to_string() == struck.fault)
    }

    fn is_beyond(&self, fault: Fault) -> bool {
        let mut all = self.rules.faults.iter();
        all.any(|one| one.fault == fault && one.promise != Promise::Within)
    }

    /// The faults beyond the promise, each at its begin and at its end.
    pub(super) fn beyond(&self) -> impl Iterator<Item = (Duration, Fault)> {
        self.struck.iter().flat_map(move |struck| {
            let fault = self.name_of(struck).filter(|fault| self.is_beyond(*fault));
            let times = [Some(struck.at), struck.healed];
            let times = times.into_iter().flatten();
            times.filter_map(move |at| Some((moment(at, self.start), fault?)))
        })
    }

    /// The lengths of the times without a leader.
    pub(super) fn gaps(&self) -> Vec<Duration> {
        let ended = self.gaps.iter().filter_map(|gap| Some((gap.from, gap.to?)));
        ended.map(|(from, to)| moment(to, from)).collect()
    }

    fn find_gaps(&self, over: Nanos) -> Vec<Gap> {
        let mut gaps = Vec::new();
        let mut covered = None;
        let valid = self.terms.iter().filter(|term| term.is_valid_at_first());
        let mut ends = |covered: Option<Nanos>, to: Option<Nanos>| {
            let from = covered.unwrap_or(self.start);
            if to.unwrap_or(over) <= from || from >= over {
                return;
            }
            let gap = self.gap(from, to, over);
            // What may still go on at the end is not judged.
            if to.is_some() || gap.must_end < over {
                gaps.push(gap);
            }
        };
        for term in valid {
            ends(covered, Some(term.elected));
            covered = covered.max(Some(term.believed_until));
        }
        ends(covered, None);
        gaps
    }

    /// The formula counts from the end of the store's last fault. One candidate's fault puts nothing
    /// off: there are others.
    fn gap(&self, from: Nanos, to: Option<Nanos>, over: Nanos) -> Gap {
        let end = to.unwrap_or(over);
        let mut begin = from;
        let mut after = None;
        let mut leases = 0;
        for (index, struck) in self.struck.iter().enumerate() {
            let healed = struck.healed.unwrap_or(end);
            // A fault shortly before is what the gap comes from.
            let recent = self.rules.lease.as_nanos() * 3;
            let reaches = u128::from(healed) + recent >= u128::from(from);
            if struck.at >= end || !reaches {
                continue;
            }
            after = Some(index);
            if struck.pid == 0 {
                begin = begin.max(healed.min(end));
            }
            let fault = self.name_of(struck);
            let mut applies = self.rules.faults.iter();
            let applies = applies.find(|applies| Some(applies.fault) == fault);
            leases = leases.max(applies.map_or(0, |applies| applies.more_leases));
        }
        let allowed = self.rules.formula + self.rules.lease * leases;
        Gap {
            from,
            to,
            must_end: begin + u64::try_from(allowed.as_nanos()).unwrap_or(Nanos::MAX),
            after,
        }
    }

    /// A moment for each term at which its token can have been minted, so that they rise if they
    /// can: as early as its campaign and the tokens below allow.
    fn find_mints(&self) -> Vec<Nanos> {
        let mut by_token: Vec<usize> = (0..self.terms.len()).collect();
        by_token.sort_by_key(|index| {
            (
                self.era(self.terms[*index].elected),
                self.terms[*index].token,
            )
        });
        let mut minted = vec![0; self.terms.len()];
        let mut before = 0;
        let mut era = 0;
        for index in by_token {
            let term = &self.terms[index];
            if self.era(term.elected) != era {
                era = self.era(term.elected);
                before = 0;
            }
            before = before.max(term.asked);
            minted[index] = before.min(term.elected);
            before += 1;
        }
        minted
    }

    /// How often the tokens had begun again.
    fn era(&self, at: Nanos) -> usize {
        let forgotten = self.struck.iter().filter(|struck| {
            let fault = self.name_of(struck);
            fault.is_some_and(|fault| self.rules.forgetting.contains(&fault)) && struck.at < at
        });
        forgotten.count()
    }

    /// The history, with the excuses of the faults beyond the promise or without.
    pub(super) fn history(&self, excusing: bool) -> Result<History> {
        let mut events: Vec<(Nanos, u8, Event)> = Vec::new();
        let mut history = History::new(policy(self.rules.lease)?.validity(), false)
            .whose_tokens_begin_again(!self.rules.forgetting.is_empty());
        for (id, term) in self.terms.iter().enumerate() {
            let policy = policy(Duration::from_millis(term.lease))?;
            self.add_term(id, term, &mut events);
            history.terms.push(info(term, policy));
        }
        for both in &self.overlaps {
            for at in [both.from, both.until] {
                let (older, newer) = (both.older, both.newer);
                events.push((at, 2, Event::Overlap { older, newer }));
            }
        }
        self.add_gaps(&mut events);
        if excusing {
            self.add_excuses(&mut events);
        }
        events.push((self.end, 9, self.over()));
        // At one moment what the store does comes before what is heard of it.
        events.sort_by_key(|(at, rank, _)| (*at, *rank));
        for (at, _, event) in events {
            history.push(moment(at, self.start), event);
        }
        Ok(history)
    }

    fn add_term(&self, id: usize, term: &TermSeen, events: &mut Vec<(Nanos, u8, Event)>) {
        let minted = Event::Minted {
            store: 0,
            candidate: term.candidate,
            life: term.life,
            token: term.token,
        };
        events.push((self.minted[id], 0, minted));
        let elected = Event::Elected {
            term: id,
            until: moment(term.first_until, self.start),
            covered: Some(Duration::MAX),
        };
        events.push((term.elected, 1, elected));
        if let Some(at) = term.works {
            events.push((at, 3, Event::WorkStarted(id)));
        }
        if let (Some(at), Some(_)) = (term.stops.or(term.killed), term.works) {
            let stopped = Event::WorkStopped {
                term: id,
                crashed: term.stops.is_none(),
                // Whether an overrun was told is not written down.
                disturbed: true,
            };
            events.push((at, 4, stopped));
        }
        if let Some(at) = term.released {
            let released = Event::Released {
                store: 0,
                candidate: term.candidate,
                token: term.token,
                working: term.stops.is_none().then_some(id),
            };
            events.push((at, 5, released));
        }
        for write in &term.writes {
            if let Some((at, effect)) = effect(id, write) {
                events.push((at, 6, effect));
            }
        }
    }

    fn add_gaps(&self, events: &mut Vec<(Nanos, u8, Event)>) {
        for gap in &self.gaps {
            let end = gap.to.unwrap_or(self.end);
            // A term that was over at its election ends no gap: the time goes on.
            let late = self.terms.iter().filter(|term| !term.is_valid_at_first());
            let late = late.map(|term| term.elected);
            let again = late.filter(|at| (gap.from..end).contains(at));
            for at in std::iter::once(gap.from).chain(again) {
                let after = gap
                    .after
                    .and_then(|index| self.name_of(&self.struck[index]));
                let bound = moment(gap.must_end, at);
                let vacant = Event::Vacant {
                    how: after.map_or("no fault", Fault::name),
                    bound,
                    after_release: bound,
                };
                events.push((at, 7, vacant));
            }
        }
    }

    fn add_excuses(&self, events: &mut Vec<(Nanos, u8, Event)>) {
        for struck in &self.struck {
            let Some(fault) = self.name_of(struck).filter(|fault| self.is_beyond(*fault)) else {
                continue;
            };
            for at in [Some(struck.at), struck.healed].into_iter().flatten() {
                // The term that was the last to begin: it may hold the lock.
                let mut began = self.terms.iter().filter(|term| term.elected <= at);
                let token = began.next_back().map(|term| term.token);
                let forgets = self.rules.forgetting.contains(&fault) && at == struck.at;
                let excuse = if forgets {
                    SimFault::StateLost
                } else {
                    SimFault::Deleted { token }
                };
                events.push((at, 8, Event::Fault(excuse)));
            }
        }
    }

    fn over(&self) -> Event {
        let working = self
            .terms
            .iter()
            .filter(|term| term.works.is_some() && term.stops.is_none() && term.killed.is_none());
        Event::Over {
            working: working.count(),
            running: 0,
            held: false,
        }
    }
}

fn info(term: &TermSeen, policy: Policy) -> tenure_sim::history::TermInfo {
    tenure_sim::history::TermInfo {
        candidate: term.candidate,
        life: term.life,
        token: term.token,
        drain_limit: policy.stop_grace(),
        policy,
        stores: &[0],
        era: 0,
    }
}

/// `permitted at_least effect accepted seen`
fn effect(term: usize, write: &Line) -> Option<(Nanos, Event)> {
    let (permitted, at_least) = (write.number(0)?, write.number(1)?);
    let (at, accepted, seen) = (write.number(2)?, write.number(3)?, write.number(4)?);
    let effect = Event::Effect {
        term,
        at_least: Duration::from_nanos(at_least),
        after: moment(at, permitted),
        valid: true,
        accepted: accepted == 1,
        seen,
    };
    Some((at, effect))
}

/// The moment of a simulation for a time of the boot clock.
fn moment(at: Nanos, start: Nanos) -> Duration {
    Duration::from_nanos(at.saturating_sub(start))
}
