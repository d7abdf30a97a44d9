//! Draws faults from a seed, brings them about one at a time, and writes down the evidence.

use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use tenure_conformance::proxy::{FaultProxy, Way};
use tokio::task::block_in_place;
use tokio::time::sleep;

use crate::fault::{Fault, Reach};
use crate::fleet::{Fleet, ends_within};
use crate::history::{Nanos, Writer, now};
use crate::links::Links;
use crate::register::Register;
use crate::stores::Store;

/// How many of a hundred faults hit the process that leads.
const AT_THE_LEADER: u32 = 70;

/// How far a candidate's wall clock is set ahead, in seconds.
const AHEAD: i64 = 600;

/// How old the last write of a process that counts as the leader may be.
const LEADS: Duration = Duration::from_millis(250);

/// How long evidence may take to show after a fault, and a leader to come.
const LIMIT: Duration = Duration::from_secs(60);

/// Who brings the faults about.
#[allow(missing_debug_implementations, reason = "a store is no value to print")]
pub struct Nemesis {
    /// Draws everything.
    pub random: fastrand::Rng,
    /// The candidates.
    pub fleet: Fleet,
    /// The store.
    pub store: Box<dyn Store>,
    /// The candidates' links, if each is in a network namespace.
    pub links: Option<Arc<Links>>,
    /// The register.
    pub register: Register,
    /// Its own history.
    pub history: Writer,
    /// The faults that may be drawn.
    pub faults: Vec<Fault>,
    /// The lease, of which the faults' durations are multiples.
    pub lease: Duration,
    /// A process is hit as soon as it leads, and nothing waits in between.
    pub hurried: bool,
}

/// A fault that goes on.
struct Struck {
    fault: Fault,
    candidate: Option<usize>,
    pid: u32,
    evidence: String,
    /// What the proxies had counted when it began.
    counted: Counted,
}

#[derive(Clone, Copy, Default)]
struct Counted {
    at: Nanos,
    accepted: u64,
    seen: u64,
    /// TCP segments that a candidate has sent again.
    sent_again: u64,
}

impl Nemesis {
    /// One fault after the other until then, or until so many were brought about.
    pub async fn run(&mut self, until: Instant, at_most: usize) -> Result<()> {
        let mut count = 0;
        while Instant::now() < until && count < at_most {
            if !self.somebody_leads().await? {
                continue;
            }
            if !self.hurried {
                let calm = self.share_of_lease(0.2, 0.8);
                sleep(calm).await;
            }
            self.one_fault().await?;
            count += 1;
        }
        self.somebody_leads().await?;
        sleep(self.lease / 2).await;
        Ok(())
    }

    async fn one_fault(&mut self) -> Result<()> {
        let (fault, candidate) = self.draw();
        let lasts = self.share_of_lease(0.5, 3.0);
        let struck = self.strike(fault, candidate, lasts).await?;
        // A process that has gone is away for a shorter time; what is done at once is not held.
        let lasts = match fault {
            _ if self.hurried => Duration::ZERO,
            Fault::Kill | Fault::Terminate => lasts / 3,
            Fault::Reset | Fault::HalfClose => Duration::ZERO,
            // Until no holder of a larger token is left.
            fault if self.store.forgets_tokens(fault) => lasts.max(self.lease.mul_f64(1.2)),
            _ => lasts,
        };
        sleep(lasts).await;
        self.heal(struck).await
    }

    fn share_of_lease(&mut self, from: f64, to: f64) -> Duration {
        self.lease.mul_f64(from + (to - from) * self.random.f64())
    }

    /// The candidate that leads now, by its last write.
    fn leader(&self) -> Option<usize> {
        let write = self.register.last_write(LEADS)?;
        self.fleet.number_of(write.pid)
    }

