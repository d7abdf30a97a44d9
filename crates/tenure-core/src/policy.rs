//! The heartbeat and timeout policy, one for all stores.

#[cfg(feature = "serde")]
mod serialised;
#[cfg(test)]
mod tests;

use std::fmt;
use std::time::Duration;

use crate::contract::capabilities::Capabilities;
use crate::contract::error::Error;
use crate::record::store::MAX_LEASE;

/// The shortest lease any policy may have.
const MIN_LEASE: Duration = Duration::from_millis(10);

/// How a leader proves that it is alive, and when the others take it for dead.
///
/// | | default | [`client_go`](Self::client_go) | [`fast`](Self::fast) | [`patient`](Self::patient) |
/// |---|---|---|---|---|
/// | lease: others wait so long after the last heartbeat | 20 s | 15 s | 3 s | 60 s |
/// | heartbeat: renewed so often | 10 s | 2 s | 1 s | 10 s |
/// | request timeout: a call without an answer has failed | 3 s | 2 s | 500 ms | 3 s |
/// | retry interval: pause after a failed call | 1 s | 2 s | 250 ms | 1 s |
/// | stop grace: time the work gets to stop, inside the validity | 1.5 s | 2.9 s | 400 ms | 1.5 s |
///
/// From these follows the **validity**: how long after sending its last successful heartbeat a
/// holder may believe that it leads. It is the lease shortened by what two clocks may drift apart,
/// less a small margin (invariant I2). The work is told to stop one stop grace before the validity
/// ends (I4). Between a missed heartbeat and that moment the leader retries; [`tolerance`]
/// says what that is good for.
///
/// [`tolerance`]: Self::tolerance
///
/// A policy that could not survive a single slow heartbeat is refused when it is built:
///
/// ```
/// # use std::time::Duration;
/// # use tenure_core::Policy;
/// let error = Policy::builder()
///     .lease(Duration::from_secs(20))
///     .heartbeat(Duration::from_secs(17))
///     .build()
///     .unwrap_err();
/// assert!(error.to_string().contains("heartbeat"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(
    feature = "serde",
    serde(try_from = "serialised::Policy", into = "serialised::Policy")
)]
pub struct Policy {
    lease: Duration,
    heartbeat: Duration,
    request_timeout: Duration,
    retry_interval: Duration,
    stop_grace: Duration,
    jitter_percent: u8,
    drift_ppm: u32,
}

impl Default for Policy {
    /// A heartbeat every 10 s; a leader that misses two in a row (20 s) is taken for dead.
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(20),
            heartbeat: Duration::from_secs(10),
            request_timeout: Duration::from_secs(3),
            retry_interval: Duration::from_secs(1),
            stop_grace: Duration::from_millis(1500),
            jitter_percent: 20,
            drift_ppm: 500,
        }
    }
}

impl Policy {
    /// The rhythm of Kubernetes' own components: lease 15 s, renew deadline 10 s, retry 2 s.
    ///
    /// client-go renews every retry period, so the heartbeat is 2 s. Its renew deadline of 10 s
    /// counts from the start of the first renewal that fails, 12 s after the last one that
    /// succeeded: the stop grace is what is left of the validity then.
    pub fn client_go() -> Self {
        Self {
            lease: Duration::from_secs(15),
            heartbeat: Duration::from_secs(2),
            request_timeout: Duration::from_secs(2),
            retry_interval: Duration::from_secs(2),
            stop_grace: Duration::from_millis(2900),
            ..Self::default()
        }
    }

    /// A lease of 3 s and a heartbeat every second, for services that cannot wait.
    pub fn fast() -> Self {
        Self {
            lease: Duration::from_secs(3),
            heartbeat: Duration::from_secs(1),
            request_timeout: Duration::from_millis(500),
            retry_interval: Duration::from_millis(250),
            stop_grace: Duration::from_millis(400),
            ..Self::default()
        }
    }

