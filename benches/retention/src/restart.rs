//! A restart of the servers under leaders and waiting candidates: terms lost, the time until all
//! locks are led again, and how the new connections are spread over time.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::Duration;

use anyhow::Result;
use tokio::time::{Instant, sleep};

use crate::cell::Elector;
use crate::electors::{Electors, Event, Plan};
use crate::late::Late;
use crate::store::Store;

/// For how long the servers are down.
const DOWN: Duration = Duration::from_secs(2);

/// For how long it is watched: each term that the restart costs is lost by then.
const WATCHED: Duration = Duration::from_secs(60);

/// How often the connections are counted.
const LOOKS: Duration = Duration::from_millis(20);

/// [`CLIENTS`](crate::namespaces::CLIENTS) as the kernel writes it.
const CLIENTS_IN_HEX: &str = "0101530A";

/// What a restart gave.
#[derive(Clone, Debug, Default)]
pub(crate) struct Restart {
    pub(crate) leaders: usize,
    pub(crate) waiting: usize,
    pub(crate) lost: usize,
    pub(crate) how: BTreeMap<String, usize>,
    /// From the crash until the servers serve.
    pub(crate) down: Duration,
    /// From the time that the servers serve until all locks are led; `None`: not while watched.
    pub(crate) all_led: Option<Duration>,
    /// When each new connection was seen, from the first of them on.
    pub(crate) connections: Vec<Duration>,
    pub(crate) late: u64,
}

impl Restart {
    /// The most new connections in a tenth of a second.
    pub(crate) fn most_at_once(&self) -> usize {
        let all = &self.connections;
        let within = |from: &Duration| {
            let until = *from + Duration::from_millis(100);
            all.iter().filter(|at| (*from..until).contains(*at)).count()
        };
        all.iter().map(within).max().unwrap_or_default()
    }
}

/// Restarts the servers under so many candidates.
pub(crate) async fn restart(
    store: &mut Store,
    namespaces: &str,
    [leaders, waiting]: [usize; 2],
    lock: String,
    late: &Late,
) -> Result<Restart> {
    let (elector, part) = (Elector::Default, "clients");
    let plan = Plan {
        namespaces,
        part,
        elector,
        leaders,
        waiting,
        lock,
    };
    let mut electors = Electors::start(store, &plan)?;
    electors.all_lead().await?;
    // Until the waiting candidates have looked, and each leader has renewed.
    let settled = Instant::now() + Duration::from_secs(12);
    while electors.next(settled).await?.is_some() {}
    electors.late = 0;
    late.take();
    let before = connections(&store.ports());
    let mut outcome = Restart {
        leaders,
        waiting,
        ..Restart::default()
    };
    let crash = Instant::now();
    store.crash();
    let ports = store.ports();
    let counting = tokio::spawn(count(ports, before, crash + WATCHED));
    let starting = async {
        sleep(DOWN).await;
        store.start_again().await;
        Instant::now()
    };
    let watching = watch(&mut electors, &mut outcome, crash + WATCHED);
    let (serves, led) = tokio::join!(starting, watching);
    outcome.down = serves - crash;
    outcome.all_led = led?.map(|led| led.saturating_duration_since(serves));
    let seen = counting.await?;
    let first = seen.first().copied().unwrap_or(crash);
    outcome.connections = seen.iter().map(|at| *at - first).collect();
    outcome.late = late.take().max(electors.late);
    Ok(outcome)
}

/// The last time when all locks were led again; `None` if they are not at the end.
async fn watch(
    electors: &mut Electors,
    outcome: &mut Restart,
    until: Instant,
) -> Result<Option<Instant>> {
    let mut led = Some(Instant::now());
    let mut lost = BTreeSet::new();
    while let Some((at, event)) = electors.next(until).await? {
        if let Event::Stopped(number, cause) = event
            && lost.insert(number)
        {
            *outcome.how.entry(cause).or_default() += 1;
        }
        if !electors.is_led() {
            led = None;
        } else if led.is_none() {
            led = Some(at);
        }
    }
    outcome.lost = lost.len();
    Ok(led)
}

/// When each connection that was not there before was first seen.
async fn count(ports: Vec<u16>, mut known: BTreeSet<(u16, u16)>, until: Instant) -> Vec<Instant> {
    let mut seen = Vec::new();
    while Instant::now() < until {
        let now = Instant::now();
        for connection in connections(&ports) {
            if known.insert(connection) {
                seen.push(now);
            }
        }
        sleep(LOOKS).await;
    }
    seen
}

/// The established connections from the clients' namespace to these ports: both ports of each.
fn connections(ports: &[u16]) -> BTreeSet<(u16, u16)> {
    let text = ["/proc/net/tcp", "/proc/net/tcp6"]
        .map(|file| fs::read_to_string(file).unwrap_or_default());
    let lines = text.iter().flat_map(|text| text.lines().skip(1));
    let parsed = lines.filter_map(|line| {
        let mut words = line.split_whitespace().skip(1);
        let (ours, theirs, state) = (words.next()?, words.next()?, words.next()?);
        let port = |address: &str| u16::from_str_radix(address.rsplit_once(':')?.1, 16).ok();
        let host = theirs.rsplit_once(':')?.0;
        let (ours, theirs) = (port(ours)?, port(theirs)?);
        let established = "01";
        let is_client = state == established && host.ends_with(CLIENTS_IN_HEX);
        (is_client && ports.contains(&ours)).then_some((ours, theirs))
    });
    parsed.collect()
}