    /// Waits until somebody leads; false, and a line in the history, when it takes too long.
    async fn somebody_leads(&mut self) -> Result<bool> {
        let start = Instant::now();
        while self.leader().is_none() {
            if start.elapsed() > LIMIT {
                self.note(0, "nobody-leads", "")?;
                return Ok(false);
            }
            for number in self.fleet.restart_ended()? {
                self.note(0, "ended-by-itself", &number.to_string())?;
            }
            sleep(Duration::from_millis(10)).await;
        }
        Ok(true)
    }

    /// A fault, and the candidate that it hits.
    fn draw(&mut self) -> (Fault, Option<usize>) {
        let of_store = |fault: &&Fault| fault.reach() == Reach::Store;
        let store: Vec<Fault> = self.faults.iter().filter(of_store).copied().collect();
        let others = |fault: &&Fault| fault.reach() != Reach::Store;
        let candidates: Vec<Fault> = self.faults.iter().filter(others).copied().collect();
        let at_leader = self.hurried || self.random.u32(0..100) < AT_THE_LEADER;
        // Of the rest two thirds hit the store.
        let take_store = candidates.is_empty() || (!at_leader && self.random.u32(0..3) < 2);
        if take_store && let Some(fault) = self.random.choice(&store) {
            return (*fault, None);
        }
        let fault = self.random.choice(&candidates).copied();
        let any = self.random.usize(0..self.fleet.count());
        let leader = self.leader().unwrap_or(any);
        let candidate = if at_leader { leader } else { any };
        (fault.unwrap_or(Fault::Kill), Some(candidate))
    }

    fn note(&self, pid: u32, event: &str, rest: &str) -> Result<()> {
        self.history.event_at(now(), pid, event, 0, rest)?;
        Ok(())
    }

    async fn strike(
        &mut self,
        fault: Fault,
        candidate: Option<usize>,
        lasts: Duration,
    ) -> Result<Struck> {
        let pid = match candidate {
            Some(number) => self.fleet.process(number).pid(),
            None => 0,
        };
        let token = self
            .register
            .last_write(LIMIT)
            .map_or(0, |write| write.token);
        let rest = format!("{fault} {}", lasts.as_millis());
        self.history.event_at(now(), pid, "strikes", token, &rest)?;
        let mut counted = self.counted(candidate);
        if let (Fault::LinkDown, Some(number)) = (fault, candidate) {
            counted.sent_again = self.sent_again(number)?;
        }
        let evidence = match (fault.reach(), candidate) {
            (Reach::Process, Some(number)) => self.strike_process(fault, number, lasts)?,
            (Reach::Network, Some(number)) if fault == Fault::LinkDown => {
                block_in_place(|| self.take_link_down(number))?
            }
            (Reach::Network, Some(number)) => {
                for proxy in self.store.proxies(number) {
                    strike_network(proxy, fault, self.lease).await;
                }
                String::new()
            }
            _ if fault == Fault::SlowStore => {
                for number in 0..self.fleet.count() {
                    for proxy in self.store.proxies(number) {
                        strike_network(proxy, Fault::Delay, self.lease).await;
                    }
                }
                String::new()
            }
            _ => self.store.strike(fault, lasts).await?,
        };
        if self.store.forgets_tokens(fault) {
            self.register.forget();
        }
        Ok(Struck {
            fault,
            candidate,
            pid,
            evidence,
            counted,
        })
    }

    fn strike_process(&mut self, fault: Fault, number: usize, lasts: Duration) -> Result<String> {
        let process = self.fleet.process(number);
        let pid = process.pid();
        let (event, evidence) = match fault {
            Fault::Freeze => {
                block_in_place(|| process.freeze());
                ("frozen", "all its threads stood still")
            }
            Fault::WallClock => {
                self.fleet.set_ahead(number, AHEAD)?;
                return Ok(String::new());
            }
            Fault::Starve => {
                self.fleet.starve(number, lasts)?;
                return Ok(String::new());
            }
            Fault::Kill => {
                process.kill();
                ("killed", "it was reaped")
            }
            _ => {
                process.signal("TERM");
                if block_in_place(|| ends_within(process, LIMIT)) {
                    ("ended", "it ended when it was asked to")
                } else {
                    process.kill();
                    ("killed", "")
                }
            }
        };
        self.note(pid, event, "")?;
        Ok(evidence.to_owned())
    }