    /// A lease of 60 s and a heartbeat every 10 s: an outage of the store of 47 s changes no
    /// leader. After a crash the others wait 60 s on a store that does not report the death of a
    /// process.
    pub fn patient() -> Self {
        Self {
            lease: Duration::from_secs(60),
            ..Self::default()
        }
    }

    /// A builder that starts from the default policy.
    pub fn builder() -> PolicyBuilder {
        Self::default().to_builder()
    }

    /// A builder that starts from this policy.
    pub fn to_builder(&self) -> PolicyBuilder {
        PolicyBuilder {
            base: self.clone(),
            ..PolicyBuilder::default()
        }
    }

    /// How long others wait after the last heartbeat they know of.
    pub fn lease(&self) -> Duration {
        self.lease
    }

    /// How often a leader renews.
    pub fn heartbeat(&self) -> Duration {
        self.heartbeat
    }

    /// After this a call to the store counts as failed. A candidate's next call has twice as long,
    /// up to what a term can live with.
    pub fn request_timeout(&self) -> Duration {
        self.request_timeout
    }

    /// The pause after a failed call, and between looks at a store that cannot wake its waiters. After
    /// a heartbeat without an answer the time that it had counts as the pause.
    pub fn retry_interval(&self) -> Duration {
        self.retry_interval
    }

    /// How long an attempt to renew after a failed one may stay without an answer before the next
    /// one begins. It is the retry interval, but at least a third of the request timeout and never
    /// more than it.
    pub(crate) fn retry_timeout(&self) -> Duration {
        let least = self.request_timeout / 3;
        self.retry_interval.max(least).min(self.request_timeout)
    }

    /// The time the work gets to stop, inside the validity.
    pub fn stop_grace(&self) -> Duration {
        self.stop_grace
    }

    /// By how much, in percent, retries and looks are shortened at random to keep a herd apart.
    pub fn jitter_percent(&self) -> u8 {
        self.jitter_percent
    }

    /// How far any two clocks may drift from true time, in parts per million.
    pub fn drift_ppm(&self) -> u32 {
        self.drift_ppm
    }

    /// How long after sending its last successful heartbeat a holder may believe that it leads.
    pub fn validity(&self) -> Duration {
        self.validity_of(self.lease)
    }

    /// The validity of a lease that the store granted: `L (1-r)/(1+r)` less a margin (I2).
    ///
    /// The holder's clock may be slow and the observer's fast, each by the drift bound r. The
    /// margin, half a percent of the lease and at most 100 ms, covers the time between reading
    /// the clock and acting on it.
    pub fn validity_of(&self, lease: Duration) -> Duration {
        let ppm = u128::from(self.drift_ppm);
        let shrunk = lease.as_nanos() * (1_000_000 - ppm) / (1_000_000 + ppm);
        let margin = (lease / 200).min(Duration::from_millis(100));
        // The product is below the lease, which is at most an hour or what a store granted.
        let shrunk = Duration::from_nanos(u64::try_from(shrunk).unwrap_or(u64::MAX));
        shrunk.saturating_sub(margin)
    }

    /// What this policy survives without a change of leader.
    pub fn tolerance(&self) -> Tolerance {
        let work_time = self.validity().saturating_sub(self.stop_grace);
        let spare = work_time.saturating_sub(self.request_timeout);
        // Measured from a heartbeat: the last attempt begins then.
        let last_attempt = work_time
            .saturating_sub(self.retry_timeout())
            .saturating_sub(self.heartbeat);
        let heartbeats = spare.as_nanos() / self.heartbeat.as_nanos();
        Tolerance {
            // The policy was checked, so at least one heartbeat fits.
            lost_heartbeats: u32::try_from(heartbeats)
                .unwrap_or(u32::MAX)
                .saturating_sub(1),
            outage: if last_attempt < self.request_timeout {
                Duration::ZERO
            } else {
                last_attempt
            },
        }
    }

