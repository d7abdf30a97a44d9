//! The faults in force: each has an end, so that nothing needs to be repaired by a task.

use std::time::Duration;

use super::Moment;

/// What is wrong at the moment.
#[derive(Debug, Default)]
pub struct Faults {
    /// Messages suffer from the plan's storm.
    pub stormy: bool,
    /// When that was so last, once it is over.
    pub stormy_until: Moment,
    /// Requests are slow (1 to 12 s) until then.
    pub slow_until: Moment,
    /// Nothing gets through until then.
    pub outage_until: Moment,
    /// The store answers "unavailable" until then.
    pub down_until: Moment,
    /// The store answers "throttled" until then.
    pub throttled_until: Moment,
    /// Per candidate: its requests do not reach the store until then.
    pub requests_cut_until: Vec<Moment>,
    /// Per candidate: no reply or hint reaches it until then.
    pub replies_cut_until: Vec<Moment>,
}

/// The slowest message.
pub const SLOWEST: Duration = Duration::from_secs(12);

/// What happens to one message.
#[derive(Clone, Copy, Debug, Default, Hash)]
pub struct Fate {
    /// The request never arrives.
    pub lose_request: bool,
    /// The reply never arrives.
    pub lose_reply: bool,
    /// The request arrives a second time, so much later.
    pub repeat_after: Option<Duration>,
    /// How long the request takes.
    pub there: Duration,
    /// How long the reply takes.
    pub back: Duration,
}

impl Faults {
    /// No faults, for so many candidates.
    pub fn none(candidates: usize) -> Self {
        Self {
            requests_cut_until: vec![Moment::ZERO; candidates],
            replies_cut_until: vec![Moment::ZERO; candidates],
            ..Self::default()
        }
    }

    /// Whether requests of `candidate` are lost now; the last one past the end is the observer.
    pub fn cuts_requests(&self, candidate: usize, now: Moment) -> bool {
        now < self.outage_until || is_cut(&self.requests_cut_until, candidate, now)
    }

    /// Whether replies and hints to `candidate` are lost now.
    pub fn cuts_replies(&self, candidate: usize, now: Moment) -> bool {
        now < self.outage_until || is_cut(&self.replies_cut_until, candidate, now)
    }
}

fn is_cut(until: &[Moment], candidate: usize, now: Moment) -> bool {
    until.get(candidate).is_some_and(|until| now < *until)
}
