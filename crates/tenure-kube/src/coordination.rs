//! [`Coordination`]: elections that the API server decides (KEP-4355). Candidates have an object each
//! and answer its pings; a controller in the API server writes into the Lease who is to lead.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tenure_core::record::{Liveness, MAX_LEASE, Mark, RecordHolder, Step};
use tenure_core::{
    BootClock, Error, ErrorKind, Identity, LockName, Operation, SharedClock, Time, Wish,
};
use tenure_kit::limits::shown;
use tenure_kit::tasks::AbortOnDrop;
use tenure_kit::{Backoff, Tasks};
use tokio::time::{sleep, timeout};

use crate::api::Api;
use crate::cluster::Cluster;
use crate::lease_candidate::LeaseCandidate;
use crate::lines::Lines;
use crate::reply::Answer;
use crate::resource::LEASE_CANDIDATES;
use crate::time::WallTime;

/// The one strategy that the API server decides by.
const STRATEGY: &str = "OldestEmulationVersion";

/// A watch of the candidate's object ends after so long, and the candidate shows that it is alive.
const LASTS: Duration = Duration::from_secs(290);
const GRACE: Duration = Duration::from_secs(20);

/// How long a request beside the election may take.
const LIMIT: Duration = Duration::from_secs(5);

const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// How often another write between a look and ours is met.
const ATTEMPTS: usize = 3;

/// The elections that this process takes part in.
#[derive(Debug)]
pub(crate) struct Coordination {
    candidate: LeaseCandidate,
    /// Each answers pings.
    entered: Mutex<HashMap<LockName, AbortOnDrop>>,
    /// By lock.
    others: Mutex<HashMap<String, Other>>,
    clock: SharedClock,
}

/// The last holder that was not us, as far as it has not given the lock back.
#[derive(Debug)]
struct Other {
    mark: Mark,
    ends: Time,
}

impl Coordination {
    pub(crate) fn new(candidate: LeaseCandidate) -> Self {
        Self {
            candidate,
            entered: Mutex::default(),
            others: Mutex::default(),
            clock: BootClock::shared(),
        }
    }

    /// Makes the candidate's object unless it is there, and answers its pings from now on, in the
    /// background.
    ///
    /// Dropping the future leaves the object, which the API server ignores without an answer.
    pub(crate) async fn enter(
        &self,
        cluster: &Cluster,
        lock: &LockName,
        identity: &Identity,
    ) -> Result<(), Error> {
        if *identity != self.candidate.identity {
            return Err(Error::new(
                ErrorKind::InvalidInput,
                Operation::Acquire,
                format!(
                    "lease_candidate says that the candidate is \"{}\", but its identity is \
                     \"{identity}\"; give both the same name",
                    self.candidate
                ),
            ));
        }
        if self.hold().contains_key(lock) {
            return Ok(());
        }
        let api = cluster.api(Operation::Acquire).await?;
        show_life(&api, &self.candidate, lock).await?;
        let tasks = Tasks::here()?;
        let answering = tasks.spawn(answer_pings(api, self.candidate.clone(), lock.clone()));
        let answering = AbortOnDrop::new(answering.abort_handle());
        self.hold().insert(lock.clone(), answering);
        Ok(())
    }

    /// Answers no more pings, and removes the candidate's object. If that fails, the API server
    /// ignores it after a few seconds, and removes it after half an hour.
    pub(crate) async fn leave(&self, cluster: &Cluster, lock: &LockName) {
        let Some(answering) = self.hold().remove(lock) else {
            return;
        };
        drop(answering);
        let name = self.candidate.identity.as_str();
        let removing = async {
            let api = cluster.api(Operation::Withdraw).await?;
            api.delete(Operation::Withdraw, &LEASE_CANDIDATES, name)
                .await
        };
        if let Ok(Err(error)) = timeout(LIMIT, removing).await {
            tracing::debug!(%lock, %error, "the lease candidate is left behind");
        }
    }

    /// What is known of a record's holder. The API server has given the lock to us where the record
    /// names us and no campaign: then it is ours to take.
    ///
    /// The API server judges a lease by the holder's wall clock and its own. So the lock is not taken
    /// before the lease of the last holder has ended by our clock, too, unless it was given back.
    pub(crate) fn liveness(
        &self,
        lock: &str,
        holder: Option<&RecordHolder>,
        mark: &Mark,
        lease: Duration,
    ) -> Liveness {
        let now = self.clock.now();
        let mut others = self.others.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(holder) = holder else {
            others.remove(lock);
            return Liveness::Observed;
        };
        if holder.identity != self.candidate.identity.as_str() {
            if others.get(lock).is_none_or(|other| other.mark != *mark) {
                let other = Other {
                    mark: mark.clone(),
                    ends: now + lease.min(MAX_LEASE),
                };
                others.insert(lock.to_owned(), other);
            }
            return Liveness::Observed;
        }
        // Others look with the same configuration: `tenure status`, say.
        let takes_part = self.hold().keys().any(|entered| entered.as_str() == lock);
        if holder.campaign.is_some() || !takes_part {
            return Liveness::Observed;
        }
        match others.get(lock) {
            Some(other) if now < other.ends => Liveness::Until(other.ends),
            _ => Liveness::Gone,
        }
    }

