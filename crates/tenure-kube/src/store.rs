//! [`ObjectStore`]: the records of a namespace, one object per lock.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::Value;
use tenure_core::record::{
    Record, RecordEvents, RecordHolder, RecordStore, Step, Versioned, Written,
};
use tenure_core::{
    BootClock, Capabilities, Check, Error, ErrorKind, Expiry, FencingGuarantee, FencingToken,
    Identity, LockName, Operation, Page, Rises, SharedClock, Time, Wakeup,
};

use crate::annotations::set_annotation;
use crate::checks;
use crate::cluster::Cluster;
use crate::coordination;
use crate::form::Form;
use crate::objects::Objects;
use crate::own;
use crate::reply::Answer;
use crate::watch;
use crate::wish::{WISH_ANNOTATION, WishText};

/// So often an object that others write all the time is read again within one attempt to write it.
const FOREIGN_WRITES: usize = 10;

/// How many objects one request lists, and how many requests are made for a page at most.
const AT_A_TIME: usize = 250;
const MOST_LISTS: usize = 40;

/// The records of a namespace in objects of the form `F`.
///
/// Clones share one connection.
pub struct ObjectStore<F> {
    objects: Arc<Objects<F>>,
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
    /// The records in the namespace of `cluster`, whose configuration says how they are written.
    pub fn new(cluster: Cluster) -> Self {
        Self {
            objects: Arc::new(Objects::new(cluster)),
        }
    }

    /// The cluster and namespace.
    pub fn cluster(&self) -> &Cluster {
        &self.objects.cluster
    }

    /// Takes part in the election of `lock`, where the API server decides who leads; elsewhere it
    /// does nothing. Before each attempt to acquire.
    ///
    /// Fails with [`InvalidInput`](ErrorKind::InvalidInput) if `identity` is not the
    /// [`LeaseCandidate`](crate::LeaseCandidate)'s, and as requests do. Dropping the future leaves
    /// the candidate's object, which the API server ignores after a few seconds.
    pub async fn enter(&self, lock: &LockName, identity: &Identity) -> Result<(), Error> {
        match &self.objects.coordination {
            Some(coordination) => {
                let cluster = &self.objects.cluster;
                coordination.enter(cluster, lock, identity).await
            }
            None => Ok(()),
        }
    }

    /// Takes part no more. Before the lock is given back: while the candidate's object is there, the
    /// API server could give the lock to us again, and the next leader would wait for that lease.
    ///
    /// Takes 5 s at most, without an answer. A second call does not wait. Dropping the future leaves
    /// the candidate's object, as if there had been no answer.
    pub async fn leave(&self, lock: &LockName) {
        if let Some(coordination) = &self.objects.coordination {
            coordination.leave(&self.objects.cluster, lock).await;
        }
    }
}

/// Whether the holder's term may be the one with `token`. A record tells its token from the first
/// renewal on, and the leader compares it anyway.
fn may_have(holder: &RecordHolder, token: FencingToken) -> bool {
    match holder.token {
        Some(told) => told == token,
        None => holder.campaign.is_some(),
    }
}

/// Whether only others have written since: beside the record, or over the annotation that names its
/// campaign.
fn is_same_record(found: &Versioned, expected: &Versioned) -> bool {
    let campaign = |of: &Versioned| of.record.holder.as_ref().and_then(|holder| holder.campaign);
    let of_found = campaign(found);
    found.mark == expected.mark && (of_found.is_none() || of_found == campaign(expected))
}

#[async_trait]
impl<F: Form> RecordStore for ObjectStore<F> {
    fn capabilities(&self) -> Capabilities {
        Capabilities::new(
            F::STORE,
            Expiry::Observation,
            FencingGuarantee::none()
                .over_crash(Rises::Always)
                .over_failover(Rises::Always)
                .over_deletion(Rises::Always),
        )
        .with_wakeup(Wakeup::Push)
    }

    fn clock(&self) -> SharedClock {
        BootClock::shared()
    }

    fn may_go_on(&self, began_at: Time) -> bool {
        self.objects.cluster.may_go_on(began_at)
    }

    async fn get(&self, lock: &LockName) -> Result<Option<Versioned>, Error> {
        let api = self.objects.cluster.api(Operation::Holder).await?;
        let answer = api
            .get(Operation::Holder, &F::RESOURCE, lock.as_str())
            .await?;
        match answer {
            Answer::Object(object) => {
                let found = self.objects.versioned(object)?;
                Ok(Some(self.objects.with_pod(&api, found).await))
            }
            Answer::Absent | Answer::Conflict => Ok(None),
        }
    }

    async fn create(&self, lock: &LockName, record: &Record) -> Result<Written, Error> {
        let objects = &self.objects;
        if objects.coordination.is_some() {
            let message = coordination::not_assigned(lock);
            return Err(Error::new(
                ErrorKind::Unavailable,
                Operation::Acquire,
                message,
            ));
        }
        let api = objects.cluster.api(Operation::Acquire).await?;
        let object = objects.new_object(&api.namespace, lock)?;
        objects.remember(record);
        let object = objects.written(object, None, record, Step::Acquire);
        let answer = api
            .create(Operation::Acquire, &F::RESOURCE, lock.as_str(), &object)
            .await?;
        let step = Step::Acquire;
        objects.settled(&api, lock, step, &object, answer).await
    }

