//! Lost connections and sessions: a term is over before another one begins (contract 1).
//!
//! Where a lock ends with its session, the store can grant it the moment after the holder's
//! connection has broken. The holder must not go on until its next heartbeat, so its backend has
//! to notice by itself ([`LockBackend::loss`](tenure_core::LockBackend::loss)). On other stores a
//! lost connection costs no term. The cases demand one or the other, whatever the store is.
//!
//! What counts is the order of two events: the holder's backend has told that the term is over,
//! and another candidate was granted the lock. Both follow on one fault, and a machine can be
//! slow with either, so an order that has to come, has to come in one of several rounds.

use std::time::Duration;

use tenure_core::{Error, Expiry, Grant, Loss, Operation, Renewal};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use crate::case_context::{CaseContext, FIRST_PAUSE, contest, earliest_end};
use crate::connection::Connection;
use crate::contestant::Contestant;
use crate::network::{Network, Proxied};
use crate::proxy::Way;
use crate::target::Target;
use crate::verdict::{Stop, Verdict, ensure, fail};

/// In one of so many rounds the holder has to know before another candidate holds the lock.
const ROUNDS: usize = 10;

/// After so many looks at a lock that stays taken, the holder is asked whether its term goes on.
const LOOKS: usize = 40;

/// A reset of the holder's connection.
///
/// Hook: `connect_by_proxy`.
pub async fn a_reset_ends_the_term_before_the_next(target: &dyn Target) -> Verdict {
    in_order(target, Fault::Reset).await
}

/// A reset while a renewal waits for its answer: its error does not replace the news of the loss.
///
/// Hook: `connect_by_proxy`.
pub async fn a_reset_under_a_renewal_ends_the_term_before_the_next(target: &dyn Target) -> Verdict {
    in_order(target, Fault::ResetUnderRenewal).await
}

/// The store's side of the holder's connection is closed, its own is not (half-close).
///
/// Hook: `connect_by_proxy`.
pub async fn an_end_of_answers_ends_the_term_before_the_next(target: &dyn Target) -> Verdict {
    in_order(target, Fault::AnswersEnd).await
}

/// The store sees the holder's side of the connection close, ends the session and closes its own
/// side. The store knows first here, so the holder only has to be told.
///
/// Hook: `connect_by_proxy`.
pub async fn a_session_that_the_store_ends_is_told(target: &dyn Target) -> Verdict {
    let context = CaseContext::open(target).await?;
    round(&context, Fault::RequestsEnd).await?;
    Ok(())
}

/// An operator ends the session at the store. The holder only has to be told.
///
/// Hook: `end_session`.
pub async fn a_session_that_an_operator_ends_is_told(target: &dyn Target) -> Verdict {
    let (context, [leader, rival]) = contest(target).await?;
    if !by_session(&context) {
        return Err(Stop::left_out(no_session(&context)));
    }
    let mut term = HeldTerm::begin(&context, leader).await?;
    target.end_session(&rival.lock).await.need("end_session")?;
    let after = "its session was ended";
    match term.judge(&context, &rival, after).await? {
        Round::InOrder | Round::Late => Ok(()),
        Round::Survived => fail!("the term goes on, although its session was ended at the store"),
    }
}

/// A lost connection costs every term that it held, of all candidates and locks, and each is told.
///
/// Hook: `connect_by_proxy`.
pub async fn a_lost_connection_is_told_to_all_its_terms(target: &dyn Target) -> Verdict {
    let context = CaseContext::open(target).await?;
    let (network, on) = proxied(&context).await?;
    let one = context.contestant_on(&on, &context.lock()?)?;
    let same = one.next().on_lock(&context.lock()?);
    let other = context.contestant_on(&on, &context.lock()?)?;
    let mut terms = Vec::new();
    for contestant in [one, same, other] {
        let rival = context.contestant(&contestant.lock).await?;
        terms.push((HeldTerm::begin(&context, contestant).await?, rival));
    }
    network.reset();
    let after = "a reset of the connection of several terms";
    for (term, rival) in &mut terms {
        term.judge(&context, rival, after).await?;
    }
    Ok(())
}

/// A holder that is cut off cannot be told. It relies on its lease to the end. So nobody is granted
/// the lock before that, however soon the store finds the connection dead; and in time afterwards.
///
/// Hook: `connect_by_proxy`.
pub async fn a_cut_off_holder_keeps_the_lock_for_its_lease(target: &dyn Target) -> Verdict {
    let context = CaseContext::open(target).await?;
    let (network, on) = proxied(&context).await?;
    let lock = context.lock()?;
    let lease = context.short();
    let rival = context.contestant(&lock).await?.lease(lease);
    let leader = context.contestant_on(&on, &lock)?.lease(lease);
    let grant = leader.held("a fresh lock").await?;
    let told = Told::of(leader.backend().loss(&grant));
    goes_by(&*network)?;
    network.lose();
    let what = "the lock of a holder that was cut off";
    context.granted_after(lease, &rival, what).await?;
    let now = rival.now();
    ensure!(
        told.yet() || now >= earliest_end(&grant),
        "a lock was granted {:?} before the lease of its holder had ended, which was cut off and \
         could not know",
        earliest_end(&grant).since(now)
    );
    rival.withdraw().await
}

