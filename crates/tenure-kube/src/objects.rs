//! What the objects of a namespace say, and what is written to them.

use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tenure_core::record::{Liveness, Record, RecordHolder, Step, Version, Versioned, Written};
use tenure_core::{BootClock, Clock as _, Error, ErrorKind, Identity, LockName, Operation};
use tenure_kit::limits::shown;

use crate::annotations::{annotation, remove_annotation, set_annotation};
use crate::api::Api;
use crate::cluster::Cluster;
use crate::coordination::Coordination;
use crate::crowded::Crowded;
use crate::election_record::ElectionRecord;
use crate::form::Form;
use crate::intact;
use crate::own;
use crate::pods::{self, Pod};
use crate::reply::Answer;
use crate::resource::Verb;
use crate::term::{TERM_ANNOTATION, Term};
use crate::warned::Warned;
use crate::wish::{WISH_ANNOTATION, WishText};

/// The lease in a record without a holder, as client-go writes it.
const GIVEN_BACK: Duration = Duration::from_secs(1);

/// What is wrong with a record, and what to do. The program that wrote it may read it well, so its
/// holder may be at work. The object itself says its name and namespace, with any bytes.
pub(crate) fn unreadable<F: Form>(namespace: &str, lock: &str, problem: &str) -> String {
    let (namespace, lock) = (&*shown(namespace), &*shown(lock));
    format!(
        "the {} \"{lock}\" in the namespace \"{namespace}\" cannot be read: {problem}; its holder \
         may be alive: stop all programs that use it first, and only then remove the record: {}",
        F::RESOURCE.kind,
        F::removal(namespace, lock)
    )
}

/// That an object is missing which is not made here, and the command that makes it.
pub(crate) fn not_made<F: Form>(namespace: &str, lock: &LockName) -> String {
    format!(
        "the {} \"{lock}\" in the namespace \"{namespace}\" is not there, and create=false says \
         that another program makes it: kubectl create -f - <<< '{}'",
        F::RESOURCE.kind,
        F::RESOURCE.object(namespace, lock)
    )
}

/// The objects of a namespace that hold records in the form `F`.
pub(crate) struct Objects<F> {
    pub(crate) cluster: Cluster,
    pub(crate) crowded: Crowded,
    /// Where the API server decides who leads.
    pub(crate) coordination: Option<Coordination>,
    /// That locks cannot be watched.
    pub(crate) warned_of_watch: Warned,
    /// That pods cannot be looked at.
    warned_of_pods: Warned,
    form: PhantomData<F>,
}

impl<F: Form> Objects<F> {
    pub(crate) fn new(cluster: Cluster) -> Self {
        let candidate = cluster.config().lease_candidate.clone();
        Self {
            coordination: candidate.map(Coordination::new),
            cluster,
            crowded: Crowded::default(),
            warned_of_watch: Warned::default(),
            warned_of_pods: Warned::default(),
            form: PhantomData,
        }
    }

    /// Reads an object as it came from the API server.
    pub(crate) fn versioned(&self, object: Value) -> Result<Versioned, Error> {
        let corrupted = |problem: &str| {
            let part = |name: &str| object["metadata"][name].as_str().unwrap_or_default();
            Error::new(
                ErrorKind::Corrupted,
                Operation::Holder,
                unreadable::<F>(part("namespace"), part("name"), problem),
            )
        };
        let version = object["metadata"]["resourceVersion"]
            .as_str()
            .and_then(Version::parse)
            .ok_or_else(|| corrupted("its resourceVersion is no number"))?;
        let found = F::read(&object).map_err(|problem| corrupted(&problem))?;
        let found = found.unwrap_or_default();
        let mark = found.mark(object["metadata"]["uid"].as_str());
        let holder = (!found.holder.is_empty())
            .then(|| Term::holder(annotation(&object, TERM_ANNOTATION), &found));
        let liveness = match (&self.coordination, &holder) {
            (Some(coordination), holder) => {
                let lock = object["metadata"]["name"].as_str().unwrap_or_default();
                coordination.liveness(lock, holder.as_ref(), &mark, found.lease())
            }
            (None, Some(holder)) if self.is_of_earlier_self(holder) => Liveness::Gone,
            (None, _) => Liveness::Observed,
        };
        // One that is over, or for another term, must not stand before the API server's.
        let token = holder.as_ref().and_then(|holder| holder.token);
        let asked = WishText::read(annotation(&object, WISH_ANNOTATION))
            .filter(|wish| token.is_some_and(|token| wish.counts_for(token, BootClock.now())));
        let preferred = |coordination: &Coordination| {
            coordination.wish(&object, holder.as_ref(), found.lease())
        };
        let wish = asked.or_else(|| self.coordination.as_ref().and_then(preferred));
        let record = Record::new(holder, found.lease());
        Ok(Versioned::new(record, version)
            .with_wish(wish)
            .with_mark(mark)
            .with_liveness(liveness)
            .with_state(Arc::new(object)))
    }

    /// Whether holders' pods are looked at.
    pub(crate) fn minds_pods(&self) -> bool {
        self.cluster.config().gone_pods
    }

