//! Doors for the fuzz targets of this repository. No part of the interface: anything here may change.

use std::fmt;
use std::sync::Arc;

use http::{HeaderMap, StatusCode};
use kube::config::Kubeconfig;
use serde_json::Value;
use tenure_core::record::{RecordEvent, Step, Versioned};
use tenure_core::{Error, Operation};

use crate::cluster::Cluster;
use crate::config::KubeConfig;
use crate::coordination;
use crate::errors::{self, Refuser, Request};
use crate::form::Form;
use crate::lease_candidate::LeaseCandidate;
use crate::objects::Objects;
use crate::owner::Owner;
use crate::resource::Verb;
use crate::watch::{self, Read};
use crate::{helper, kubeconfig};

/// Reads what an API server says of the objects of one form.
pub struct Reader<F>(Arc<Objects<F>>);

impl<F: Form> fmt::Debug for Reader<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").finish_non_exhaustive()
    }
}

impl<F: Form> Reader<F> {
    /// Sends nothing. Has to be called on a runtime.
    pub fn new(config: KubeConfig) -> Result<Self, Error> {
        Ok(Self(Arc::new(Objects::new(Cluster::lazy(config)?))))
    }

    /// An object, as the answer to a read.
    pub fn object(&self, object: Value) -> Result<Versioned, Error> {
        self.0.versioned(object)
    }

    /// The next object after `found`, as it is written with `record`.
    pub fn next(&self, object: Value, found: &Versioned, step: Step) -> Value {
        let before = F::read(&object).ok().flatten();
        self.0.written(object, before.as_ref(), &found.record, step)
    }

    /// A line of a watch: the object that it tells of, if it does.
    pub fn event(&self, line: &[u8]) -> Option<Versioned> {
        let _pinged = coordination::is_ping(line);
        match watch::read(&self.0, line) {
            Read::Event(RecordEvent::Is(found)) => Some(found),
            _ => None,
        }
    }
}

/// The error for an answer with this status.
pub fn refusal<F: Form>(status: u16, body: &[u8]) -> Option<Error> {
    let request = Request {
        operation: Operation::Acquire,
        verb: Verb::Update,
        resource: &F::RESOURCE,
        namespace: "default",
        name: "lock",
    };
    let status = StatusCode::from_u16(status).ok()?;
    let refuser = Refuser::of(&request, body);
    let no_headers = HeaderMap::new();
    Some(errors::refused(
        &request,
        status,
        &no_headers,
        body,
        refuser,
    ))
}

/// A kubeconfig that names no files. Whether it can be used.
pub fn kubeconfig(text: &str, context: Option<&str>) -> Result<(), String> {
    let mut read = Kubeconfig::from_yaml(text)
        .map_err(|error| kubeconfig::unreadable(&error).message().to_owned())?;
    for named in &mut read.clusters {
        if let Some(cluster) = &mut named.cluster {
            cluster.certificate_authority = None;
        }
    }
    let access = kubeconfig::access_of(&read, context);
    access.map(drop).map_err(|error| error.message().to_owned())
}

/// What a credential helper prints. Whether it can be used.
pub fn credentials(output: &[u8]) -> bool {
    helper::read(output).is_ok()
}

/// Two options of the URL. Whether each can be read.
pub fn options(text: &str) -> (bool, bool) {
    (
        LeaseCandidate::parse(text).is_ok(),
        Owner::parse(text).is_ok(),
    )
}
