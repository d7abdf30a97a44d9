//! The clocks: whole ticks of true time, at which each clock moves by its own rate.

use std::hash::Hasher;
use std::time::Duration;

use tenure_core::Time;

/// How far the clocks drift at most, in percent: the largest bound that a policy may have.
pub(crate) const DRIFT_PERCENT: u32 = 10;

/// How far the clock of a slow candidate, a fast one, an exact one and of the store moves in a
/// tick of one second.
pub(crate) const SLOW: Duration = Duration::from_millis(900);
pub(crate) const FAST: Duration = Duration::from_millis(1100);
pub(crate) const EXACT: Duration = Duration::from_secs(1);

/// Where all clocks begin: so far from zero that a time is never taken for a duration.
pub(crate) const START: Time = Time::from_nanos(4_000_000_000 * 1_000_000_000);

/// What is larger than this is a time.
const FLOOR: u64 = 2_000_000_000 * 1_000_000_000;

/// Hashes times as their distance from `now`: two states that differ only in when they happen are
/// one state.
pub(crate) struct Rebased<'a, H> {
    pub(crate) inner: &'a mut H,
    pub(crate) now: Time,
    /// How long ago something was makes no difference.
    pub(crate) past_is_past: bool,
}

impl<H: Hasher> Hasher for Rebased<'_, H> {
    fn finish(&self) -> u64 {
        self.inner.finish()
    }

    fn write(&mut self, bytes: &[u8]) {
        self.inner.write(bytes);
    }

    fn write_u64(&mut self, value: u64) {
        let now = self.now.as_nanos();
        let rebased = if value >= FLOOR {
            let earliest = if self.past_is_past { now } else { 0 };
            value.max(earliest).wrapping_sub(now)
        } else {
            value
        };
        self.inner.write_u64(rebased);
    }
}
