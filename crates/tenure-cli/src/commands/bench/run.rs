//! The calls that are measured: two candidates of one lock.

use std::sync::Arc;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use tenure::{
    Acquired, CampaignId, Candidate, Election, ElectionState, Error, ErrorKind, Grant, Identity,
    Leadership, LockBackend, LockName, Operation, Registry, Renewal, random_u64,
};

use super::measurement::Measurement;

/// Each kind of call is made so often, unless its time is over before.
pub(super) const CALLS: usize = 300;
pub(super) const HAND_OVERS: usize = 50;

/// Each kind of call has so long: five of them and the rest stay below a minute.
const TIME: Duration = Duration::from_secs(6);

/// A call that takes longer has failed.
pub(super) const LIMIT: Duration = Duration::from_secs(5);

/// How long the first grant may be refused: a server that has just started grants nothing for the
/// time of a lease.
const FIRST: Duration = Duration::from_secs(25);

/// How long giving everything back may take.
const CLEAN_UP: Duration = Duration::from_secs(5);

/// Longer than any kind of call is made for, so that no term ends meanwhile.
const LEASE: Duration = Duration::from_secs(20);

/// A candidate whose store does not tell who leads gets so long to begin to wait.
const SETTLE: Duration = Duration::from_millis(200);

const STEPS: [&str; 5] = [
    "acquire when free",
    "acquire when taken",
    "renew",
    "release",
    "hand-over, 2 candidates",
];

/// Two candidates, each on a connection of its own, and what they have to give back.
pub(super) struct BenchRun {
    backends: [Arc<dyn LockBackend>; 2],
    identities: [Identity; 2],
    pub(super) lock: LockName,
    /// Each one's last campaign, which may have left a trace.
    candidates: [Option<Candidate>; 2],
    held: Option<Grant>,
    elections: Vec<Election>,
    leader: Option<Leadership>,
    pub(super) measurements: Vec<Measurement>,
    pub(super) progress: ProgressBar,
}

impl BenchRun {
    pub(super) async fn connect(
        registry: &Registry,
        url: &str,
        lock: LockName,
    ) -> Result<Self, Error> {
        let backends = [registry.connect(url).await?, registry.connect(url).await?];
        let me = Identity::of_this_process()?;
        let other = Identity::new(format!("other-{:016x}", random_u64()?))?;
        let steps = u64::try_from(STEPS.len() * 100).unwrap_or_default();
        let progress = ProgressBar::new(steps);
        let style = "{msg:26} [{bar:40}] {elapsed}";
        if let Ok(style) = ProgressStyle::with_template(style) {
            progress.set_style(style.progress_chars("=> "));
        }
        Ok(Self {
            backends,
            identities: [me, other],
            lock,
            candidates: [None, None],
            held: None,
            elections: Vec::new(),
            leader: None,
            measurements: Vec::new(),
            progress,
        })
    }

    pub(super) async fn measure(&mut self) -> Result<(), Error> {
        self.first_grant().await?;
        self.calls(STEPS[0], async |bench: &mut Self| {
            let taken = bench.acquire().await?;
            bench.release().await?;
            Ok(taken)
        })
        .await?;
        self.calls(STEPS[3], async |bench: &mut Self| {
            bench.acquire().await?;
            bench.release().await
        })
        .await?;
        self.acquire().await?;
        self.calls(STEPS[1], Self::be_refused).await?;
        // Since it may have been held for long.
        self.renew().await?;
        self.calls(STEPS[2], Self::renew).await?;
        self.release().await?;
        self.hand_overs().await?;
        let order = |measured: &Measurement| STEPS.iter().position(|step| *step == measured.name);
        self.measurements.sort_by_key(order);
        Ok(())
    }