    /// Where the API server prefers another leader than us, it asks us to resign.
    pub(crate) fn wish(
        &self,
        object: &Value,
        holder: Option<&RecordHolder>,
        lease: Duration,
    ) -> Option<Wish> {
        let holder = holder.filter(|holder| holder.campaign.is_some())?;
        let us = self.candidate.identity.as_str();
        let asked = holder.identity == us && prefers_another(object, us).is_some();
        let until = self.clock.now() + lease.min(MAX_LEASE);
        holder
            .token
            .filter(|_| asked)
            .map(|token| Wish::new(token, until))
    }

    /// Fails where the API server wants another leader than us: then no term begins.
    pub(crate) fn check(&self, lock: &LockName, object: &Value, step: Step) -> Result<(), Error> {
        if step != Step::Acquire {
            return Ok(());
        }
        let us = self.candidate.identity.as_str();
        let refused = |message: String| {
            Err(Error::new(
                ErrorKind::Unavailable,
                Operation::Acquire,
                message,
            ))
        };
        if object["spec"]["holderIdentity"]
            .as_str()
            .unwrap_or_default()
            != us
        {
            return refused(not_assigned(lock));
        }
        match prefers_another(object, us) {
            Some(other) => refused(format!(
                "the API server prefers \"{}\" as the leader of \"{lock}\" \
                 (spec.preferredHolder)",
                shown(other)
            )),
            None => Ok(()),
        }
    }

    fn hold(&self) -> MutexGuard<'_, HashMap<LockName, AbortOnDrop>> {
        // Whole at every step.
        self.entered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whom the API server prefers to the candidate `us`, if it does.
fn prefers_another<'a>(object: &'a Value, us: &str) -> Option<&'a str> {
    let preferred = object["spec"]["preferredHolder"].as_str();
    preferred.filter(|preferred| !preferred.is_empty() && *preferred != us)
}

/// That no candidate takes the lock by itself.
pub(crate) fn not_assigned(lock: &LockName) -> String {
    format!("the API server has not given the Lease \"{lock}\" to this candidate yet")
}

/// Makes the candidate's object, or writes into it that the candidate is alive.
async fn show_life(api: &Api, candidate: &LeaseCandidate, lock: &LockName) -> Result<(), Error> {
    let (operation, name) = (Operation::Acquire, candidate.identity.as_str());
    for _ in 0..ATTEMPTS {
        let found = api.get(operation, &LEASE_CANDIDATES, name).await?;
        let answer = match found {
            Answer::Object(mut object) => {
                let before = object["spec"]["renewTime"].as_str().map(str::to_owned);
                let other = object["spec"]["leaseName"].as_str().unwrap_or_default();
                if other != lock.as_str() {
                    return Err(Error::new(
                        ErrorKind::Misconfigured,
                        operation,
                        format!(
                            "the lease candidate \"{name}\" is one for the Lease \"{}\"; give each \
                             candidate a name of its own",
                            shown(other)
                        ),
                    ));
                }
                write(&mut object, candidate, lock, before.as_deref());
                api.update(operation, &LEASE_CANDIDATES, name, &object)
                    .await?
            }
            Answer::Absent | Answer::Conflict => {
                let mut object = LEASE_CANDIDATES.object_named(&api.namespace, name);
                write(&mut object, candidate, lock, None);
                api.create(operation, &LEASE_CANDIDATES, name, &object)
                    .await?
            }
        };
        if matches!(answer, Answer::Object(_)) {
            return Ok(());
        }
    }
    Err(Error::new(
        ErrorKind::Conflict,
        operation,
        format!("others changed the lease candidate \"{name}\" {ATTEMPTS} times in a row"),
    ))
}

fn write(object: &mut Value, candidate: &LeaseCandidate, lock: &LockName, before: Option<&str>) {
    let spec = &mut object["spec"];
    spec["leaseName"] = json!(lock.as_str());
    spec["binaryVersion"] = json!(candidate.binary_version);
    spec["emulationVersion"] = json!(candidate.emulation_version);
    spec["strategy"] = json!(STRATEGY);
    spec["renewTime"] = json!(WallTime::now().after(before).to_micro_time());
}