fn by_session(context: &CaseContext<'_>) -> bool {
    context.capabilities.expiry == Expiry::Session
}

fn no_session(context: &CaseContext<'_>) -> String {
    format!(
        "no session holds a lock of this store (Expiry::{:?})",
        context.capabilities.expiry
    )
}

/// A connection whose network the suite commands. Without it the suite shows nothing of a session
/// store, which is a failure.
async fn proxied(context: &CaseContext<'_>) -> Result<(Box<dyn Network>, Connection), Stop> {
    let start = Instant::now();
    loop {
        match context.target.connect_by_proxy().await {
            Some(Ok(Proxied { backend, network })) => {
                return Ok((network, context.connection(backend)));
            }
            Some(Err(error)) if error.is_retryable() && start.elapsed() < context.patience() => {}
            Some(Err(error)) => fail!("connect_by_proxy: {error}"),
            None if by_session(context) => fail!(
                "the locks of this store end with a session (Expiry::Session), and the target has \
                 no hook `connect_by_proxy`: nothing shows that its backend notices a lost \
                 session. Implement the hook with a `FaultProxy` in front of the store"
            ),
            None => {
                let text = format!(
                    "{}, and the target has no hook `connect_by_proxy`",
                    no_session(context)
                );
                return Err(Stop::MissingHook("connect_by_proxy", text));
            }
        }
        sleep(FIRST_PAUSE).await;
    }
}

fn goes_by(network: &dyn Network) -> Verdict {
    ensure!(
        network.requests() > 0,
        "the backend of the hook `connect_by_proxy` has acquired a lock, but no request has come \
         to its proxies: connect it to their addresses"
    );
    Ok(())
}

#[derive(Clone, Copy)]
enum Fault {
    Reset,
    ResetUnderRenewal,
    AnswersEnd,
    RequestsEnd,
}

impl Fault {
    fn text(self) -> &'static str {
        match self {
            Self::Reset => "a reset of its connection",
            Self::ResetUnderRenewal => "a reset of its connection during a renewal",
            Self::AnswersEnd => "the end of the answers on its connection",
            Self::RequestsEnd => "the end of the requests on its connection",
        }
    }
}

type Renewing = JoinHandle<Result<Renewal, Error>>;

impl Fault {
    /// Gives the call that was under way, if there was one.
    async fn strike(
        self,
        context: &CaseContext<'_>,
        network: &dyn Network,
        term: &HeldTerm,
    ) -> Result<Option<Renewing>, Stop> {
        match self {
            Self::Reset => network.reset(),
            Self::AnswersEnd => network.half_close(Way::Answers),
            Self::RequestsEnd => network.half_close(Way::Requests),
            Self::ResetUnderRenewal => {
                network.hold_answers();
                let before = network.requests();
                let (contestant, grant) = (term.contestant.clone(), term.grant.clone());
                let renewing: Renewing =
                    tokio::spawn(async move { contestant.renewing(&grant).await });
                let what = "the request of a renewal at the proxy";
                let sent = || network.requests() > before || renewing.is_finished();
                context
                    .eventually(what, context.patience(), async || Ok(sent().then_some(())))
                    .await?;
                network.reset();
                network.restore();
                return Ok(Some(renewing));
            }
        }
        Ok(None)
    }
}

/// What became of a term.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Round {
    /// It was told to be over before another candidate held the lock.
    InOrder,
    /// It was told afterwards.
    Late,
    /// It goes on: the store ties it to no connection.
    Survived,
}

async fn in_order(target: &dyn Target, fault: Fault) -> Verdict {
    let context = CaseContext::open(target).await?;
    for _ in 0..ROUNDS {
        if round(&context, fault).await? != Round::Late {
            return Ok(());
        }
    }
    fail!(
        "after {}, in each of {ROUNDS} rounds, another candidate was granted the lock before the \
         holder's backend had told (`LockBackend::loss`) that the term was over",
        fault.text()
    )
}