    /// Until the store grants a lock that nobody has named before.
    async fn first_grant(&mut self) -> Result<(), Error> {
        self.progress.set_message("waiting for the first grant");
        let start = Instant::now();
        loop {
            match self.acquire().await {
                Ok(_) => return self.release().await.map(drop),
                Err(error) if error.kind() == ErrorKind::Conflict && start.elapsed() < FIRST => {
                    tokio::time::sleep(Duration::from_millis(250)).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Makes one kind of call until it was made often enough, or its time is over.
    async fn calls(
        &mut self,
        name: &'static str,
        mut call: impl AsyncFnMut(&mut Self) -> Result<Duration, Error>,
    ) -> Result<(), Error> {
        self.show(name);
        let (start, mut taken) = (Instant::now(), Vec::new());
        // The first one may have to load something.
        call(self).await?;
        while taken.len() < CALLS && (taken.is_empty() || start.elapsed() < TIME) {
            taken.push(call(self).await?);
            self.advance(taken.len(), CALLS, start);
        }
        self.measurements.push(Measurement { name, taken });
        Ok(())
    }

    fn show(&self, name: &'static str) {
        self.progress.set_message(name);
        self.set_position(0);
    }

    /// By number or by time, whichever is further.
    fn advance(&self, made: usize, of: usize, start: Instant) {
        let by_time = start.elapsed().as_millis() * 100 / TIME.as_millis();
        let by_time = usize::try_from(by_time).unwrap_or(100);
        self.set_position((made * 100 / of).max(by_time).min(100));
    }

    fn set_position(&self, percent: usize) {
        let position = self.measurements.len() * 100 + percent;
        self.progress
            .set_position(u64::try_from(position).unwrap_or_default());
    }

    /// A campaign that was not made before.
    fn candidate(&mut self, number: usize) -> Result<Candidate, Error> {
        let campaign = CampaignId::draw()?;
        let candidate = Candidate::new(self.identities[number].clone(), campaign);
        self.candidates[number] = Some(candidate.clone());
        Ok(candidate)
    }

    async fn acquire(&mut self) -> Result<Duration, Error> {
        let me = self.candidate(0)?;
        let start = Instant::now();
        let call = self.backends[0].acquire(&self.lock, &me, LEASE);
        let acquired = within(Operation::Acquire, call).await?;
        let taken = start.elapsed();
        if let Acquired::Held(grant) = acquired {
            self.held = Some(grant);
            return Ok(taken);
        }
        let call = self.backends[0].withdraw(&self.lock, &me);
        within(Operation::Withdraw, call).await?;
        Err(Error::new(
            ErrorKind::Conflict,
            Operation::Acquire,
            format!(
                "the store does not grant {}, a lock that nobody else has",
                self.lock
            ),
        ))
    }

    async fn be_refused(&mut self) -> Result<Duration, Error> {
        let them = self.candidate(1)?;
        let start = Instant::now();
        let call = self.backends[1].acquire(&self.lock, &them, LEASE);
        let acquired = within(Operation::Acquire, call).await?;
        let taken = start.elapsed();
        let call = self.backends[1].withdraw(&self.lock, &them);
        within(Operation::Withdraw, call).await?;
        match acquired {
            Acquired::Taken { .. } => Ok(taken),
            _ => Err(lost(Operation::Acquire)),
        }
    }

    async fn renew(&mut self) -> Result<Duration, Error> {
        let Some(grant) = &self.held else {
            return Err(lost(Operation::Renew));
        };
        let not_before = self.backends[0].clock().now();
        let start = Instant::now();
        let call = self.backends[0].renew(grant, not_before);
        let renewal = within(Operation::Renew, call).await?;
        let taken = start.elapsed();
        match renewal {
            Renewal::Renewed(grant) => {
                self.held = Some(grant);
                Ok(taken)
            }
            _ => Err(lost(Operation::Renew)),
        }
    }

    async fn release(&mut self) -> Result<Duration, Error> {
        let Some(grant) = &self.held else {
            return Err(lost(Operation::Release));
        };
        let start = Instant::now();
        let call = self.backends[0].release(grant);
        within(Operation::Release, call).await?;
        let taken = start.elapsed();
        self.held = None;
        Ok(taken)
    }

    /// From `resign()` to the next one's valid term, in turns.
    async fn hand_overs(&mut self) -> Result<(), Error> {
        let name = STEPS[4];
        self.show(name);
        for (backend, identity) in self.backends.iter().zip(&self.identities) {
            let election = Election::builder(backend.clone(), self.lock.clone())
                .identity(identity.clone())
                .build()?;
            self.elections.push(election);
        }
        let [first, second] = [self.elections[0].clone(), self.elections[1].clone()];
        self.leader = Some(within(Operation::Campaign, first.campaign()).await?);
        let (start, mut taken) = (Instant::now(), Vec::new());
        let mut next = [second, first].into_iter().cycle();
        while taken.len() < HAND_OVERS && (taken.is_empty() || start.elapsed() < TIME) {
            if let Some(next) = next.next() {
                taken.push(self.hand_over(&next).await?);
            }
            self.advance(taken.len(), HAND_OVERS, start);
        }
        self.measurements.push(Measurement { name, taken });
        Ok(())
    }

    async fn hand_over(&mut self, next: &Election) -> Result<Duration, Error> {
        let campaign = next.campaign();
        tokio::pin!(campaign);
        tokio::select! {
            biased;
            _early = &mut campaign => return Err(lost(Operation::Campaign)),
            () = waits(next) => {}
        }
        let Some(leader) = self.leader.take() else {
            return Err(lost(Operation::Campaign));
        };
        let start = Instant::now();
        let elected = async {
            let elected = within(Operation::Campaign, campaign).await;
            (elected, start.elapsed())
        };
        let (resigned, (elected, taken)) = tokio::join!(leader.resign(), elected);
        self.leader = Some(elected?);
        resigned.map(|()| taken)
    }

    /// Gives back whatever is held or was asked for. A failure is told, and ends by itself with
    /// the lease.
    pub(super) async fn clean_up(&mut self) {
        let giving_back = async {
            if let Some(leader) = self.leader.take() {
                leader.resign().await?;
            }
            for election in &self.elections {
                election.settled().await;
            }
            if let Some(grant) = self.held.take() {
                self.backends[0].release(&grant).await?;
            }
            for (backend, candidate) in self.backends.iter().zip(&self.candidates) {
                if let Some(candidate) = candidate {
                    backend.withdraw(&self.lock, candidate).await?;
                }
            }
            Ok(())
        };
        let outcome = tokio::time::timeout(CLEAN_UP, giving_back).await;
        let outcome = outcome.unwrap_or_else(|_| Err(Error::timeout(Operation::Release, CLEAN_UP)));
        if let Err(error) = outcome {
            tracing::warn!(lock = %self.lock, %error, "not given back; it ends with its lease");
        }
    }
}

/// Until this candidate knows who leads, or has had time to ask.
async fn waits(candidate: &Election) {
    let start = Instant::now();
    loop {
        let knows = matches!(
            &*candidate.state().borrow(),
            ElectionState::Candidate { leader: Some(_) }
        );
        if knows || start.elapsed() > SETTLE {
            break;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    // What goes on behind its look comes to its end.
    tokio::time::sleep(Duration::from_millis(10)).await;
}

async fn within<T>(
    operation: Operation,
    call: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    let outcome = tokio::time::timeout(LIMIT, call).await;
    outcome.unwrap_or_else(|_| Err(Error::timeout(operation, LIMIT)))
}

fn lost(operation: Operation) -> Error {
    Error::new(
        ErrorKind::Conflict,
        operation,
        "the term was lost meanwhile: the store is too slow, or was changed",
    )
}
