//! What a seed decides before a simulation starts.

use std::time::Duration;

use fastrand::Rng;
use tenure_core::{Policy, Wakeup};

/// The bound on the drift of every clock that the policies rely on.
pub const DRIFT_PPM: i64 = 500;

/// Where the clock of a host that all share starts.
const HOST_OFFSET: Duration = Duration::from_secs(5_000);

/// The kind of store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// A record with compare-and-swap, judged by observation, like a Kubernetes Lease.
    Records,
    /// A key that expires by the store's own clock, like Redis.
    Ttl,
    /// Sessions that hold locks and stand in a queue for them, like etcd.
    Session,
}

/// What a store of records knows of a holder beyond its record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Knowledge {
    /// Nothing: leases are judged by observation.
    #[default]
    None,
    /// When its lease ends: all are on one host and have its clock.
    End,
    /// That too, and whether its process has ended.
    Death,
}

/// How a simulation is set up.
#[expect(clippy::struct_excessive_bools, reason = "each is drawn by itself")]
#[derive(Clone, Debug)]
pub struct Plan {
    /// The seed.
    pub seed: u64,
    /// The store.
    pub family: Family,
    /// How candidates of the store are woken.
    pub wakeup: Wakeup,
    /// Whether hints say only that something has changed.
    pub terse_hints: bool,
    /// The candidates.
    pub candidates: Vec<CandidatePlan>,
    /// The drift of the store's clock.
    pub store_ppm: i64,
    /// Streams of hints end at times.
    pub hints_end: bool,
    /// Timers fire late in bad weather.
    pub late_timers: bool,
    /// The store may lose its state: then only what needs no durable store is asserted.
    pub amnesia: bool,
    /// The versions of a record begin again after a deletion, and the tokens with them.
    pub repeats: bool,
    /// What a store of records knows of a holder.
    pub knowledge: Knowledge,
    /// A client of sessions is told when one has ended.
    pub tells_of_loss: bool,
    /// A client of sessions seldom proves by itself that a leader's session lives.
    pub lazy_keepalives: bool,
    /// A heartbeat without an answer goes on while others are sent.
    pub heartbeats_overlap: bool,
    /// The first two candidates are one process whose memory was copied: they have one name, and
    /// draw the same numbers.
    pub clones: bool,
    /// How much true time is simulated before everybody is told to stop.
    pub length: Duration,
    /// How bad the network is while it is bad.
    pub storm: Storm,
}

/// One candidate.
#[derive(Clone, Debug)]
pub struct CandidatePlan {
    /// Its policy.
    pub policy: Policy,
    /// Its clock's drift.
    pub ppm: i64,
    /// Where its clock started.
    pub offset: Duration,
    /// Its name; two candidates of a badly set up fleet share one (hazard 19).
    pub name: String,
    /// How long its term is kept up for work that is stopping.
    pub drain_limit: Duration,
}

/// Probabilities of what happens to a message, in percent.
#[derive(Clone, Copy, Debug)]
pub struct Storm {
    /// The request is lost.
    pub lose_request: u8,
    /// The request is applied, the reply lost.
    pub lose_reply: u8,
    /// The request is applied a second time, later.
    pub repeat: u8,
    /// The message takes up to 12 s.
    pub slow: u8,
    /// A hint is lost.
    pub lose_hint: u8,
}

