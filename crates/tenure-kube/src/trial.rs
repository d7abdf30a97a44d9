//! [`Trial`]: a dry-run write, by which doctor passes admission policies and webhooks.

use std::time::{Duration, Instant};

use http::{Method, StatusCode};
use serde_json::Value;
use tenure_core::{Check, Error, ErrorKind, LockName, Operation};

use crate::annotations::{annotation, set_annotation};
use crate::api::Api;
use crate::config::KubeConfig;
use crate::errors::{Refuser, Request};
use crate::intact;
use crate::reply::{Answer, Reply};
use crate::resource::{Resource, Verb};
use crate::term::TERM_ANNOTATION;

/// How long a dry run may take, and how often it is repeated when the object has changed.
const TRIAL_LIMIT: Duration = Duration::from_secs(12);
const TRIALS: usize = 2;

/// What the annotation of a term says in it.
const TERM: &str = "trial";

/// A write that changes nothing: a dry run, which passes the admission policies and webhooks.
pub(crate) struct Trial {
    verb: Verb,
    pub(crate) reply: Result<Reply, Error>,
    took: Duration,
}

impl Trial {
    /// Writes the object as a candidate would: as it stands there, or a new one if it cannot be
    /// seen.
    pub(crate) async fn run(
        config: &KubeConfig,
        api: &Api,
        resource: &Resource,
        lock: &LockName,
        found: &Result<Answer, Error>,
    ) -> Self {
        let Ok(Answer::Object(object)) = found else {
            let mut object = resource.object(&api.namespace, lock);
            config.write_new(&mut object);
            config.write_labels(&mut object);
            set_annotation(&mut object, TERM_ANNOTATION, TERM.to_owned());
            return Self::once(api, resource, lock, Verb::Create, &object).await;
        };
        let marked = |object: &Value| {
            let mut object = object.clone();
            config.write_labels(&mut object);
            set_annotation(&mut object, TERM_ANNOTATION, TERM.to_owned());
            object
        };
        let mut trial = Self::once(api, resource, lock, Verb::Update, &marked(object)).await;
        // Its holder has renewed meanwhile.
        for _ in 0..TRIALS {
            let conflicts = |reply: &Reply| reply.status == StatusCode::CONFLICT;
            if !trial.reply.as_ref().is_ok_and(conflicts) {
                break;
            }
            let again = api.get(Operation::Connect, resource, lock.as_str()).await;
            if let Ok(Answer::Object(object)) = again {
                trial = Self::once(api, resource, lock, Verb::Update, &marked(&object)).await;
            }
        }
        trial
    }

    async fn once(
        api: &Api,
        resource: &Resource,
        lock: &LockName,
        verb: Verb,
        object: &Value,
    ) -> Self {
        let all = resource.path(&api.namespace);
        let (method, path) = match verb {
            Verb::Create => (Method::POST, format!("{all}?dryRun=All")),
            _ => (Method::PUT, format!("{all}/{lock}?dryRun=All")),
        };
        let request = api.request(Operation::Connect, verb, resource, lock.as_str());
        let start = Instant::now();
        let asking = api.exchange(&request, method, &path, Some(object));
        let reply = tokio::time::timeout(TRIAL_LIMIT, asking).await;
        Self {
            verb,
            reply: reply.unwrap_or_else(|_| Err(Error::timeout(Operation::Connect, TRIAL_LIMIT))),
            took: start.elapsed(),
        }
    }

    pub(crate) fn request<'a>(
        &self,
        api: &'a Api,
        resource: &'a Resource,
        lock: &'a LockName,
    ) -> Request<'a> {
        api.request(Operation::Connect, self.verb, resource, lock.as_str())
    }

    /// Whether writes are let through, and soon enough for a term of `lease`.
    pub(crate) async fn speed(
        &self,
        api: &Api,
        resource: &Resource,
        lock: &LockName,
        lease: Duration,
    ) -> Check {
        const NAME: &str = "writes";
        let untold = |why: &str| {
            let remedy = "let doctor write with dryRun=All, or run it as the candidate's user";
            Check::warning(NAME, format!("not measured: {why}"), remedy)
        };
        let reply = match &self.reply {
            Ok(reply) => reply,
            Err(error) if error.kind() == ErrorKind::Timeout => return self.slow(NAME, lease),
            Err(error) => return unreachable(NAME, error),
        };
        if reply.status.is_success() && !Self::term_is_kept(reply) {
            let target = self.request(api, resource, lock).target();
            return Check::unusable(
                NAME,
                format!(
                    "the annotation {TERM_ANNOTATION} of {target} is not kept as it is written"
                ),
                format!("{}; then run doctor again", intact::REMEDY),
            );
        }
        if reply.status.is_success() || reply.status == StatusCode::CONFLICT {
            if self.took * 2 > default_request_timeout(lease) {
                return self.slow(NAME, lease);
            }
            return Check::fine(NAME, format!("a dry-run write took {:.1?}", self.took));
        }
        let request = self.request(api, resource, lock);
        let refused = api.refused(&request, reply).await;
        let needs_no_dry_run = refused.message().contains("dry run");
        match api.refuser(&request, reply).await {
            Refuser::Admission if !needs_no_dry_run => Check::unusable(
                NAME,
                refused.message(),
                "no candidate is elected before that lets it through; then run doctor again",
            ),
            _ => untold(refused.message()),
        }
    }

    /// Whether the annotation comes back, without which no term lasts.
    fn term_is_kept(reply: &Reply) -> bool {
        let object: Value = serde_json::from_slice(&reply.body).unwrap_or_default();
        annotation(&object, TERM_ANNOTATION) == Some(TERM)
    }

    fn slow(&self, name: &'static str, lease: Duration) -> Check {
        let request_timeout = 2 * self.took.as_secs().max(1);
        Check::warning(
            name,
            format!(
                "a dry-run write took {:.1?}, so an admission webhook may be slow: a candidate \
                 whose request timeout is not longer never leads; it is {:?} by default for a \
                 lease of {lease:?}",
                self.took,
                default_request_timeout(lease)
            ),
            format!(
                "repair the webhook (kubectl get validatingwebhookconfigurations,\
                 mutatingwebhookconfigurations), or choose --lease {}s, which makes the request \
                 timeout longer than {request_timeout}s",
                // A little more than what `default_request_timeout` divides by.
                7 * request_timeout
            ),
        )
    }
}

/// That of [`Policy::default`](tenure_core::Policy::default), scaled with the lease.
fn default_request_timeout(lease: Duration) -> Duration {
    lease * 3 / 20
}

pub(crate) fn unreachable(name: &'static str, error: &Error) -> Check {
    Check::unusable(name, error.message(), "fix this and run doctor again")
}
