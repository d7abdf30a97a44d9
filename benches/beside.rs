//! Tables whose rows are measured in turns, so that a busy machine is busy for all of them: a bare
//! operation of the store, the same by tenure, and by other libraries.

use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures_util::future::{BoxFuture, FutureExt as _};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::{record, variable};

/// So many calls of a row come one after the other, and one before them that does not count: each
/// row finds its own code and its own connection warm.
const IN_A_ROW: u64 = 10;

/// How often each row is measured; `TENURE_BENCH_ROUNDS`, by default 500.
pub fn rounds() -> u64 {
    variable("TENURE_BENCH_ROUNDS").unwrap_or(500)
}

/// How often a bare operation may fit into a call of ours at most, and into a hand-over.
pub const CALL: f64 = 1.15;
pub const HAND_OVER: f64 = 1.5;

/// One row of a table, which `kind` measures.
#[must_use]
pub struct Row<K> {
    name: &'static str,
    kind: K,
    floors: Vec<Floor>,
    /// Why it may be ahead of our hand-over; empty if nothing explains it.
    ahead: Option<&'static str>,
    /// A peer that takes long is measured once where others are measured ten times.
    is_slow: bool,
}

struct Floor {
    row: &'static str,
    /// How often the floor's median may fit into this one's.
    limit: Option<f64>,
    /// Why a figure falls short, for each call.
    why: &'static [&'static str],
}

impl<K> Row<K> {
    pub fn new(name: &'static str, kind: K) -> Self {
        Self {
            name,
            kind,
            floors: Vec::new(),
            ahead: None,
            is_slow: false,
        }
    }

    /// The report shows how often that row's median fits into this one's.
    pub fn beside(self, row: &'static str) -> Self {
        self.floor(row, None, &[])
    }

    /// The same, and it must be at most so often; `why` it is more, for each call.
    pub fn at_most(self, limit: f64, row: &'static str, why: &'static [&'static str]) -> Self {
        self.floor(row, Some(limit), why)
    }

    fn floor(
        mut self,
        row: &'static str,
        limit: Option<f64>,
        why: &'static [&'static str],
    ) -> Self {
        self.floors.push(Floor { row, limit, why });
        self
    }

    /// A peer: our hand-over must be ahead of it; `why` it may not be.
    pub fn peer(mut self, why: &'static str) -> Self {
        self.ahead = Some(why);
        self
    }

    pub fn slow(mut self) -> Self {
        self.is_slow = true;
        self
    }

    /// Keeps what was taken, as a row of this table; `call` chooses among the reasons.
    pub fn record(&self, table: &str, call: usize, taken: &[Duration]) {
        if taken.is_empty() {
            return;
        }
        let floors: Vec<Value> = self
            .floors
            .iter()
            .map(|floor| {
                let why = floor.why.get(call).copied().unwrap_or_default();
                // Nothing must hold for giving a lock back.
                let limit = floor.limit.filter(|_| call < RELEASE);
                json!({ "row": floor.row, "limit": limit, "why": why })
            })
            .collect();
        let beside = json!({ "floors": floors, "ahead": self.ahead });
        record::row(table, self.name, &beside, taken);
    }
}

/// Lets what goes on behind a call come to its end.
#[async_trait]
pub trait Rest: Send + Sync {
    async fn rest(&self);
}

/// Nothing but time.
pub struct Pause;

#[async_trait]
impl Rest for Pause {
    async fn rest(&self) {
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
}

/// A lock that is free, and what one owner does with it.
#[async_trait]
pub trait Lock: Send {
    async fn acquire(&mut self);

    /// `false`: there is no such call.
    async fn renew(&mut self) -> bool {
        false
    }

