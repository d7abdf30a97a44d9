//! Short spans for exporters of traces, one for each call to the store.
//!
//! An exporter sees a span when it ends, and keeps what happened in it until then. So a term's span
//! is of no use to it, and the target of these is one of their own, to be exported alone.

use tracing::Span;
use tracing::level_filters::LevelFilter;

use crate::contract::error::{Error, Operation};
use crate::contract::name::{Identity, LockName};
use crate::election::relay::{self, OpenSpan};

/// Part of the promise: the recipe for OpenTelemetry names it.
const TARGET: &str = "tenure_core::trace";

/// A call to the store, from its beginning to its answer or its end without one.
///
/// It is not entered, because a heartbeat thread waits for no subscriber: there another thread
/// begins and ends the span.
pub(super) struct CallSpan(Option<Begun>);

enum Begun {
    Here(Span),
    Elsewhere(OpenSpan),
}

impl CallSpan {
    pub(super) fn start(operation: Operation, lock: &LockName, identity: &Identity) -> Self {
        if LevelFilter::current() < LevelFilter::DEBUG {
            return Self(None);
        }
        if !relay::is_used() {
            return Self(Some(Begun::Here(begin(operation, lock, identity))));
        }
        let (lock, identity) = (lock.clone(), identity.clone());
        let open = relay::open(move || begin(operation, &lock, &identity));
        Self(open.map(Begun::Elsewhere))
    }

    /// The call was answered.
    pub(super) fn end<T>(
        mut self,
        answer: &Result<T, Error>,
        what: impl FnOnce(&T) -> &'static str,
    ) {
        let outcome = match answer {
            Ok(answer) => what(answer),
            Err(error) => error.kind().name(),
        };
        self.record(outcome);
    }

    fn record(&mut self, outcome: &'static str) {
        let record = move |span: &Span| {
            span.record("outcome", outcome);
        };
        match self.0.take() {
            Some(Begun::Here(span)) => record(&span),
            Some(Begun::Elsewhere(span)) => span.end(record),
            None => {}
        }
    }
}

impl Drop for CallSpan {
    /// The call was dropped: another answer was enough, or its time was over.
    fn drop(&mut self) {
        self.record("dropped");
    }
}

fn begin(operation: Operation, lock: &LockName, identity: &Identity) -> Span {
    let (lock, identity) = (lock.as_str(), identity.as_str());
    let outcome = tracing::field::Empty;
    match operation {
        Operation::Acquire => {
            tracing::debug_span!(target: TARGET, "acquire", lock, identity, outcome)
        }
        Operation::Renew => {
            tracing::debug_span!(target: TARGET, "heartbeat", lock, identity, outcome)
        }
        Operation::Release => {
            tracing::debug_span!(target: TARGET, "hand_over", lock, identity, outcome)
        }
        _ => tracing::debug_span!(target: TARGET, "withdraw", lock, identity, outcome),
    }
}
