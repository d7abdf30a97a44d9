//! Objects, watches and errors of an API server; kubeconfigs and credential helpers.

use std::fmt::Debug;

use serde_json::Value;
use tenure_core::record::{Step, Versioned};
use tenure_kube::fuzzing::{self, Reader};
use tenure_kube::{Form, KubeConfig};
use tenure_kube_configmap::ConfigMapForm;
use tenure_kube_lease::LeaseForm;

use crate::{inputs, plant, rules};

/// A Lease, as an object and as a line of a watch.
pub(crate) fn lease(input: &[u8]) {
    object::<LeaseForm>(input);
}

/// A `ConfigMap`, as an object and as a line of a watch.
pub(crate) fn config_map(input: &[u8]) {
    object::<ConfigMapForm>(input);
}

fn object<F: Form + Debug>(input: &[u8]) {
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().build() else {
        return;
    };
    let _entered = runtime.enter();
    let config = KubeConfig::server("http://127.0.0.1:1").namespace("default");
    let Some(reader) = config.and_then(Reader::<F>::new).ok() else {
        return;
    };
    let line = input.trim_ascii_end();
    if let Some(found) = reader.event(line) {
        check(&reader, None, &found);
    }
    let Ok(object) = serde_json::from_slice::<Value>(input) else {
        return;
    };
    match reader.object(object.clone()) {
        Ok(found) => check(&reader, Some(&object), &found),
        Err(error) => rules::error(&error),
    }
}

/// What was read can be written, and is then read as written.
fn check<F: Form>(reader: &Reader<F>, object: Option<&Value>, found: &Versioned) {
    let record = &found.record;
    assert!(!record.lease.is_zero(), "a lease of nothing");
    let rare = |holder: &tenure_core::record::RecordHolder| plant::marks(&holder.identity);
    plant::at(record.holder.as_ref().is_some_and(rare) && record.lease.as_secs() > 20);
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
        plant::at(status == 429 && plant::marks(error.message()));
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
        Ok(()) => plant::at(yaml.lines().any(plant::marks)),
        Err(message) => rules::message(&message),
    }
}
