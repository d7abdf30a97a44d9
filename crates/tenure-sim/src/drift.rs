//! How fast a clock runs.

use std::time::Duration;

const MILLION: u128 = 1_000_000;

/// A constant drift against true time.
#[derive(Clone, Copy, Debug)]
pub struct Drift {
    /// So many microseconds are gained each second.
    pub ppm: i64,
}

impl Drift {
    fn rate(self) -> u128 {
        u128::try_from(1_000_000 + self.ppm).unwrap_or(MILLION)
    }

    /// By how much the clock advances during `true_time`.
    pub fn shown(self, true_time: Duration) -> Duration {
        nanos(true_time.as_nanos() * self.rate() / MILLION)
    }

    /// How much true time passes while the clock advances by `duration`, rounded up.
    pub fn true_time(self, duration: Duration) -> Duration {
        nanos((duration.as_nanos() * MILLION).div_ceil(self.rate()))
    }
}

fn nanos(nanos: u128) -> Duration {
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}
