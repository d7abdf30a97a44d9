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
    /// Each answer takes `trip` until then: the store is slow, but not dead.
    pub sluggish_until: Moment,
    /// How long a request and its reply take together while the store is slow.
    pub trip: Duration,
    /// One candidate, whose requests and their replies take so long together.
    pub far: Option<(usize, Duration)>,
    /// Nothing gets through until then.
    pub outage_until: Moment,
    /// The store answers "unavailable" until then.
    pub down_until: Moment,
    /// The store answers "throttled" until then.
    pub throttled_until: Moment,
    /// The pause that it asks for; by default what is left of the throttling.
    pub asks_for: Option<Duration>,
    /// The store refuses everything for want of a permission until then.
    pub denied_until: Moment,
    /// Per store: renewals grant only a part of the lease until then.
    pub stingy_until: [Moment; 2],
    /// How large a part, in percent.
    pub stingy_percent: u32,
    /// Per candidate's way to a store: requests do not get there until then.
    pub requests_cut_until: Vec<Moment>,
    /// Per candidate's way to a store: no reply or hint comes back until then.
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
    /// No faults, on so many ways to stores.
    pub fn none(routes: usize) -> Self {
        Self {
            requests_cut_until: vec![Moment::ZERO; routes],
            replies_cut_until: vec![Moment::ZERO; routes],
            ..Self::default()
        }
    }

    /// What `store` grants when it is asked to renew a lease.
    pub fn granted(&self, store: u8, lease: Duration, now: Moment) -> Duration {
        let until = self.stingy_until.get(usize::from(store));
        if until.is_some_and(|until| now < *until) {
            lease * self.stingy_percent / 100
        } else {
            lease
        }
    }

    /// Whether requests on `route` are lost now; the last one past the end is the observer's.
    pub fn cuts_requests(&self, route: usize, now: Moment) -> bool {
        now < self.outage_until || is_cut(&self.requests_cut_until, route, now)
    }

    /// Whether replies and hints on `route` are lost now.
    pub fn cuts_replies(&self, route: usize, now: Moment) -> bool {
        now < self.outage_until || is_cut(&self.replies_cut_until, route, now)
    }
}

fn is_cut(until: &[Moment], route: usize, now: Moment) -> bool {
    until.get(route).is_some_and(|until| now < *until)
}