    async fn release(&mut self);
}

/// Which of the calls gives the lock back.
const RELEASE: usize = 2;

const CALLS: [&str; 3] = ["To get a free lock", "To renew it", "To give it back"];

/// A table for each call: one after the other, or each from rest, as most are.
pub async fn calls(of: &str, rest: Option<&dyn Rest>, mut rows: Vec<Row<Box<dyn Lock>>>) {
    let mut taken: Vec<[Vec<Duration>; 3]> = rows.iter().map(|_| Default::default()).collect();
    let mut order: Vec<usize> = (0..rows.len()).collect();
    for _ in 0..rounds().max(100).div_ceil(IN_A_ROW) {
        fastrand::shuffle(&mut order);
        for &at in &order {
            for number in 0..=IN_A_ROW {
                let durations = one_term(&mut *rows[at].kind, rest).await;
                if number == 0 {
                    continue;
                }
                for (all, one) in taken[at].iter_mut().zip(durations) {
                    all.extend(one);
                }
            }
        }
    }
    let how = rest.map_or("one after the other", |_| "from rest");
    for (call, title) in CALLS.iter().enumerate() {
        let table = format!("{title}, {how}{of}");
        for (row, taken) in rows.iter().zip(&taken) {
            row.record(&table, call, &taken[call]);
        }
    }
}

async fn one_term(lock: &mut dyn Lock, rest: Option<&dyn Rest>) -> [Option<Duration>; 3] {
    let pause = async || {
        if let Some(rest) = rest {
            rest.rest().await;
        }
    };
    pause().await;
    let began = Instant::now();
    lock.acquire().await;
    let acquired = began.elapsed();
    pause().await;
    let began = Instant::now();
    let renewed = lock.renew().await.then(|| began.elapsed());
    pause().await;
    let began = Instant::now();
    lock.release().await;
    [Some(acquired), renewed, Some(began.elapsed())]
}

/// Two owners, one of which hands the lock over to the other.
#[async_trait]
pub trait Pair: Send {
    /// From the end of the first to the moment at which the second holds, who has waited so long;
    /// the lock is free afterwards.
    async fn hand_over(&mut self, wait: Duration, rest: &dyn Rest) -> Duration;
}

/// Connects a pair. It is connected for its own turns only: others would be woken too.
pub type Connects = Box<dyn Fn() -> BoxFuture<'static, Box<dyn Pair>> + Send + Sync>;

pub fn connects<P: Pair + 'static, F: Future<Output = P> + Send + 'static>(
    connect: impl Fn() -> F + Send + Sync + 'static,
) -> Connects {
    Box::new(move || {
        let pair = connect();
        async move { Box::new(pair.await) as Box<dyn Pair> }.boxed()
    })
}

/// A table of hand-overs.
pub async fn hand_overs(table: &str, wait: Duration, rest: &dyn Rest, rows: &[Row<Connects>]) {
    let mut taken: Vec<Vec<Duration>> = rows.iter().map(|_| Vec::new()).collect();
    let mut order: Vec<usize> = (0..rows.len()).collect();
    for _ in 0..rounds().div_ceil(IN_A_ROW) {
        fastrand::shuffle(&mut order);
        for &at in &order {
            let mut pair = (rows[at].kind)().await;
            if rows[at].is_slow {
                taken[at].push(pair.hand_over(wait, rest).await);
                continue;
            }
            for number in 0..=IN_A_ROW {
                let one = pair.hand_over(wait, rest).await;
                if number > 0 {
                    taken[at].push(one);
                }
            }
        }
    }
    for (row, taken) in rows.iter().zip(&taken) {
        row.record(table, 0, taken);
    }
}

/// Waits, rests, and then makes the call `end` that wakes `waiting`: how long that took, and what
/// both gave.
pub async fn handed_over<E, T>(
    (wait, rest): (Duration, &dyn Rest),
    end: impl Future<Output = E>,
    waiting: JoinHandle<(Instant, T)>,
) -> (Duration, E, T) {
    tokio::time::sleep(wait).await;
    rest.rest().await;
    let began = Instant::now();
    let (ended, next) = futures_util::future::join(end, waiting).await;
    let (at, next) = next.unwrap();
    (at - began, ended, next)
}