    async fn heal(&mut self, struck: Struck) -> Result<()> {
        let Struck {
            fault,
            candidate,
            pid,
            mut evidence,
            counted,
        } = struck;
        match (fault.reach(), candidate) {
            (Reach::Process, Some(number)) if fault == Fault::Freeze => {
                self.fleet.process(number).thaw();
                self.note(pid, "thawed", "")?;
            }
            (Reach::Process, Some(number)) if fault == Fault::WallClock => {
                evidence = self.wall_clock_evidence(pid).await?;
                self.fleet.set_ahead(number, 0)?;
            }
            (Reach::Process, Some(_)) if fault == Fault::Starve => {
                evidence = self.starving_evidence(pid, counted.at).await?;
            }
            (Reach::Process, Some(number)) => self.fleet.restart(number)?,
            (Reach::Network, Some(number)) if fault == Fault::LinkDown => {
                let unanswered = self.link_evidence(number, counted).await?;
                let is_up = self.bring_link_up(number).await?;
                evidence.push_str(&unanswered);
                if unanswered.is_empty() || !is_up {
                    evidence.clear();
                }
            }
            (Reach::Network, Some(_)) => {
                evidence = self.network_evidence(fault, candidate, counted).await;
                self.restore(candidate).await;
            }
            _ if fault == Fault::SlowStore => {
                evidence = self.network_evidence(fault, candidate, counted).await;
                self.restore(candidate).await;
            }
            _ => {
                let more = self.store.heal(fault).await;
                // What shows no evidence is judged later; the run goes on.
                let more = more.unwrap_or_else(|error| {
                    evidence.clear();
                    eprintln!("{fault}: {error:#}");
                    String::new()
                });
                evidence.push_str(&more);
            }
        }
        if self.store.forgets_tokens(fault) {
            self.register.forget();
        }
        let event = if evidence.is_empty() {
            "unseen"
        } else {
            "healed"
        };
        self.note(pid, event, &format!("{fault} {evidence}"))
    }

    /// A process looks at its wall clock now and then, and writes down that it has jumped.
    async fn wall_clock_evidence(&self, pid: u32) -> Result<String> {
        let start = Instant::now();
        while start.elapsed() < LIMIT {
            if self.fleet.jumps_of(pid)?.last() >= Some(&(AHEAD - 10)) {
                return Ok(format!("it saw its wall clock {AHEAD} s ahead"));
            }
            sleep(Duration::from_millis(20)).await;
        }
        Ok(String::new())
    }

    /// A process writes down that all threads of its runtime stand still, and that they go on.
    async fn starving_evidence(&self, pid: u32, since: Nanos) -> Result<String> {
        let start = Instant::now();
        while start.elapsed() < LIMIT {
            let stood_still = self.fleet.has_written(pid, "starved", since)?;
            if stood_still && self.fleet.has_written(pid, "fed", since)? {
                return Ok("all threads of its runtime were blocked".to_owned());
            }
            sleep(Duration::from_millis(20)).await;
        }
        Ok(String::new())
    }

    /// The proxies of a candidate, or of all.
    fn proxies(&self, candidate: Option<usize>) -> impl Iterator<Item = &FaultProxy> {
        let all = 0..self.fleet.count();
        all.filter(move |number| candidate.is_none_or(|one| one == *number))
            .flat_map(|number| self.store.proxies(number))
    }

    fn counted(&self, candidate: Option<usize>) -> Counted {
        let mut counted = Counted {
            at: now(),
            ..Counted::default()
        };
        for proxy in self.proxies(candidate) {
            counted.accepted += proxy.accepted();
            counted.seen += proxy.seen(Way::Both);
        }
        counted
    }

