//! [`ObjectStore`]: the records of a namespace, one object per lock.

use std::collections::HashSet;
use std::fmt;
use std::marker::PhantomData;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Map, Value, json};
use tenure_core::record::{
    Liveness, Record, RecordEvents, RecordHolder, RecordStore, Step, Versioned, Written,
};
use tenure_core::{
    BootClock, CampaignId, Capabilities, Check, Error, ErrorKind, Expiry, FencingGuarantee,
    Identity, LockName, Operation, Order, Rises, SharedClock, Wakeup,
};

use crate::checks;
use crate::client::{Answer, Cluster};
use crate::pods::{self, Pod};
use crate::term::{TERM_ANNOTATION, Term, annotation};
use crate::watch::{self, Warned};
use crate::{ElectionRecord, KubeConfig, Resource, WallTime};

/// How the record of an election stands in a kind of object.
pub trait Form: fmt::Debug + Send + Sync + 'static {
    /// The kind of object.
    const RESOURCE: Resource;

    /// The store's name, as in logs and metrics.
    const STORE: &'static str;

    /// The record in `object`; `None` if there is none, and the text of the problem if there is
    /// something else in its place.
    fn read(object: &Value) -> Result<Option<ElectionRecord>, String>;

    /// Puts `record` in the place of the one in `object`, and leaves all else there as it is.
    fn write(object: &mut Value, record: &ElectionRecord);

    /// A time as it stands in the record.
    fn time(time: WallTime) -> String;
}

/// The records of a namespace in objects of the form `F`.
///
/// Clones share one connection.
pub struct ObjectStore<F> {
    objects: Arc<Objects<F>>,
}

pub(crate) struct Objects<F> {
    pub(crate) cluster: Cluster,
    pub(crate) warned: Warned,
    labels: Vec<(String, String)>,
    reclaim: Option<Identity>,
    gone_pods: bool,
    /// Warns once that pods cannot be looked at.
    warned_of_pods: Warned,
    /// The campaigns that this process itself has won locks with as `reclaim`.
    own: Mutex<HashSet<CampaignId>>,
    form: PhantomData<F>,
}

impl<F> Clone for ObjectStore<F> {
    fn clone(&self) -> Self {
        Self {
            objects: self.objects.clone(),
        }
    }
}

impl<F: Form> fmt::Debug for ObjectStore<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ObjectStore")
            .field("store", &F::STORE)
            .field("cluster", &self.objects.cluster)
            .finish_non_exhaustive()
    }
}

impl<F: Form> ObjectStore<F> {
    /// The records in the namespace of `cluster`; `config` says how they are written.
    pub fn new(cluster: Cluster, config: &KubeConfig) -> Self {
        Self {
            objects: Arc::new(Objects {
                cluster,
                warned: Warned::default(),
                labels: config.labels.clone(),
                reclaim: config.reclaim.clone(),
                gone_pods: config.gone_pods,
                warned_of_pods: Warned::default(),
                own: Mutex::default(),
                form: PhantomData,
            }),
        }
    }

    /// The cluster and namespace.
    pub fn cluster(&self) -> &Cluster {
        &self.objects.cluster
    }
}

impl<F: Form> Objects<F> {
    /// Reads an object as it came from the API server.
    pub(crate) fn versioned(&self, object: Value) -> Result<Versioned, Error> {
        let corrupted = |problem: &str| {
            Error::new(
                ErrorKind::Corrupted,
                Operation::Holder,
                format!(
                    "the {} \"{}\" in the namespace \"{}\" cannot be read: {problem}; if nothing \
                     else needs it, delete it",
                    F::RESOURCE.kind,
                    object["metadata"]["name"].as_str().unwrap_or_default(),
                    self.cluster.namespace()
                ),
            )
        };
        let version = object["metadata"]["resourceVersion"]
            .as_str()
            .and_then(|version| version.parse().ok())
            .ok_or_else(|| corrupted("its resourceVersion is no number"))?;
        let found = F::read(&object).map_err(|problem| corrupted(&problem))?;
        let found = found.unwrap_or_default();
        let holder = (!found.holder.is_empty())
            .then(|| Term::holder(annotation(&object, TERM_ANNOTATION), &found));
        let liveness = match &holder {
            Some(holder) if self.is_of_earlier_self(holder) => Liveness::Gone,
            _ => Liveness::Observed,
        };
        let record = Record {
            holder,
            // A holder with nothing, with less or with nonsense has been given a second by others.
            lease: Duration::from_secs(u64::try_from(found.lease_seconds).unwrap_or(0).max(1)),
        };
        Ok(Versioned::new(record, version)
            .with_liveness(liveness)
            .with_state(Arc::new(object)))
    }

    /// Whether holders' pods are looked at.
    pub(crate) fn minds_pods(&self) -> bool {
        self.gone_pods
    }