/// Until it is aborted.
async fn answer_pings(api: Arc<Api>, candidate: LeaseCandidate, lock: LockName) {
    let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
    loop {
        let answering = async {
            let name = candidate.identity.as_str();
            let body = timeout(LIMIT, api.watch(&LEASE_CANDIDATES, name, LASTS)).await;
            let body = body.unwrap_or_else(|_| Err(Error::timeout(Operation::Holder, LIMIT)))?;
            let mut lines = Lines::new(body);
            while let Some(line) = lines.next().await {
                if is_ping(&line) {
                    let showing = show_life(&api, &candidate, &lock);
                    let shown = timeout(LIMIT, showing).await;
                    shown.unwrap_or_else(|_| Err(Error::timeout(Operation::Acquire, LIMIT)))?;
                    backoff.reset();
                }
            }
            // It may have been removed, and a long silence counts as an end.
            timeout(LIMIT, show_life(&api, &candidate, &lock))
                .await
                .unwrap_or_else(|_| Err(Error::timeout(Operation::Acquire, LIMIT)))
        };
        match timeout(LASTS + GRACE, answering).await {
            Ok(Ok(())) | Err(_) => {}
            Ok(Err(error)) => {
                tracing::debug!(%lock, %error, "pings of the API server cannot be answered");
            }
        }
        sleep(backoff.next(None)).await;
    }
}

/// Whether an event asks for a sign of life, or tells that the object was removed.
pub(crate) fn is_ping(line: &[u8]) -> bool {
    let event: Value = serde_json::from_slice(line).unwrap_or_default();
    let spec = &event["object"]["spec"];
    match event["type"].as_str() {
        Some("DELETED") => true,
        Some("ADDED" | "MODIFIED") => {
            let (pinged, renewed) = (spec["pingTime"].as_str(), spec["renewTime"].as_str());
            // Both are written alike, in UTC with six digits.
            pinged.is_some_and(|pinged| renewed.is_none_or(|renewed| pinged > renewed))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use tenure_core::CampaignId;

    use super::*;

    /// Two would lead where clocks differ.
    #[tokio::test]
    async fn a_lock_that_is_given_to_us_is_taken_after_the_last_holders_lease() {
        let identity = Identity::new("us").unwrap();
        let coordination = Coordination::new(LeaseCandidate::new(identity, "1.0.0").unwrap());
        let holder = |identity: &str, campaign: Option<u64>| {
            RecordHolder::new(identity.to_owned()).with_campaign(campaign.map(CampaignId::new))
        };
        let long = Duration::from_secs(600);
        let judge = |holder: Option<RecordHolder>, mark: &str, lease| {
            let mark = Mark::from(mark.to_owned());
            coordination.liveness("x", holder.as_ref(), &mark, lease)
        };
        let given = || Some(holder("us", None));
        assert_eq!(
            judge(given(), "a", long),
            Liveness::Observed,
            "we take no part"
        );
        let task = tokio::spawn(std::future::pending::<()>());
        let task = AbortOnDrop::new(task.abort_handle());
        coordination
            .hold()
            .insert(LockName::new("x").unwrap(), task);
        assert_eq!(judge(given(), "a", long), Liveness::Gone);
        assert_eq!(
            judge(Some(holder("us", Some(1))), "b", long),
            Liveness::Observed
        );
        assert_eq!(
            judge(Some(holder("other", None)), "c", long),
            Liveness::Observed
        );
        assert!(matches!(judge(given(), "d", long), Liveness::Until(_)));
        // Given back.
        assert_eq!(judge(None, "e", long), Liveness::Observed);
        assert_eq!(judge(given(), "f", long), Liveness::Gone);
        // Over.
        assert_eq!(
            judge(Some(holder("other", None)), "g", Duration::ZERO),
            Liveness::Observed
        );
        assert_eq!(judge(given(), "h", long), Liveness::Gone);
    }

    #[test]
    fn a_ping_is_newer_than_the_last_sign_of_life() {
        let event = |kind: &str, spec: Value| {
            let event = json!({ "type": kind, "object": { "spec": spec } });
            event.to_string().into_bytes()
        };
        let (old, new) = ("2021-12-07T15:38:32.000001Z", "2021-12-07T15:38:32.000002Z");
        let spec =
            |pinged: &str, renewed: &str| json!({ "pingTime": pinged, "renewTime": renewed });
        assert!(is_ping(&event("MODIFIED", spec(new, old))));
        assert!(!is_ping(&event("MODIFIED", spec(old, new))));
        assert!(!is_ping(&event("ADDED", spec(old, old))));
        assert!(!is_ping(&event("ADDED", json!({ "renewTime": old }))));
        assert!(is_ping(&event("DELETED", spec(old, new))));
        assert!(!is_ping(b"{"));
    }
}