    /// What the proxies counted since. Waits for it: a candidate that waits sends little.
    async fn network_evidence(
        &self,
        fault: Fault,
        candidate: Option<usize>,
        before: Counted,
    ) -> String {
        let start = Instant::now();
        while start.elapsed() < LIMIT {
            let after = self.counted(candidate);
            match fault {
                Fault::Reset | Fault::HalfClose if after.accepted > before.accepted => {
                    let more = after.accepted - before.accepted;
                    return format!("{more} connections were made again");
                }
                Fault::Reset | Fault::HalfClose => {}
                Fault::Refuse => {
                    let mut all = self.proxies(candidate);
                    if all.all(|proxy| TcpStream::connect(proxy.address()).is_err()) {
                        return "a connection of ours was refused".to_owned();
                    }
                }
                _ if after.seen > before.seen => {
                    return format!("{} bytes met it", after.seen - before.seen);
                }
                _ => {}
            }
            sleep(Duration::from_millis(20)).await;
        }
        String::new()
    }

    fn links(&self) -> Result<&Links> {
        self.links.as_deref().context("no link of its own")
    }

    /// Takes the link of a candidate down, and looks at both its ends.
    fn take_link_down(&self, number: usize) -> Result<String> {
        let links = self.links()?;
        links.take_down(number)?;
        ensure!(!links.has_carrier(number)?, "the link has a carrier");
        let mut proxies = self.store.proxies(number).iter();
        let proxy = proxies.next().context("no proxy")?;
        let reaches = links.reaches(number, proxy.address())?;
        ensure!(!reaches, "a connection came through a link that was down");
        Ok("its interface had no carrier, a connection of ours got no answer".to_owned())
    }

    /// Waits until a request of the candidate did not get through: its kernel has sent it again.
    async fn link_evidence(&self, number: usize, before: Counted) -> Result<String> {
        let start = Instant::now();
        while start.elapsed() < LIMIT {
            let more = self.sent_again(number)? - before.sent_again;
            if more > 0 {
                return Ok(format!(", and it sent {more} segments again"));
            }
            sleep(Duration::from_millis(20)).await;
        }
        Ok(String::new())
    }

    fn sent_again(&self, number: usize) -> Result<u64> {
        let links = self.links.as_deref();
        let counted = links.map(|links| block_in_place(|| links.sent_again(number)));
        Ok(counted.transpose()?.unwrap_or_default())
    }

    /// Whether a connection comes through again, before [`LIMIT`].
    async fn bring_link_up(&self, number: usize) -> Result<bool> {
        let links = self.links()?;
        block_in_place(|| links.bring_up(number))?;
        let mut proxies = self.store.proxies(number).iter();
        let proxy = proxies.next().context("no proxy")?.address();
        let start = Instant::now();
        while start.elapsed() < LIMIT {
            if block_in_place(|| links.reaches(number, proxy))? {
                return Ok(true);
            }
            sleep(Duration::from_millis(20)).await;
        }
        Ok(false)
    }

    async fn restore(&self, candidate: Option<usize>) {
        for proxy in self.proxies(candidate) {
            proxy.restore();
            proxy.refuse(false).await;
        }
    }
}

async fn strike_network(proxy: &FaultProxy, fault: Fault, lease: Duration) {
    match fault {
        Fault::Swallow => proxy.lose(Way::Both),
        Fault::AnswersLost => proxy.lose(Way::Answers),
        Fault::RequestsLost => proxy.lose(Way::Requests),
        Fault::Reset => proxy.reset(),
        Fault::HalfClose => proxy.half_close(Way::Answers),
        Fault::Delay => proxy.delay(Way::Answers, lease / 8),
        Fault::Refuse => {
            proxy.refuse(true).await;
            proxy.reset();
        }
        _ => {}
    }
}

/// The program beside this one.
pub fn candidate_program() -> Result<std::path::PathBuf> {
    let own = std::env::current_exe()?;
    let program = own.with_file_name("chaos-candidate");
    program
        .is_file()
        .then_some(program)
        .context("chaos-candidate is not built: cargo build -p tenure-chaos")
}