    /// `found`, with what its holder's pod tells of it if that counts.
    pub(crate) async fn with_pod(&self, found: Versioned) -> Versioned {
        let holder = found.record.holder.as_ref();
        let pod = holder.and_then(|holder| pods::pod_of(&holder.identity));
        // Pods of other namespaces would not be found where we look.
        let looked_at = |pod: &Pod<'_>| self.gone_pods && pod.namespace == self.cluster.namespace();
        let Some(pod) = pod.filter(looked_at) else {
            return found;
        };
        match pods::is_gone(&self.cluster, &pod).await {
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
        let Some(own) = &self.reclaim else {
            return false;
        };
        let mine = self.own.lock().unwrap_or_else(PoisonError::into_inner);
        holder.identity == own.as_str()
            && !holder
                .campaign
                .is_some_and(|campaign| mine.contains(&campaign))
    }

    /// Before the request is sent: its answer may be lost.
    fn remember(&self, record: &Record) {
        let (Some(own), Some(holder)) = (&self.reclaim, &record.holder) else {
            return;
        };
        // A campaign's number alone could be that of another candidate, and of an earlier self.
        if holder.identity == own.as_str()
            && let Some(campaign) = holder.campaign
        {
            let mut mine = self.own.lock().unwrap_or_else(PoisonError::into_inner);
            mine.insert(campaign);
        }
    }

    /// The object that says `record`, made of `object`: all that is not ours stays as it is.
    fn written(
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
        for (name, value) in &self.labels {
            fields(&mut object["metadata"]["labels"]).insert(name.clone(), json!(value));
        }
        object
    }

    fn applied(&self, answer: Answer) -> Result<Written, Error> {
        match answer {
            Answer::Object(object) => Ok(Written::Applied(self.versioned(object)?)),
            Answer::Absent | Answer::Conflict => Ok(Written::Conflict),
        }
    }
}

/// The fields of an object, made one if it is none yet.
fn fields(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    match value {
        Value::Object(fields) => fields,
        _ => unreachable!("it was made an object just now"),
    }
}

/// Sets an annotation of `object`.
pub fn set_annotation(object: &mut Value, name: &str, text: String) {
    fields(&mut object["metadata"]["annotations"]).insert(name.to_owned(), Value::String(text));
}

fn remove_annotation(object: &mut Value, name: &str) {
    if let Some(annotations) = object["metadata"]["annotations"].as_object_mut() {
        annotations.remove(name);
    }
}

fn operation_of(step: Step) -> Operation {
    match step {
        Step::Acquire => Operation::Acquire,
        Step::Renew => Operation::Renew,
        Step::Release => Operation::Release,
    }
}

#[async_trait]
impl<F: Form> RecordStore for ObjectStore<F> {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            store: F::STORE,
            min_lease: Duration::from_secs(1),
            lease_granularity: Duration::from_secs(1),
            expiry: Expiry::Observation,
            expiry_lag: Duration::ZERO,
            wakeup: Wakeup::Push,
            order: Order::Race,
            fencing: FencingGuarantee {
                over_crash: Rises::Always,
                over_failover: Rises::Always,
                over_deletion: Rises::Always,
                over_restore: Rises::Never,
            },
        }
    }

    fn clock(&self) -> SharedClock {
        BootClock::shared()
    }

    async fn get(&self, lock: &LockName) -> Result<Option<Versioned>, Error> {
        let cluster = &self.objects.cluster;
        let answer = cluster
            .get(Operation::Holder, &F::RESOURCE, lock.as_str())
            .await?;
        match answer {
            Answer::Object(object) => {
                let found = self.objects.versioned(object)?;
                Ok(Some(self.objects.with_pod(found).await))
            }
            Answer::Absent | Answer::Conflict => Ok(None),
        }
    }

    async fn create(&self, lock: &LockName, record: &Record) -> Result<Written, Error> {
        let objects = &self.objects;
        let object = json!({
            "apiVersion": F::RESOURCE.api_version(),
            "kind": F::RESOURCE.kind,
            "metadata": { "name": lock.as_str(), "namespace": objects.cluster.namespace() },
        });
        objects.remember(record);
        let object = objects.written(object, None, record, Step::Acquire);
        let answer = objects
            .cluster
            .create(Operation::Acquire, &F::RESOURCE, lock.as_str(), &object)
            .await?;
        objects.applied(answer)
    }

    async fn replace(
        &self,
        lock: &LockName,
        record: &Record,
        step: Step,
        expected: &Versioned,
    ) -> Result<Written, Error> {
        let objects = &self.objects;
        let operation = operation_of(step);
        let Some(object) = expected.state::<Value>() else {
            return Err(Error::new(
                ErrorKind::InvalidInput,
                operation,
                "this grant comes from another backend",
            ));
        };
        let found = F::read(&object).ok().flatten().unwrap_or_default();
        if step == Step::Acquire {
            objects.remember(record);
        }
        let object = objects.written(Value::clone(&object), Some(&found), record, step);
        let answer = objects
            .cluster
            .update(operation, &F::RESOURCE, lock.as_str(), &object)
            .await?;
        objects.applied(answer)
    }

    async fn checks(&self, lock: &LockName, lease: Duration) -> Vec<Check> {
        let objects = &self.objects;
        checks::all::<F>(&objects.cluster, lock, lease, objects.gone_pods).await
    }

    fn watch(&self, lock: &LockName) -> RecordEvents {
        watch::events(self.objects.clone(), lock.clone())
    }
}
