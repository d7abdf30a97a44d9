//! One cell: 200 leaders, one outage, and who has lost the term.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::Result;
use tokio::task::block_in_place;
use tokio::time::{Instant, sleep_until};

use crate::cell::{Cell, Fault};
use crate::electors::{Electors, Event, Plan};
use crate::late::Late;
use crate::namespaces::lose_packets;
use crate::store::Store;

/// A process whose task wakes up later than this was starved, in milliseconds.
const STARVED: u64 = 500;

/// What a cell gave.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) leaders: usize,
    /// How many terms were lost.
    pub(crate) lost: usize,
    /// How many by each cause.
    pub(crate) how: BTreeMap<String, usize>,
    /// From the outage's begin until each of them was lost.
    pub(crate) lost_after: Vec<Duration>,
    /// Terms that ended before the outage.
    pub(crate) early: usize,
    /// From the outage's end until the locks whose term was lost were led again.
    pub(crate) led_again: Vec<Duration>,
    /// How long the outage lasted.
    pub(crate) lasted: Duration,
    /// The longest delay of a task, in milliseconds.
    pub(crate) late: u64,
}

impl Outcome {
    /// Why this is no result.
    pub(crate) fn spoiled(&self) -> Option<String> {
        if self.late > STARVED {
            return Some(format!("a task woke up {} ms late", self.late));
        }
        let early = self.early;
        (early > 0).then(|| format!("{early} terms ended before the outage"))
    }
}

/// Measures one cell.
pub(crate) async fn measure(
    store: &Store,
    namespaces: &str,
    cell: Cell,
    leaders: usize,
    lock: String,
    late: &Late,
) -> Result<Outcome> {
    let part = if cell.fault == Fault::Silent {
        "clients"
    } else {
        "servers"
    };
    let elector = cell.elector;
    let plan = Plan {
        namespaces,
        part,
        elector,
        leaders,
        waiting: 0,
        lock,
    };
    let mut electors = Electors::start(store, &plan)?;
    electors.all_lead().await?;
    // Until each has renewed once, so that the renewals are spread as the elections were.
    let (_, heartbeat) = elector.times();
    let settled = Instant::now() + heartbeat + Duration::from_secs(1);
    let mut outcome = Outcome {
        leaders,
        ..Outcome::default()
    };
    while let Some((_, event)) = electors.next(settled).await? {
        outcome.early += usize::from(matches!(event, Event::Stopped(..)));
    }
    electors.late = 0;
    late.take();

    let begin = Instant::now();
    let (network, judging) = tokio::join!(
        strike(store, namespaces, cell),
        judge(&mut electors, begin + cell.judged_after())
    );
    let end = network?;
    let events = judging?;
    outcome.lasted = end - begin;
    outcome.late = late.take().max(electors.late);
    let mut lost = BTreeSet::new();
    for (at, event) in events {
        match event {
            Event::Stopped(number, cause) if lost.insert(number) => {
                *outcome.how.entry(cause).or_default() += 1;
                outcome.lost_after.push(at.saturating_duration_since(begin));
            }
            Event::Leads(number) if lost.contains(&number) => {
                outcome.led_again.push(at.saturating_duration_since(end));
            }
            _ => {}
        }
    }
    outcome.lost = lost.len();
    outcome.lost_after.sort_unstable();
    outcome.led_again.sort_unstable();
    Ok(outcome)
}

async fn judge(electors: &mut Electors, until: Instant) -> Result<Vec<(Instant, Event)>> {
    let mut events = Vec::new();
    while let Some(event) = electors.next(until).await? {
        events.push(event);
    }
    Ok(events)
}

/// Brings the fault about, and ends it. When it ended.
async fn strike(store: &Store, namespaces: &str, cell: Cell) -> Result<Instant> {
    let until = Instant::now() + cell.lasts();
    match cell.fault {
        Fault::Silent => block_in_place(|| lose_packets(namespaces, true))?,
        Fault::Cut => store.cut(true).await,
        Fault::Slow => store.delay(cell.length),
    }
    sleep_until(until).await;
    match cell.fault {
        Fault::Silent => block_in_place(|| lose_packets(namespaces, false))?,
        Fault::Cut => store.cut(false).await,
        Fault::Slow => store.delay(Duration::ZERO),
    }
    Ok(Instant::now())
}