    async fn replace(
        &self,
        lock: &LockName,
        record: &Record,
        step: Step,
        expected: &Versioned,
    ) -> Result<Written, Error> {
        let objects = &self.objects;
        let operation = step.operation();
        let foreign = || {
            Error::new(
                ErrorKind::InvalidInput,
                operation,
                "this grant comes from another backend",
            )
        };
        if step == Step::Acquire {
            objects.remember(record);
        }
        let api = objects.cluster.api(operation).await?;
        let mut expected = expected.clone();
        for _ in 0..=FOREIGN_WRITES {
            let object = expected.state::<Value>().ok_or_else(foreign)?;
            if let Some(coordination) = &objects.coordination {
                coordination.check(lock, &object, step)?;
            }
            let found = F::read(&object).ok().flatten().unwrap_or_default();
            let object = objects.written(Value::clone(&object), Some(&found), record, step);
            let answer = api.update(operation, &F::RESOURCE, lock.as_str(), &object);
            let answer = answer.await?;
            let written = objects.settled(&api, lock, step, &object, answer).await?;
            if let Written::Applied(_) = written {
                objects.crowded.write_succeeded(lock);
                if step == Step::Release {
                    own::forget(&expected.record);
                }
                return Ok(written);
            }
            if let Written::Altered = written {
                return Ok(written);
            }
            // The token of a new term must be checked before each write: that is the caller's.
            let is_crowded = objects.crowded.write_failed(lock, &expected.version);
            if !is_crowded || step == Step::Acquire {
                return Ok(written);
            }
            // Under an unchanged mark it is the record that was judged, and the next write is
            // conditional on this exact version again.
            match api.get(operation, &F::RESOURCE, lock.as_str()).await? {
                Answer::Object(object) => match objects.versioned(object) {
                    Ok(found) if is_same_record(&found, &expected) => expected = found,
                    _ => return Ok(written),
                },
                Answer::Absent | Answer::Conflict => return Ok(written),
            }
        }
        Ok(Written::Conflict)
    }

    /// Needs the verbs of a candidate, "get" and "update", and no other.
    async fn ask_to_resign(
        &self,
        lock: &LockName,
        token: FencingToken,
        lasts: Duration,
    ) -> Result<(), Error> {
        let (operation, name) = (Operation::AskToResign, lock.as_str());
        let api = self.objects.cluster.api(operation).await?;
        for _ in 0..=FOREIGN_WRITES {
            let Answer::Object(object) = api.get(operation, &F::RESOURCE, name).await? else {
                return Ok(());
            };
            let mut asked = object.clone();
            let found = self.objects.versioned(object)?;
            if !found.record.holder.is_some_and(|it| may_have(&it, token)) {
                return Ok(());
            }
            set_annotation(&mut asked, WISH_ANNOTATION, WishText::write(token, lasts));
            let answer = api.update(operation, &F::RESOURCE, name, &asked).await?;
            if let Answer::Object(_) = answer {
                return Ok(());
            }
        }
        Err(Error::new(
            ErrorKind::Conflict,
            operation,
            format!("others changed the object {FOREIGN_WRITES} times in a row"),
        ))
    }

    /// Objects whose record says when its holder came: those of nodes and API servers do not.
    ///
    /// Needs the verb "list" beyond what a candidate needs.
    async fn elections(&self, page: Page<'_>) -> Result<Vec<LockName>, Error> {
        let api = self.objects.cluster.api(Operation::List).await?;
        let (mut names, mut go_on): (Vec<LockName>, Option<String>) = (Vec::new(), None);
        for _ in 0..MOST_LISTS {
            let listing = api.list(Operation::List, &F::RESOURCE, AT_A_TIME, go_on.as_deref());
            let (objects, next) = listing.await?;
            let elections = objects.iter().filter(|object| {
                F::read(object).is_ok_and(|found| found.is_some_and(|it| it.acquired.is_some()))
            });
            let told = elections.filter_map(|object| object["metadata"]["name"].as_str());
            names.extend(told.filter_map(|name| LockName::new(name).ok()));
            names = page.of(names);
            // They come in the order of their names.
            if next.is_none() || names.len() >= page.most {
                return Ok(names);
            }
            go_on = next;
        }
        Err(Error::new(
            ErrorKind::Unsupported,
            Operation::List,
            format!(
                "the namespace has more than {} objects",
                AT_A_TIME * MOST_LISTS
            ),
        ))
    }

    async fn checks(&self, lock: &LockName, lease: Duration) -> Vec<Check> {
        checks::all::<F>(&self.objects.cluster, lock, lease).await
    }

    fn watch(&self, lock: &LockName) -> RecordEvents {
        watch::events(self.objects.clone(), lock.clone())
    }
}
