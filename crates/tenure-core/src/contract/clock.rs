//! The clock that validity is judged by.
//!
//! A holder may lead only while its own clock says so (invariant I1), so the clock must go on
//! during suspend. `std` and `tokio` instants read `CLOCK_MONOTONIC`, which stops then;
//! [`BootClock`] reads `CLOCK_BOOTTIME`, which does not.

use std::fmt;
use std::ops::Add;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

/// A point on one host's clock, in nanoseconds since that clock's start.
///
/// Only durations between two times of the same clock mean anything: a `Time` is never sent to
/// another host and never compared with one from there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(u64);

impl Time {
    /// The start of the clock.
    pub const ZERO: Self = Self(0);

    /// A time so many nanoseconds after the clock's start.
    #[inline]
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds since the clock's start.
    #[inline]
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// How long after `earlier` this is; zero when it is not after it.
    #[inline]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// This time moved back by `duration`, at most to the clock's start.
    #[must_use]
    pub fn minus(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(nanos(duration)))
    }
}

impl Add<Duration> for Time {
    type Output = Self;

    /// Saturates: a duration of 68 years in a foreign record must not wrap round to the past.
    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(nanos(duration)))
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// A source of [`Time`] and of waiting, one per host (in a simulation: one per candidate).
#[async_trait]
pub trait Clock: fmt::Debug + Send + Sync + 'static {
    /// The time now. Never goes back, and goes on while the host is suspended.
    fn now(&self) -> Time;

    /// Returns when [`now`](Self::now) has reached `deadline`, possibly late, never early.
    ///
    /// Cancel safe: dropping the future has no effect. The default waits on tokio's timer, which
    /// stands still during suspend, and looks at the clock again before it returns. So a wait
    /// that spans a suspend ends late by up to the time that was left of it. Code that acts on
    /// a deadline therefore compares the clock itself.
    async fn sleep_until(&self, deadline: Time) {
        loop {
            let now = self.now();
            if now >= deadline {
                return;
            }
            tokio::time::sleep(deadline.since(now)).await;
        }
    }
}

/// A clock as it is shared by a backend, its elections and their terms.
pub type SharedClock = Arc<dyn Clock>;

/// The host's boot clock (`CLOCK_BOOTTIME`): runs during suspend, untouched by wall-clock jumps.
///
/// On systems without it this is `CLOCK_MONOTONIC`; there a suspended leader may believe after
/// waking that it still leads, until the store refuses its next heartbeat.
#[derive(Clone, Copy, Debug, Default)]
pub struct BootClock;

impl BootClock {
    /// The boot clock as a [`SharedClock`].
    pub fn shared() -> SharedClock {
        Arc::new(Self)
    }
}

impl Clock for BootClock {
    fn now(&self) -> Time {
        #[cfg(any(target_os = "linux", target_os = "android", target_os = "fuchsia"))]
        const CLOCK: rustix::time::ClockId = rustix::time::ClockId::Boottime;
        #[cfg(not(any(target_os = "linux", target_os = "android", target_os = "fuchsia")))]
        const CLOCK: rustix::time::ClockId = rustix::time::ClockId::Monotonic;

        let now = rustix::time::clock_gettime(CLOCK);
        // Neither part is ever negative on a clock that counts from boot.
        let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
        let nanos = u64::try_from(now.tv_nsec).unwrap_or(0);
        Time(seconds.saturating_mul(1_000_000_000).saturating_add(nanos))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adding_a_huge_duration_saturates() {
        let later = Time::from_nanos(5) + Duration::from_secs(u64::MAX);
        assert_eq!(later, Time::from_nanos(u64::MAX));
        assert_eq!(Time::from_nanos(5).minus(Duration::MAX), Time::ZERO);
    }

    #[test]
    fn the_boot_clock_does_not_go_back() {
        let first = BootClock.now();
        assert!(first > Time::ZERO);
        assert!(BootClock.now() >= first);
    }
}