    /// Refuses this policy if a store with these capabilities cannot grant it.
    pub fn check_for(&self, capabilities: &Capabilities) -> Result<(), Error> {
        if self.lease < capabilities.min_lease {
            return Err(Error::misconfigured(format!(
                "the lease of {:?} is shorter than the {:?} that {} can grant; use a longer lease",
                self.lease, capabilities.min_lease, capabilities.store
            )));
        }
        let granularity = capabilities.lease_granularity.as_nanos().max(1);
        if !self.lease.as_nanos().is_multiple_of(granularity) {
            return Err(Error::misconfigured(format!(
                "the lease of {:?} is not a multiple of {:?}, the granularity of {}; round it up",
                self.lease, capabilities.lease_granularity, capabilities.store
            )));
        }
        Ok(())
    }

    fn check(self) -> Result<Self, Error> {
        self.check_ranges()?;
        if self.request_timeout > self.heartbeat {
            return Err(Error::misconfigured(format!(
                "the request timeout of {:?} is longer than the heartbeat of {:?}, so requests \
                 would pile up; make it at most the heartbeat",
                self.request_timeout, self.heartbeat
            )));
        }
        let needed = self.heartbeat + self.request_timeout;
        let available = self.validity().checked_sub(self.stop_grace);
        if available.is_none_or(|available| needed > available) {
            return Err(Error::misconfigured(format!(
                "a heartbeat of {:?} plus a request timeout of {:?} is {needed:?}, but a lease of \
                 {:?} is valid for {:?}, and less the stop grace of {:?} only {:?} are left for \
                 them; use a longer lease, or a shorter heartbeat, request timeout or stop grace",
                self.heartbeat,
                self.request_timeout,
                self.lease,
                self.validity(),
                self.stop_grace,
                available.unwrap_or_default(),
            )));
        }
        Ok(self)
    }

    fn check_ranges(&self) -> Result<(), Error> {
        if self.lease < MIN_LEASE || self.lease > MAX_LEASE {
            return Err(Error::misconfigured(format!(
                "the lease of {:?} is outside {MIN_LEASE:?} to {MAX_LEASE:?}",
                self.lease
            )));
        }
        for (name, value) in [
            ("heartbeat", self.heartbeat),
            ("request timeout", self.request_timeout),
            ("retry interval", self.retry_interval),
        ] {
            if value < Duration::from_millis(1) || value > MAX_LEASE {
                return Err(Error::misconfigured(format!(
                    "the {name} of {value:?} is outside 1ms to {MAX_LEASE:?}"
                )));
            }
        }
        if self.stop_grace > MAX_LEASE {
            return Err(Error::misconfigured(format!(
                "the stop grace of {:?} is above {MAX_LEASE:?}",
                self.stop_grace
            )));
        }
        if self.jitter_percent > 100 {
            return Err(Error::misconfigured(format!(
                "a jitter of {} % is above 100 %",
                self.jitter_percent
            )));
        }
        if self.drift_ppm > 100_000 {
            return Err(Error::misconfigured(format!(
                "a drift bound of {} ppm is above 100000 ppm (10 %); crystal clocks under NTP stay \
                 within 500 ppm",
                self.drift_ppm
            )));
        }
        Ok(())
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "lease {:?}, heartbeat {:?}, request timeout {:?}, stop grace {:?}: valid for {:?} \
             after a heartbeat; {}",
            self.lease,
            self.heartbeat,
            self.request_timeout,
            self.stop_grace,
            self.validity(),
            self.tolerance()
        )
    }
}

/// What a [`Policy`] survives without a change of leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Tolerance {
    /// So many heartbeats in a row may be lost whole, with all their retries.
    pub lost_heartbeats: u32,
    /// An outage of the store so long is survived whenever it begins, by retrying: silent, or
    /// refused. Once the store is back, a connection and a renewal must fit into what is left: the
    /// retry interval, but at least a third of the request timeout.
    pub outage: Duration,
}

impl fmt::Display for Tolerance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "survives {} lost heartbeats in a row and a store outage of {:?} at any moment",
            self.lost_heartbeats, self.outage
        )
    }
}

