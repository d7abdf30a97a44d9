//! A wish that the leader resign, as far as its session knows.

use std::time::Duration;

use tenure_core::Time;

#[derive(Default)]
pub(super) struct WishState {
    until: Option<Time>,
    told: bool,
    in_value: bool,
}

impl WishState {
    /// The key's value has a wish with so much time left, or none. One that was found counts to its
    /// end, also when the leader has removed it.
    pub(super) fn found(&mut self, left: Option<Duration>, now: Time) {
        self.in_value = left.is_some();
        let until = left.map(|left| now + left).filter(|until| now < *until);
        self.until = until.or(self.until.filter(|until| now < *until));
    }

    /// The leader has written its value.
    pub(super) fn is_overwritten(&mut self) {
        self.in_value = false;
    }

    /// Until when the leader is asked to resign: what the answer to a heartbeat tells it.
    pub(super) fn tell(&mut self) -> Option<Time> {
        self.told |= self.until.is_some();
        self.until
    }

    /// The value has a wish that is over or was told. Go's `concurrency` takes it for a part of the
    /// value.
    pub(super) fn is_old(&self) -> bool {
        self.in_value && (self.told || self.until.is_none())
    }
}