async fn round(context: &CaseContext<'_>, fault: Fault) -> Result<Round, Stop> {
    let (network, on) = proxied(context).await?;
    let [rival] = context.contestants().await?;
    let leader = context.contestant_on(&on, &rival.lock)?;
    let mut term = HeldTerm::begin(context, leader).await?;
    goes_by(&*network)?;
    rival.refused("a held lock").await?;
    let under_way = fault.strike(context, &*network, &term).await?;
    let round = term.judge(context, &rival, fault.text()).await?;
    if let Some(renewing) = under_way {
        let patience = context.patience();
        match timeout(patience, renewing).await {
            Ok(Ok(Ok(Renewal::Renewed(_)))) => ensure!(
                round == Round::Survived,
                "a renewal that was under way when its session was lost says that the term goes on"
            ),
            Ok(Ok(Ok(_))) => {}
            Ok(Ok(Err(error))) => term.contestant.on.judge(Operation::Renew, &error)?,
            Ok(Err(error)) => fail!("a renewal panicked: {error}"),
            Err(_) => fail!("a renewal whose connection was reset did not end in {patience:?}"),
        }
    }
    Ok(round)
}

/// A term, and whether its backend has told that it is over.
struct HeldTerm {
    contestant: Contestant,
    grant: Grant,
    told: Told,
}

impl HeldTerm {
    async fn begin(context: &CaseContext<'_>, contestant: Contestant) -> Result<Self, Stop> {
        let grant = contestant.held("a fresh lock").await?;
        let loss = contestant.backend().loss(&grant);
        ensure!(
            loss.is_some() || !by_session(context),
            "the locks of this store end with a session (Expiry::Session), but its backend has no \
             `LockBackend::loss` for a held term: it would lead beside its successor until its \
             next heartbeat"
        );
        let told = Told::of(loss);
        let grant = contestant.renewed(&grant, "a held term").await?;
        ensure!(
            !told.yet(),
            "a term was told to be over (`LockBackend::loss`) while it went on"
        );
        Ok(Self {
            contestant,
            grant,
            told,
        })
    }

    /// What becomes of the term after its connection or session was lost; `rival` asks for the
    /// lock all the time, and the holder's backend is not asked for as long as that may tell.
    async fn judge(
        &mut self,
        context: &CaseContext<'_>,
        rival: &Contestant,
        after: &str,
    ) -> Result<Round, Stop> {
        let what = format!("after {after}: a term that goes on, or another one");
        let mut looks = 0;
        let mut found_lost = false;
        let (contestant, told) = (&self.contestant, &self.told);
        let grant = &mut self.grant;
        let taken = context
            .eventually(&what, context.patience(), async || {
                if let Some(next) = rival.try_held().await? {
                    return Ok(Some(Some((next, told.yet()))));
                }
                looks += 1;
                if looks < LOOKS || found_lost || told.yet() {
                    return Ok(None);
                }
                if let Renewal::Renewed(renewed) = contestant.renew(grant).await? {
                    *grant = renewed;
                    return Ok(Some(None));
                }
                found_lost = true;
                Ok(None)
            })
            .await?;
        let Some((next, in_order)) = taken else {
            self.goes_on(rival, after).await?;
            return Ok(Round::Survived);
        };
        self.is_over(context, rival, &next, after).await?;
        Ok(if in_order {
            Round::InOrder
        } else {
            Round::Late
        })
    }

    async fn is_over(
        &mut self,
        context: &CaseContext<'_>,
        rival: &Contestant,
        next: &Grant,
        after: &str,
    ) -> Verdict {
        ensure!(
            self.told.told_in(context.patience()).await,
            "after {after}, another candidate holds the lock, and the holder's backend has not \
             told (`LockBackend::loss`) that the term is over, within {:?}: both lead until the \
             holder's next heartbeat",
            context.patience()
        );
        self.contestant
            .lost(&self.grant, "a term whose successor holds the lock")
            .await?;
        rival.release(next).await?;
        self.contestant
            .lost(&self.grant, "a term whose successor has released")
            .await?;
        rival
            .sees_free("after a renewal of a term whose session was lost the lock")
            .await
    }

    async fn goes_on(&mut self, rival: &Contestant, after: &str) -> Verdict {
        let why = format!("a lock that was renewed after {after}");
        rival.refused(&why).await?;
        self.grant = self.contestant.renewed(&self.grant, &why).await?;
        ensure!(
            !self.told.yet(),
            "after {after} the term was told to be over (`LockBackend::loss`), but it goes on"
        );
        self.contestant.release(&self.grant).await
    }
}

/// Waits for a loss in a task of its own, so that it is noted when it comes.
struct Told {
    told: watch::Receiver<bool>,
    waiting: Option<JoinHandle<()>>,
}

impl Told {
    fn of(loss: Option<Loss>) -> Self {
        let (tell, told) = watch::channel(false);
        let waiting = loss.map(|loss| {
            tokio::spawn(async move {
                loss.await;
                tell.send_replace(true);
            })
        });
        Self { told, waiting }
    }

    fn yet(&self) -> bool {
        *self.told.borrow()
    }

    async fn told_in(&mut self, limit: Duration) -> bool {
        matches!(
            timeout(limit, self.told.wait_for(|told| *told)).await,
            Ok(Ok(_))
        )
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        if let Some(waiting) = &self.waiting {
            waiting.abort();
        }
    }
}
