//! The terms as the world sees them, on true time.

use std::time::Duration;

use tenure_core::{FencingToken, Term};

use super::{Leading, OVERLAP_AGAIN, Terms, WATCHED_AFTER_THE_END, Watched, World, latest};
use crate::drift::Drift;
use crate::history::{Event, TermId, TermInfo};

impl World {
    /// Which work of a candidate runs under this token, or in several stores under any: there its
    /// token is that of one of them.
    pub fn working_under(&self, token: u64, owner: (usize, u32)) -> Option<TermId> {
        let working = self.terms().working.clone();
        let found = working.into_iter().find(|(id, of_work)| {
            self.term(*id).is_some_and(|term| {
                (term.candidate, term.life) == owner && (*of_work == token || term.stores.len() > 1)
            })
        });
        found.map(|(id, _)| id)
    }

    /// Whether the work of a term is running.
    pub fn is_working(&self, id: TermId) -> bool {
        self.terms().working.contains_key(&id)
    }

    /// How much work is running.
    pub fn working(&self) -> usize {
        self.terms().working.len()
    }

    /// A user got hold of a term.
    pub fn elected(&self, info: TermInfo, term: &Term, drift: Drift) -> TermId {
        let (candidate, life) = (info.candidate, info.life);
        let covered = self.covered(&info);
        let id = {
            let mut history = self.history();
            history.terms.push(info);
            history.terms.len() - 1
        };
        let until = self.now() + drift.true_time(term.remaining());
        self.record(Event::Elected {
            term: id,
            until,
            covered,
        });
        self.terms().recent.push(Watched {
            id,
            term: term.clone(),
            candidate,
            life,
            drift,
            until,
            over_since: None,
            resurrected: false,
        });
        self.look();
        id
    }

    /// A heartbeat of this life of a candidate got through.
    pub fn renewed(&self, candidate: usize, life: u32) {
        let (id, until) = {
            let mut terms = self.terms();
            let Some(watched) = latest(&mut terms.recent, candidate, life) else {
                return;
            };
            watched.until = self.now() + watched.drift.true_time(watched.term.remaining());
            (watched.id, watched.until)
        };
        let covered = self.term(id).and_then(|term| self.covered(&term));
        self.record(Event::Renewed {
            term: id,
            until,
            covered,
        });
        self.look();
    }

    /// The last term of this life of a candidate, and what is left of it by its last heartbeat:
    /// its user may have given it back in the meantime.
    pub fn latest(&self, candidate: usize, life: u32) -> Option<(TermId, Duration)> {
        let mut terms = self.terms();
        let watched = latest(&mut terms.recent, candidate, life)?;
        Some((watched.id, watched.until.saturating_sub(self.now())))
    }

    /// Returns when the validity that the last heartbeat of a term has brought is over.
    pub async fn over_by_the_clock(&self, id: TermId) {
        loop {
            let until = {
                let terms = self.terms();
                let mut recent = terms.recent.iter();
                recent.find(|watched| watched.id == id).map(|w| w.until)
            };
            let left = until.map_or(Duration::ZERO, |until| until.saturating_sub(self.now()));
            if left.is_zero() {
                return;
            }
            tokio::time::sleep(left).await;
        }
    }

    /// Looks at all terms: each is asked on its own clock whether it is valid.
    ///
    /// Called whenever a term begins or is extended, so no overlap escapes; and now and then, so
    /// that no term that is over comes back unseen.
    pub fn look(&self) {
        let now = self.now();
        let mut found = Vec::new();
        {
            let mut terms = self.terms();
            let Terms {
                recent, overlaps, ..
            } = &mut *terms;
            recent.retain(|watched| {
                watched
                    .over_since
                    .is_none_or(|since| now < since + WATCHED_AFTER_THE_END)
            });
            let mut valid: Vec<TermId> = Vec::new();
            for watched in recent.iter_mut() {
                if !watched.term.is_valid() {
                    watched.over_since.get_or_insert(now);
                    continue;
                }
                if watched.over_since.is_some() && !watched.resurrected {
                    watched.resurrected = true;
                    found.push(Event::Resurrected(watched.id));
                }
                for older in &valid {
                    let last = overlaps.get(&(*older, watched.id));
                    if last.is_none_or(|last| now >= *last + OVERLAP_AGAIN) {
                        overlaps.insert((*older, watched.id), now);
                        found.push(Event::Overlap {
                            older: *older,
                            newer: watched.id,
                        });
                    }
                }
                valid.push(watched.id);
            }
        }
        for event in found {
            self.record(event);
        }
    }

    /// The leader: a valid term whose work runs.
    pub fn leader(&self) -> Option<Leading> {
        let terms = self.terms();
        let mut recent = terms.recent.iter().rev();
        recent
            .find(|watched| terms.working.contains_key(&watched.id) && watched.term.is_valid())
            .map(|watched| Leading {
                id: watched.id,
                candidate: watched.candidate,
                term: watched.term.clone(),
            })
    }

    /// The work of a term starts.
    pub fn work_started(&self, id: TermId, token: FencingToken) {
        self.terms().working.insert(id, token.as_u64());
        self.record(Event::WorkStarted(id));
    }

    /// The work of a term has stopped.
    pub fn work_stopped(&self, id: TermId, crashed: bool, disturbed: bool) {
        self.terms().working.remove(&id);
        self.record(Event::WorkStopped {
            term: id,
            crashed,
            disturbed,
        });
    }
}
