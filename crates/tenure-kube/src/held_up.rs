//! Notices that the API server answers reads and lets writes wait, as a slow admission webhook
//! makes it do.

use std::time::Instant;

use crate::errors::Request;
use crate::warned::Warned;

/// A write that has no answer yet. Dropped without one it warns, if a read had one meanwhile: the
/// caller's deadline has passed, and says only that the store did not answer.
pub(crate) struct HeldUp<'a> {
    request: &'a Request<'a>,
    warned: &'a Warned,
    since: Instant,
    read_was_answered: bool,
    is_answered: bool,
}

impl<'a> HeldUp<'a> {
    pub(crate) fn new(request: &'a Request<'a>, warned: &'a Warned) -> Self {
        Self {
            request,
            warned,
            since: Instant::now(),
            read_was_answered: false,
            is_answered: false,
        }
    }

    /// A read that was sent later has its answer.
    pub(crate) fn read_was_answered(&mut self) {
        self.read_was_answered = true;
    }

    pub(crate) fn is_answered(&mut self) {
        self.is_answered = true;
    }
}

impl Drop for HeldUp<'_> {
    fn drop(&mut self) {
        if self.is_answered || !self.read_was_answered || !self.warned.first() {
            return;
        }
        let (verb, waited) = (self.request.verb.name(), self.since.elapsed());
        tracing::warn!(
            "the API server answers reads, but did not {verb} {} within {waited:.1?}: an \
             admission webhook may be slow, and nobody is elected before the request timeout is \
             longer than a write takes; `tenure doctor` measures that; choose for example a lease \
             of 60s with a request timeout of 12s",
            self.request.target()
        );
    }
}
