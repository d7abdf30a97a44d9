//! What the owner of a term waits for the store to answer.

use std::mem;
use std::sync::Arc;

use crate::contract::clock::Time;
use crate::contract::error::Error;
use crate::election::instruction::Reply;

/// Who waits for an answer.
struct Question<T> {
    /// What answers it: a proof of this time or a later one, the value of this number or a later
    /// one.
    answered_by: T,
    asked_at: Time,
    reply: Reply,
}

/// The questions about a term that are not answered yet.
#[derive(Default)]
pub(super) struct Questions {
    confirming: Vec<Question<Time>>,
    publishing: Vec<Question<u64>>,
    /// How many values were published in this term: the number of the last one.
    published: u64,
    /// The number of the value that the call under way writes.
    written_by_call: u64,
}

impl Questions {
    /// Does the term go on at `now` or later?
    pub(super) fn confirm(&mut self, now: Time, reply: Reply) {
        self.confirming.push(Question {
            answered_by: now,
            asked_at: now,
            reply,
        });
    }

    /// Has the store the value that was set just now? Only a call that begins later writes it.
    pub(super) fn publish(&mut self, now: Time, reply: Reply) {
        self.published += 1;
        self.publishing.push(Question {
            answered_by: self.published,
            asked_at: now,
            reply,
        });
    }

    pub(super) fn call_begins(&mut self) {
        self.written_by_call = self.published;
    }

    pub(super) fn written_by_call(&self) -> u64 {
        self.written_by_call
    }

    /// The store has proved the term at `proven_at`, and has the value of the number `written`.
    pub(super) fn proved(&mut self, proven_at: Time, written: u64) {
        reply_to(up_to(&mut self.confirming, &proven_at), &Ok(()));
        reply_to(up_to(&mut self.publishing, &written), &Ok(()));
    }

    /// The call that began at `called_at` has failed.
    pub(super) fn failed(&mut self, called_at: Time, error: &Arc<Error>) {
        let outcome = Err(error.clone());
        reply_to(up_to(&mut self.confirming, &called_at), &outcome);
        reply_to(up_to(&mut self.publishing, &self.written_by_call), &outcome);
    }

    /// A call is overdue, and who has asked at `asked_at` or before has waited long enough.
    pub(super) fn unanswered(&mut self, asked_at: Time, error: &Arc<Error>) {
        let outcome = Err(error.clone());
        reply_to(
            take(&mut self.confirming, |it| it.asked_at <= asked_at),
            &outcome,
        );
        reply_to(
            take(&mut self.publishing, |it| it.asked_at <= asked_at),
            &outcome,
        );
    }

    /// No call is made that could answer them.
    pub(super) fn refused(&mut self, error: Error) {
        let outcome = Err(Arc::new(error));
        reply_to(mem::take(&mut self.confirming), &outcome);
        reply_to(mem::take(&mut self.publishing), &outcome);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.confirming.is_empty() && self.publishing.is_empty()
    }

    /// The oldest proof that answers all of them, if the call is made at `now`.
    pub(super) fn not_before(&self, now: Time) -> Option<Time> {
        if !self.publishing.is_empty() {
            return Some(now);
        }
        self.confirming.last().map(|question| question.asked_at)
    }

    /// The term is over: dropping a reply says so.
    pub(super) fn clear(&mut self) {
        self.confirming.clear();
        self.publishing.clear();
    }
}

/// Takes out the questions that are answered.
fn up_to<T: PartialOrd>(asked: &mut Vec<Question<T>>, answered: &T) -> Vec<Question<T>> {
    take(asked, |question| question.answered_by <= *answered)
}

fn take<T>(
    asked: &mut Vec<Question<T>>,
    wanted: impl Fn(&Question<T>) -> bool,
) -> Vec<Question<T>> {
    let (taken, waiting) = mem::take(asked).into_iter().partition(wanted);
    *asked = waiting;
    taken
}

fn reply_to<T>(asked: Vec<Question<T>>, outcome: &Result<(), Arc<Error>>) {
    for question in asked {
        // An asker that was dropped needs no answer.
        let _unheard = question.reply.send(outcome.clone());
    }
}