    /// `found`, with what its holder's pod tells of it if that counts.
    pub(crate) async fn with_pod(&self, api: &Api, found: Versioned) -> Versioned {
        let holder = found.record.holder.as_ref();
        let pod = holder.and_then(|holder| pods::pod_of(&holder.identity));
        // Pods of other namespaces would not be found where we look.
        let looked_at = |pod: &Pod<'_>| self.minds_pods() && pod.namespace == api.namespace;
        let Some(pod) = pod.filter(looked_at) else {
            return found;
        };
        match pods::is_gone(api, &pod).await {
            Ok(true) => found.with_liveness(Liveness::Gone),
            Ok(false) => found,
            // Then its lease counts, as without the option.
            Err(error) => {
                if error.kind() == ErrorKind::Forbidden && self.warned_of_pods.first() {
                    tracing::warn!(
                        %error,
                        "without the verb \"get\" on pods a holder whose pod is gone keeps its lease"
                    );
                }
                found
            }
        }
    }

    fn is_of_earlier_self(&self, holder: &RecordHolder) -> bool {
        self.may_be_taken_back(holder) && !holder.campaign.is_some_and(own::contains)
    }

    /// Whether the holder has the identity of this process, or of an earlier one in its place.
    fn may_be_taken_back(&self, holder: &RecordHolder) -> bool {
        let reclaim = &self.cluster.config().reclaim;
        let is_ours = |identity: &Identity| identity.as_str() == holder.identity;
        reclaim.as_ref().is_some_and(is_ours)
    }

    /// Before the request is sent: its answer may be lost. A campaign's number alone could be that of
    /// another candidate, and of an earlier self.
    pub(crate) fn remember(&self, record: &Record) {
        if let Some(holder) = &record.holder
            && self.may_be_taken_back(holder)
            && let Some(campaign) = holder.campaign
        {
            own::remember(campaign);
        }
    }

    /// An object for `lock` that says nothing yet. Fails where objects are not made.
    pub(crate) fn new_object(&self, namespace: &str, lock: &LockName) -> Result<Value, Error> {
        let config = self.cluster.config();
        let mut object = F::RESOURCE.object(namespace, lock);
        if !config.creates {
            return Err(Error::new(
                ErrorKind::Misconfigured,
                Operation::Acquire,
                not_made::<F>(namespace, lock),
            ));
        }
        config.write_new(&mut object);
        Ok(object)
    }

    /// The object that says `record`, made of `object`: all that is not ours stays as it is.
    pub(crate) fn written(
        &self,
        mut object: Value,
        found: Option<&ElectionRecord>,
        record: &Record,
        step: Step,
    ) -> Value {
        let next = ElectionRecord::next(found, record, step, F::time);
        F::write(&mut object, &next);
        let term = record
            .holder
            .as_ref()
            .and_then(|holder| Term::text(holder, &next));
        match term {
            Some(term) => set_annotation(&mut object, TERM_ANNOTATION, term),
            None => remove_annotation(&mut object, TERM_ANNOTATION),
        }
        if step != Step::Renew {
            remove_annotation(&mut object, WISH_ANNOTATION);
        }
        self.cluster.config().write_labels(&mut object);
        object
    }

    /// What a write of `sent` has come to. A term that the object does not tell as it was written
    /// does not begin: its claim is given back at once. One that is altered at a renewal is
    /// over. Dropping the future, or an error of that, leaves
    /// the claim to end with its lease.
    pub(crate) async fn settled(
        &self,
        api: &Api,
        lock: &LockName,
        step: Step,
        sent: &Value,
        answer: Answer,
    ) -> Result<Written, Error> {
        let written = self.applied(answer)?;
        if let Written::Applied(found) = &written
            && let Some(kept) = found.state::<Value>()
            && step != Step::Release
        {
            let request = api.request(step.operation(), Verb::Update, &F::RESOURCE, lock.as_str());
            let Some(altered) = intact::altered::<F>(&request, sent, &kept) else {
                return Ok(written);
            };
            if step == Step::Acquire {
                self.give_back(api, lock, &kept).await;
                return Err(altered);
            }
            tracing::error!(%lock, error = %altered, "the term ends");
            return Ok(Written::Altered);
        }
        Ok(written)
    }

    /// Gives back the claim in `kept`, if nobody has written the object since.
    async fn give_back(&self, api: &Api, lock: &LockName, kept: &Value) {
        let found = F::read(kept).ok().flatten();
        let free = Record::new(None, GIVEN_BACK);
        let object = self.written(kept.clone(), found.as_ref(), &free, Step::Release);
        let giving_back = api.update(Operation::Acquire, &F::RESOURCE, lock.as_str(), &object);
        if let Err(error) = giving_back.await {
            tracing::debug!(%lock, %error, "a record without a term is left to end by itself");
        }
    }

    fn applied(&self, answer: Answer) -> Result<Written, Error> {
        match answer {
            Answer::Object(object) => Ok(Written::Applied(self.versioned(object)?)),
            Answer::Absent | Answer::Conflict => Ok(Written::Conflict),
        }
    }
}