/// Builds a [`Policy`] from another one.
///
/// When the lease is set, the durations that are not set are scaled with it: `lease(10 s)` alone
/// gives the default policy at half its size. A request timeout that is not set follows a
/// heartbeat set below it.
#[derive(Clone, Debug, Default)]
pub struct PolicyBuilder {
    base: Policy,
    lease: Option<Duration>,
    heartbeat: Option<Duration>,
    request_timeout: Option<Duration>,
    retry_interval: Option<Duration>,
    stop_grace: Option<Duration>,
    jitter_percent: Option<u8>,
    drift_ppm: Option<u32>,
}

macro_rules! setters {
    ($($(#[$doc:meta])* $name:ident: $type:ty),* $(,)?) => {$(
        $(#[$doc])*
        #[must_use]
        pub fn $name(mut self, $name: $type) -> Self {
            self.$name = Some($name);
            self
        }
    )*};
}

impl PolicyBuilder {
    setters! {
        /// See [`Policy::lease`].
        lease: Duration,
        /// See [`Policy::heartbeat`].
        heartbeat: Duration,
        /// See [`Policy::request_timeout`].
        request_timeout: Duration,
        /// See [`Policy::retry_interval`].
        retry_interval: Duration,
        /// See [`Policy::stop_grace`].
        stop_grace: Duration,
        /// See [`Policy::jitter_percent`].
        jitter_percent: u8,
        /// See [`Policy::drift_ppm`].
        drift_ppm: u32,
    }

    /// The policy, or a [`Misconfigured`](crate::ErrorKind::Misconfigured) error with the numbers
    /// that do not fit.
    pub fn build(self) -> Result<Policy, Error> {
        let base = &self.base;
        let scaled = |given: Option<Duration>, of: Duration| {
            given.unwrap_or_else(|| match self.lease {
                Some(lease) => scale(of, lease, base.lease),
                None => of,
            })
        };
        let heartbeat = scaled(self.heartbeat, base.heartbeat);
        Policy {
            lease: self.lease.unwrap_or(base.lease),
            heartbeat,
            // Not set, it follows a heartbeat that was set below it.
            request_timeout: self
                .request_timeout
                .unwrap_or_else(|| scaled(None, base.request_timeout).min(heartbeat)),
            retry_interval: scaled(self.retry_interval, base.retry_interval),
            stop_grace: scaled(self.stop_grace, base.stop_grace),
            jitter_percent: self.jitter_percent.unwrap_or(base.jitter_percent),
            drift_ppm: self.drift_ppm.unwrap_or(base.drift_ppm),
        }
        .check()
    }
}

/// `duration * to / from`, for a lease that may be anything a user typed.
fn scale(duration: Duration, to: Duration, from: Duration) -> Duration {
    let nanos = duration.as_nanos().saturating_mul(to.as_nanos()) / from.as_nanos().max(1);
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

#[cfg(feature = "serde")]
impl From<Policy> for serialised::Policy {
    fn from(policy: Policy) -> Self {
        let millis = |d: Duration| Some(u64::try_from(d.as_millis()).unwrap_or(u64::MAX));
        Self {
            lease_ms: millis(policy.lease),
            heartbeat_ms: millis(policy.heartbeat),
            request_timeout_ms: millis(policy.request_timeout),
            retry_interval_ms: millis(policy.retry_interval),
            stop_grace_ms: millis(policy.stop_grace),
            jitter_percent: Some(policy.jitter_percent),
            drift_ppm: Some(policy.drift_ppm),
        }
    }
}

#[cfg(feature = "serde")]
impl TryFrom<serialised::Policy> for Policy {
    type Error = Error;

    fn try_from(policy: serialised::Policy) -> Result<Self, Error> {
        let millis = |given: Option<u64>| given.map(Duration::from_millis);
        PolicyBuilder {
            base: Self::default(),
            lease: millis(policy.lease_ms),
            heartbeat: millis(policy.heartbeat_ms),
            request_timeout: millis(policy.request_timeout_ms),
            retry_interval: millis(policy.retry_interval_ms),
            stop_grace: millis(policy.stop_grace_ms),
            jitter_percent: policy.jitter_percent,
            drift_ppm: policy.drift_ppm,
        }
        .build()
    }
}
