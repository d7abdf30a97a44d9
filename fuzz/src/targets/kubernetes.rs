//! Objects, watches and errors of an API server; kubeconfigs and credential helpers.

use std::fmt::Debug;
use std::thread::LocalKey;

use serde_json::Value;
use tenure_core::record::{Step, Versioned};
use tenure_kube::fuzzing::{self, Reader};
use tenure_kube::{Form, KubeConfig};
use tenure_kube_configmap::ConfigMapForm;
use tenure_kube_lease::LeaseForm;
use tokio::runtime::Runtime;

use crate::{inputs, plant, rules};

/// A reader and what it runs on: they are made once a thread, because that takes most of the time.
struct On<F> {
    runtime: Runtime,
    reader: Reader<F>,
}

impl<F: Form> On<F> {
    fn new() -> Option<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().ok()?;
        let entered = runtime.enter();
        let config = KubeConfig::server("http://127.0.0.1:1").namespace("default");
        let reader = Reader::new(config.ok()?).ok()?;
        drop(entered);
        Some(Self { runtime, reader })
    }
}

/// A Lease, as an object and as a line of a watch.
pub(crate) fn lease(input: &[u8]) {
    thread_local!(static READER: Option<On<LeaseForm>> = On::new());
    object(&READER, input);
}

/// A `ConfigMap`, as an object and as a line of a watch.
pub(crate) fn config_map(input: &[u8]) {
    thread_local!(static READER: Option<On<ConfigMapForm>> = On::new());
    object(&READER, input);
}

fn object<F: Form + Debug>(readers: &'static LocalKey<Option<On<F>>>, input: &[u8]) {
    readers.with(|reader| {
        if let Some(On { runtime, reader }) = reader {
            let _entered = runtime.enter();
            read(reader, input);
        }
    });
}

fn read<F: Form>(reader: &Reader<F>, input: &[u8]) {
    let line = input.trim_ascii_end();
    if let Some(found) = reader.event(line) {
        check(reader, None, &found);
    }
    let Ok(object) = serde_json::from_slice::<Value>(input) else {
        return;
    };
    match reader.object(object.clone()) {
        Ok(found) => check(reader, Some(&object), &found),
        Err(error) => rules::error(&error),
    }
}

/// What was read can be written, and is then read as written.
fn check<F: Form>(reader: &Reader<F>, object: Option<&Value>, found: &Versioned) {
    let record = &found.record;
    assert!(!record.lease.is_zero(), "a lease of nothing");
    if let Some(holder) = &record.holder {
        plant::at(record.lease.as_secs() > 20, &holder.identity);
    }
    let Some(object) = object else {
        return;
    };
    for step in [Step::Acquire, Step::Renew, Step::Release] {
        let next = reader.next(object.clone(), found, step);
        let again = match reader.object(next) {
            Ok(again) => again,
            Err(error) => panic!("not read by ourselves: {error}"),
        };
        let identity = |found: &Versioned| {
            let holder = found.record.holder.as_ref();
            holder.map(|holder| holder.identity.clone())
        };
        assert_eq!(identity(&again), identity(found), "another holder");
    }
}

/// The status and the body of an answer; the body is taken for a credential helper's output too.
pub(crate) fn answer(input: &[u8]) {
    let Some((status, body)) = input.split_first_chunk::<2>() else {
        return;
    };
    let status = 400 + u16::from_le_bytes(*status) % 200;
    if let Some(error) = fuzzing::refusal::<LeaseForm>(status, body) {
        rules::error(&error);
        plant::at(status == 429, error.message());
    }
    let _usable = fuzzing::credentials(body);
}

/// A context's name, a line's end, and a kubeconfig; the name is taken for the URL's options too.
pub(crate) fn kubeconfig(input: &[u8]) {
    let Some(text) = inputs::text(input) else {
        return;
    };
    let (context, yaml) = inputs::line(text);
    let _read = fuzzing::options(context);
    let context = (!context.is_empty()).then_some(context);
    match fuzzing::kubeconfig(yaml, context) {
        Ok(()) => plant::at(context.is_some(), yaml),
        Err(message) => rules::message(&message),
    }
}
