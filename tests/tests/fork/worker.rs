//! What the processes of a case have in common.

use std::io::Write as _;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tenure::{Election, Event, Identity, Leadership, LockBackend, LockName, Policy};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::broadcast;

use crate::{after, before, midterm};

/// Only so that a process without a director ends.
const LIMIT: Duration = Duration::from_secs(150);

/// What a process is started with.
pub(crate) struct Stage {
    role: String,
    pub(crate) url: String,
    lock: String,
    /// Where the director leaves its orders.
    orders: PathBuf,
    started: Instant,
}

impl Stage {
    /// The arguments that [`of`](Self::of) reads.
    pub(crate) fn arguments(role: &str, url: &str, lock: &str, orders: &str) -> [String; 5] {
        ["as", role, url, lock, orders].map(str::to_owned)
    }

    pub(crate) fn of(arguments: &[String]) -> Option<Self> {
        match arguments {
            [marker, role, url, lock, orders] if marker == "as" => Some(Self {
                role: role.clone(),
                url: url.clone(),
                lock: lock.clone(),
                orders: orders.into(),
                started: Instant::now(),
            }),
            _ => None,
        }
    }

    pub(crate) fn lock(&self) -> LockName {
        LockName::new(&self.lock).unwrap()
    }

    /// A lock beside the one that is led.
    pub(crate) fn other_lock(&self) -> LockName {
        LockName::new(format!("{}-other", self.lock)).unwrap()
    }

    fn has(&self, order: &str) -> bool {
        assert!(self.started.elapsed() < LIMIT, "nobody directs any more");
        let name = format!("{}-{order}", std::process::id());
        self.orders.join(name).exists()
    }

    /// Waits until the director gives this process an order.
    pub(crate) fn wait_for(&self, order: &str) {
        while !self.has(order) {
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// As [`wait_for`](Self::wait_for), and lets the runtime go on meanwhile. Cancel safe.
    pub(crate) async fn told(&self, order: &str) {
        while !self.has(order) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// A busy machine may need more than one attempt.
    pub(crate) async fn connect(&self) -> Arc<dyn LockBackend> {
        loop {
            match tenure::connect(&self.url).await {
                Ok(backend) => return backend,
                Err(error) if error.is_retryable() => say(&format!("connects again: {error}")),
                Err(error) => panic!("{error}"),
            }
        }
    }
}

/// Plays the role, and never returns into what a fork has inherited.
pub(crate) fn play(stage: &Stage) {
    // A child that unwinds would drop what it has inherited, and the parent's runtime with it.
    std::panic::set_hook(Box::new(|panic| {
        say(&format!("failed {}", panic.to_string().replace('\n', " ")));
        std::process::exit(101);
    }));
    match stage.role.as_str() {
        "before" => before::play(stage, true),
        "before-default" => before::play(stage, false),
        "after" => after::play(stage),
        "midterm" => midterm::play(stage),
        "rival" => compete_as(stage, Some("rival")),
        other => panic!("no role {other}"),
    }
    std::process::exit(0);
}

/// Tells the director, by one write.
pub(crate) fn say(what: &str) {
    let line = format!("{} {what}\n", std::process::id());
    let mut out = std::io::stdout().lock();
    out.write_all(line.as_bytes()).unwrap();
    out.flush().unwrap();
}

pub(crate) fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

/// A lease that a busy machine renews, and heartbeats that come soon.
pub(crate) fn policy() -> Policy {
    Policy::builder()
        .lease(Duration::from_secs(10))
        .heartbeat(Duration::from_secs(1))
        .request_timeout(Duration::from_secs(1))
        .retry_interval(Duration::from_millis(500))
        .stop_grace(Duration::from_secs(1))
        .build()
        .unwrap()
}

pub(crate) fn election(
    stage: &Stage,
    backend: Arc<dyn LockBackend>,
    identity: Option<&str>,
) -> Election {
    let builder = Election::builder(backend, stage.lock()).policy(policy());
    match identity {
        Some(name) => builder.identity(Identity::new(name).unwrap()),
        None => builder,
    }
    .build()
    .unwrap()
}

/// Connects, campaigns, and leads until it is told to resign.
pub(crate) fn compete_as(stage: &Stage, identity: Option<&str>) {
    runtime().block_on(async {
        let election = election(stage, stage.connect().await, identity);
        compete(stage, &election).await;
    });
}

/// Campaigns, and leads until it is told to resign.
pub(crate) async fn compete(stage: &Stage, election: &Election) {
    let mut events = election.events();
    let mut campaign = pin!(election.campaign());
    let leadership = loop {
        tokio::select! {
            biased;
            elected = &mut campaign => break elected.unwrap(),
            event = events.recv() => if let Ok(Event::LeaderSeen(holder)) = event {
                say(&format!("sees {}", holder.identity));
            }
        }
    };
    say(&format!("leads {}", leadership.token().as_u64()));
    lead(stage, leadership, events).await;
}

/// Tells of each heartbeat, until it is told to resign.
pub(crate) async fn lead(
    stage: &Stage,
    leadership: Leadership,
    mut events: broadcast::Receiver<Event>,
) {
    let token = leadership.token();
    let telling = async {
        loop {
            match events.recv().await {
                Ok(Event::Renewed { .. }) => say(&format!("renewed {}", token.as_u64())),
                Ok(Event::HeartbeatMissed { error, .. }) => say(&format!("missed {error:?}")),
                Ok(Event::SteppingDown(cause)) => say(&format!("lost {}", cause.describe())),
                Ok(_) | Err(_) => {}
            }
        }
    };
    tokio::select! {
        () = telling => {}
        () = stage.told("resign") => {}
    }
    // Said first: from the call on the next one may lead.
    say("resigns");
    leadership.resign().await.unwrap();
    say("resigned");
}