impl Plan {
    /// The plan of `seed`.
    pub fn new(seed: u64, length: Duration) -> Self {
        let mut rng = Rng::with_seed(seed ^ 0x7465_6e75_7265);
        let family = match rng.u8(0..20) {
            0..9 => Family::Records,
            9..15 => Family::Ttl,
            _ => Family::Session,
        };
        let wakeup = if rng.u8(0..5) == 0 {
            Wakeup::Poll
        } else {
            Wakeup::Push
        };
        let long = rng.u8(0..10) == 0;
        let uniform = (rng.u8(0..3) == 0).then(|| policy(&mut rng, long));
        let twins = rng.u8(0..8) == 0;
        let candidates = (0..rng.usize(3..=7))
            .map(|index| CandidatePlan {
                policy: uniform.clone().unwrap_or_else(|| policy(&mut rng, long)),
                ppm: drift(&mut rng),
                offset: Duration::from_millis(rng.u64(1_000_000..100_000_000)),
                name: if twins && index < 2 {
                    "twin".to_owned()
                } else {
                    format!("host-{index}")
                },
                drain_limit: Duration::from_secs(rng.u64(5..35)),
            })
            .collect();
        let terse_hints = rng.u8(0..3) == 0;
        let store_ppm = drift(&mut rng);
        let mut plan = Self {
            seed,
            family,
            wakeup,
            terse_hints,
            candidates,
            store_ppm,
            hints_end: rng.u8(0..6) == 0,
            late_timers: rng.u8(0..3) == 0,
            amnesia: rng.u8(0..20) == 0,
            repeats: false,
            knowledge: Knowledge::None,
            tells_of_loss: false,
            lazy_keepalives: false,
            heartbeats_overlap: false,
            clones: false,
            length,
            storm: Storm {
                lose_request: rng.u8(0..15),
                lose_reply: rng.u8(0..15),
                repeat: rng.u8(0..20),
                slow: rng.u8(0..30),
                lose_hint: rng.u8(0..50),
            },
        };
        match family {
            Family::Records => match rng.u8(0..8) {
                0 | 1 => plan.repeats = true,
                2 => plan.share_a_host(Knowledge::End),
                3 => plan.share_a_host(Knowledge::Death),
                _ => {}
            },
            Family::Session => {
                plan.tells_of_loss = rng.bool();
                plan.lazy_keepalives = rng.bool();
            }
            Family::Ttl => {}
        }
        plan.heartbeats_overlap = rng.u8(0..3) > 0;
        plan
    }

    /// All candidates and the store have one clock.
    fn share_a_host(&mut self, knowledge: Knowledge) {
        self.knowledge = knowledge;
        for candidate in &mut self.candidates {
            candidate.ppm = self.store_ppm;
            candidate.offset = HOST_OFFSET;
        }
    }

    /// Where the clock of whoever is no candidate starts, and its drift.
    pub fn onlooker(&self) -> (Duration, i64) {
        match self.knowledge {
            Knowledge::None => (Duration::from_secs(1), 0),
            Knowledge::End | Knowledge::Death => (HOST_OFFSET, self.store_ppm),
        }
    }

    /// The same fleet, whose first two candidates are clones.
    #[must_use]
    pub fn with_clones(mut self) -> Self {
        self.clones = true;
        for candidate in self.candidates.iter_mut().take(2) {
            "twin".clone_into(&mut candidate.name);
        }
        self
    }

    /// The longest lease of all candidates.
    pub fn longest_lease(&self) -> Duration {
        self.longest(Policy::lease)
    }

    /// The longest of one duration of all policies.
    pub fn longest(&self, of: impl Fn(&Policy) -> Duration) -> Duration {
        let durations = self.candidates.iter().map(|c| of(&c.policy));
        durations.max().unwrap_or_default()
    }
}

/// Often at the very bound, since that is where the margins are used up.
fn drift(rng: &mut Rng) -> i64 {
    match rng.u8(0..4) {
        0 => DRIFT_PPM,
        1 => -DRIFT_PPM,
        _ => rng.i64(-DRIFT_PPM..=DRIFT_PPM),
    }
}

fn policy(rng: &mut Rng, long: bool) -> Policy {
    let millis = Duration::from_millis;
    let builder = match rng.u8(0..if long { 9 } else { 7 }) {
        0 | 1 => return Policy::default(),
        2 => return Policy::client_go(),
        3 => return Policy::fast(),
        4 => Policy::builder().lease(millis(6_000)),
        5 => Policy::builder()
            .lease(millis(10_000))
            .heartbeat(millis(2_000))
            .request_timeout(millis(1_000))
            .retry_interval(millis(500))
            .stop_grace(millis(1_500))
            .jitter_percent(0),
        6 => Policy::builder()
            .lease(millis(5_000))
            .heartbeat(millis(1_500))
            .request_timeout(millis(1_500))
            .retry_interval(millis(300))
            .stop_grace(Duration::ZERO)
            .jitter_percent(80),
        _ => Policy::builder()
            .lease(millis(120_000))
            .request_timeout(millis(5_000)),
    };
    // Each of these is within the inequalities; a change of those shows up here at once.
    builder.build().unwrap_or_default()
}
