//! From the end of a leader to the next one's valid term, while so many campaign.

use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{Criterion, SamplingMode};
use tenure::{Election, ElectionState, LockBackend};
use tenure_benches::ours::{self, identity, patient};
use tenure_benches::{is_quick, on_worker};
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use crate::places::Place;

const CANDIDATES: [usize; 3] = [2, 10, 100];

/// So many connections at most: what is more than that shares one, as in a process with several
/// elections.
const CONNECTIONS: usize = 20;

/// Where the store does not tell who leads, the candidates get so long to queue.
const SETTLE: Duration = Duration::from_millis(300);

pub(crate) fn measure(criterion: &mut Criterion, runtime: &Runtime, places: &[Place]) {
    for candidates in CANDIDATES {
        let title = format!("hand-over, {candidates} candidates");
        let mut group = criterion.benchmark_group(&title);
        group.sampling_mode(SamplingMode::Flat);
        if is_quick() {
            group.warm_up_time(Duration::from_millis(100));
            group.measurement_time(Duration::from_millis(300));
        }
        for place in places {
            let campaigning = Campaigning::open(place.clone(), candidates);
            let mut campaigning = on_worker(runtime, campaigning);
            crate::series(&mut group, &title, place.name, |times| {
                runtime.block_on(campaigning.hand_overs(times))
            });
            runtime.block_on(campaigning.close());
        }
        group.finish();
    }
}

struct Elected {
    number: usize,
    at: Instant,
    /// Tells the leader to go on; it resigns then.
    resign: oneshot::Sender<()>,
}

/// Candidates that campaign again and again, each on a task of its own.
struct Campaigning {
    elections: Vec<Election>,
    elected: mpsc::UnboundedReceiver<Elected>,
    leader: Option<Elected>,
    tasks: JoinSet<()>,
}

impl Campaigning {
    async fn open(place: Place, candidates: usize) -> Self {
        let mut backends: Vec<Arc<dyn LockBackend>> = Vec::new();
        for _ in 0..candidates.min(CONNECTIONS) {
            backends.push(place.connect().await);
        }
        let lock = ours::lock("handover");
        let (tell, elected) = mpsc::unbounded_channel();
        let mut tasks = JoinSet::new();
        let mut elections = Vec::new();
        for number in 0..candidates {
            let backend = backends[number % backends.len()].clone();
            let election = Election::builder(backend, lock.clone())
                .identity(identity(number))
                .policy(patient())
                .build()
                .unwrap();
            elections.push(election.clone());
            tasks.spawn(campaign(election, number, tell.clone()));
        }
        Self {
            elections,
            elected,
            leader: None,
            tasks,
        }
    }

    async fn hand_overs(&mut self, times: u64) -> Vec<Duration> {
        let mut taken = Vec::new();
        for _ in 0..times {
            taken.push(self.hand_over().await);
        }
        taken
    }

    async fn hand_over(&mut self) -> Duration {
        let leader = match self.leader.take() {
            Some(leader) => leader,
            None => self.elected.recv().await.unwrap(),
        };
        self.settle(leader.number).await;
        let start = Instant::now();
        leader.resign.send(()).unwrap();
        let next = self.elected.recv().await.unwrap();
        let taken = next.at - start;
        self.leader = Some(next);
        taken
    }

    /// Until all others know who leads, where the store tells.
    async fn settle(&self, leader: usize) {
        let identity = self.elections[leader].identity().as_str();
        let start = Instant::now();
        let all_know = || {
            let mut others = self.elections.iter().enumerate();
            others.all(|(number, other)| {
                number == leader
                    || matches!(
                        &*other.state().borrow(),
                        ElectionState::Candidate { leader: Some(known) } if known.identity == identity
                    )
            })
        };
        while !all_know() && start.elapsed() < SETTLE {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        // What goes on behind the last look comes to its end.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }

    async fn close(mut self) {
        self.tasks.shutdown().await;
        for election in &self.elections {
            election.settled().await;
        }
    }
}

async fn campaign(election: Election, number: usize, tell: mpsc::UnboundedSender<Elected>) {
    loop {
        let leadership = election.campaign().await.unwrap();
        assert!(leadership.is_valid());
        let at = Instant::now();
        let (resign, told) = oneshot::channel();
        if tell.send(Elected { number, at, resign }).is_err() {
            return;
        }
        // The bench is over.
        if told.await.is_err() {
            return;
        }
        leadership.resign().await.unwrap();
    }
}
