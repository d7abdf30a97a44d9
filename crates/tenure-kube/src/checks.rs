//! What bears on locks in a cluster, for an operator.

use std::time::Duration;

use http::{Method, StatusCode};
use serde_json::Value;
use tenure_core::{Check, Error, ErrorKind, FencingToken, LockName, Operation};

use crate::annotations::annotation;
use crate::api::Api;
use crate::cluster::Cluster;
use crate::election_record::ElectionRecord;
use crate::errors::Refuser;
use crate::form::Form;
use crate::lease_candidate::LeaseCandidate;
use crate::objects::not_made;
use crate::reply::{Answer, Reply};
use crate::resource::{LEASE_CANDIDATES, LEASES, PODS, Resource, Verb};
use crate::surroundings;
use crate::term::{TERM_ANNOTATION, Term};
use crate::trial::{Trial, unreachable};

/// The lease of [`Policy::client_go`](tenure_core::Policy::client_go).
const CLIENT_GO_LEASE: Duration = Duration::from_secs(15);

/// Looks, and changes nothing.
pub(crate) async fn all<F: Form>(
    cluster: &Cluster,
    lock: &LockName,
    lease: Duration,
) -> Vec<Check> {
    let api = match cluster.api(Operation::Connect).await {
        Ok(api) => api,
        Err(error) => return vec![unreachable("API server", &error)],
    };
    let (api, resource) = (&*api, &F::RESOURCE);
    let mut checks = vec![version(api).await];
    let creates = cluster.config().creates;
    for verb in [Verb::Get, Verb::Create, Verb::Update, Verb::Watch] {
        if verb == Verb::Create && !creates {
            continue;
        }
        checks.push(right(api, resource, lock, verb).await);
    }
    if cluster.config().gone_pods {
        checks.push(pods(api).await);
    }
    if let Some(candidate) = &cluster.config().lease_candidate {
        checks.push(lease_candidate(api, candidate).await);
    }
    let found = api.get(Operation::Connect, resource, lock.as_str()).await;
    checks.extend(surroundings::all(api, resource, lock, &found).await);
    let trial = Trial::run(cluster.config(), api, resource, lock, &found).await;
    checks.push(match &found {
        Ok(Answer::Absent) if !creates => Check::unusable(
            "object",
            not_made::<F>(&api.namespace, lock),
            "make it, or leave create=false out of the URL",
        ),
        found => object_check(api, resource, lock, found, &trial).await,
    });
    checks.push(trial.speed(api, resource, lock, lease).await);
    checks.push(holder::<F>(api, lock, lease, &found));
    if let Ok(Answer::Object(object)) = &found {
        checks.push(versions(object));
        checks.push(writers(
            resource,
            lock,
            object,
            &cluster.config().field_manager,
        ));
    }
    checks
}

async fn version(api: &Api) -> Check {
    const NAME: &str = "server version";
    let untold = |why: String| {
        Check::warning(
            NAME,
            format!("the API server does not tell its version: {why}"),
            "nothing, if it is Kubernetes 1.14 or newer (1.19 for Leases of client-go's own)",
        )
    };
    match ask(api, Verb::Get, Method::GET, "/version", None).await {
        Ok(reply) if reply.status.is_success() => {
            let version: Value = serde_json::from_slice(&reply.body).unwrap_or_default();
            match version["gitVersion"].as_str() {
                Some(version) => {
                    Check::fine(NAME, format!("Kubernetes {}", version.escape_debug()))
                }
                None => untold("the answer names none".to_owned()),
            }
        }
        Ok(reply) => untold(reply.status.to_string()),
        Err(error) => untold(error.message().to_owned()),
    }
}

/// Whether the API server would let us do that.
async fn right(api: &Api, resource: &Resource, lock: &LockName, verb: Verb) -> Check {
    let name = match verb {
        Verb::Get => "permission to get",
        Verb::Create => "permission to create",
        Verb::Update => "permission to update",
        Verb::Watch => "permission to watch",
        Verb::Delete => "permission to delete",
        Verb::List => "permission to list",
    };
    let what = what(api, resource, verb);
    let remedy = "grant it: `tenure rbac` prints the Role that suffices";
    match (api.allowed(resource, Some(lock.as_str()), verb).await, verb) {
        (Err(why), _) => unknown(name, &what, &why),
        (Ok(true), _) => Check::fine(name, format!("we may {what}")),
        (Ok(false), Verb::Watch) => Check::warning(
            name,
            format!("we may not {what}: waiting candidates ask every retry interval instead"),
            remedy,
        ),
        // An object that another program has made can be led on without it.
        (Ok(false), Verb::Create) => Check::warning(
            name,
            format!("we may not {what}: the object must be there, and never be deleted"),
            remedy,
        ),
        (Ok(false), _) => Check::unusable(name, format!("we may not {what}"), remedy),
    }
}

/// Whether holders' pods can be looked at, where that is asked for.
async fn pods(api: &Api) -> Check {
    const NAME: &str = "permission to get pods";
    let what = what(api, &PODS, Verb::Get);
    match api.allowed(&PODS, None, Verb::Get).await {
        Err(why) => unknown(NAME, &what, &why),
        Ok(true) => Check::fine(NAME, format!("we may {what}")),
        Ok(false) => Check::warning(
            NAME,
            format!("we may not {what}: a holder whose pod is gone keeps its lease"),
            "grant it as `tenure rbac` prints it for this URL, or take gone_pods out of the URL",
        ),
    }
}

/// Whether the API server decides elections and we may take part, where that is asked for.
async fn lease_candidate(api: &Api, candidate: &LeaseCandidate) -> Check {
    const NAME: &str = "lease candidate";
    let resource = &LEASE_CANDIDATES;
    let name = candidate.identity().as_str();
    if let Err(error) = api.get(Operation::Connect, resource, name).await {
        return Check::unusable(
            NAME,
            error.message(),
            "switch the feature gate CoordinatedLeaderElection and coordination.k8s.io/v1beta1 of \
             the API server on, or take lease_candidate out of the URL",
        );
    }
    for verb in [Verb::Create, Verb::Update, Verb::Watch, Verb::Delete] {
        let what = what(api, resource, verb);
        match api.allowed(resource, Some(name), verb).await {
            Ok(true) => {}
            Ok(false) => {
                return Check::unusable(
                    NAME,
                    format!("we may not {what}"),
                    "grant it as `tenure rbac` prints it for this URL",
                );
            }
            Err(why) => return unknown(NAME, &what, &why),
        }
    }
    Check::fine(
        NAME,
        format!("\"{name}\" may take part in elections that the API server decides"),
    )
}

fn what(api: &Api, resource: &Resource, verb: Verb) -> String {
    let (verb, resource) = (verb.name(), resource.in_kubectl());
    format!("{verb} {resource} in the namespace \"{}\"", api.namespace)
}

fn unknown(name: &'static str, what: &str, why: &str) -> Check {
    Check::warning(
        name,
        format!("cannot tell whether we may {what}: {why}"),
        "let the user create selfsubjectaccessreviews, as the cluster role system:basic-user does",
    )
}

/// Whether the lock's object is there or could be made, as far as a dry run tells.
async fn object_check(
    api: &Api,
    resource: &Resource,
    lock: &LockName,
    found: &Result<Answer, Error>,
    trial: &Trial,
) -> Check {
    const NAME: &str = "object";
    let (kind, namespace) = (resource.kind, &api.namespace);
    let is_there = || Check::fine(NAME, format!("the {kind} \"{lock}\" is there"));
    match found {
        Ok(Answer::Object(_)) => return is_there(),
        Err(error) if error.kind() != ErrorKind::Forbidden => return unreachable(NAME, error),
        _ => {}
    }
    let reply = match &trial.reply {
        Ok(reply) => reply,
        Err(error) => return unreachable(NAME, error),
    };
    let request = trial.request(api, resource, lock);
    match (reply.status, found) {
        (StatusCode::CONFLICT, _) => is_there(),
        (status, _) if status.is_success() => Check::fine(
            NAME,
            format!("the {kind} \"{lock}\" is not there; the first candidate makes it"),
        ),
        (StatusCode::NOT_FOUND, _) => Check::unusable(
            NAME,
            format!("there is no namespace \"{namespace}\", or the server serves no {kind}"),
            format!("kubectl create namespace {namespace}, or name another one in the URL"),
        ),
        // Told by the permissions already.
        (StatusCode::FORBIDDEN, Err(_)) => Check::warning(
            NAME,
            format!("cannot tell whether the {kind} \"{lock}\" is there"),
            "grant the verb get as `tenure rbac` prints it",
        ),
        (StatusCode::FORBIDDEN, Ok(_))
            if api.refuser(&request, reply).await == Refuser::Authorizer =>
        {
            Check::unusable(
                NAME,
                format!("the {kind} \"{lock}\" is not there, and we may not make it"),
                "grant the verb create as `tenure rbac` prints it, or make the object yourself",
            )
        }
        _ => Check::unusable(
            NAME,
            api.refused(&request, reply).await.message(),
            "fix this and run doctor again",
        ),
    }
}

/// Whether the object's version can become a token.
fn versions(object: &Value) -> Check {
    const NAME: &str = "resource versions";
    let version = object["metadata"]["resourceVersion"].as_str();
    let version = version.unwrap_or_default();
    let digits = version.len();
    let number = version.parse::<u64>().ok();
    let next = number.and_then(|number| FencingToken::from_counter(number.checked_add(1)?).ok());
    if next.is_some() {
        return Check::fine(
            NAME,
            format!("they have {digits} digits, which a fencing token holds"),
        );
    }
    Check::unusable(
        NAME,
        format!("they have {digits} digits, which no fencing token holds: nobody is elected"),
        "use a store whose versions are numbers below 2^63, such as tenure's backend for etcd",
    )
}

/// Who else writes the object.
fn writers(resource: &Resource, lock: &LockName, object: &Value, us: &str) -> Check {
    const NAME: &str = "other writers";
    let kind = resource.kind;
    let entries = object["metadata"]["managedFields"].as_array();
    let others = entries.into_iter().flatten().filter(|entry| {
        let fields = &entry["fieldsV1"];
        let of_record = &fields["f:metadata"]["f:annotations"];
        entry["manager"] != us
            && fields["f:spec"]["f:holderIdentity"].is_null()
            && of_record["f:control-plane.alpha.kubernetes.io/leader"].is_null()
    });
    let others = others.map(|entry| {
        let part = |name: &str| {
            entry[name]
                .as_str()
                .unwrap_or("?")
                .escape_debug()
                .to_string()
        };
        format!("\"{}\" at {}", part("manager"), part("time"))
    });
    let others: Vec<_> = others.collect();
    if others.is_empty() {
        return Check::fine(
            NAME,
            format!("no other program writes the {kind} \"{lock}\""),
        );
    }
    Check::fine(
        NAME,
        format!(
            "the {kind} \"{lock}\" is also written by {}; that is no sign of life of its holder",
            others.join(", ")
        ),
    )
}

/// Whether the holder is another program's candidate with a shorter lease than ours.
///
/// Old versions of client-go judge by their own lease, not by the one in the record: they would
/// take over from us before our leader's lease ends. A candidate that only waits leaves no trace.
fn holder<F: Form>(
    api: &Api,
    lock: &LockName,
    lease: Duration,
    found: &Result<Answer, Error>,
) -> Check {
    const NAME: &str = "holder's lease";
    let kind = F::RESOURCE.kind;
    let object = match found {
        Ok(Answer::Object(object)) => object,
        Ok(Answer::Absent | Answer::Conflict) => return nobody(NAME, kind, lock),
        Err(error) => {
            return Check::warning(
                NAME,
                format!(
                    "cannot tell who holds the {kind} \"{lock}\": {}",
                    error.message()
                ),
                "fix this and run doctor again",
            );
        }
    };
    let record = match F::read(object) {
        Ok(record) => record.unwrap_or_default(),
        Err(problem) => {
            return Check::unusable(
                NAME,
                format!("the {kind} \"{lock}\" cannot be read: {problem}"),
                format!(
                    "its holder may be alive: stop all programs that use it first, and only then \
                     remove the record: {}",
                    F::removal(&api.namespace, lock.as_str())
                ),
            );
        }
    };
    if record.holder.is_empty() {
        return nobody(NAME, kind, lock);
    }
    let term = Term::holder(annotation(object, TERM_ANNOTATION), &record);
    compared(NAME, &record, term.campaign.is_some(), lease)
}

fn nobody(name: &'static str, kind: &str, lock: &LockName) -> Check {
    Check::fine(
        name,
        format!("nobody holds the {kind} \"{lock}\", so no lease can be compared with ours"),
    )
}

fn compared(name: &'static str, record: &ElectionRecord, is_ours: bool, lease: Duration) -> Check {
    let holder = record.holder.escape_debug();
    if is_ours {
        return Check::fine(
            name,
            format!(
                "the holder \"{holder}\" is a candidate of tenure; all of them judge by the lease \
                 in the record"
            ),
        );
    }
    let theirs = record.lease();
    if record.lease_seconds <= 0 {
        return Check::warning(
            name,
            format!(
                "the holder \"{holder}\" is a candidate of another program and states no lease: \
                 tenure gives it {theirs:?} without a sign of life, and client-go v0.27 and newer \
                 take the lock from it at once"
            ),
            "let that program write a duration of at least one second",
        );
    }
    if theirs >= lease {
        return Check::fine(
            name,
            format!(
                "the holder \"{holder}\" is a candidate of another program; its lease of \
                 {theirs:?} is not shorter than ours of {lease:?}"
            ),
        );
    }
    let choice = if theirs >= CLIENT_GO_LEASE {
        "--policy client-go".to_owned()
    } else {
        format!("--lease {}s", theirs.as_secs().max(1))
    };
    Check::warning(
        name,
        format!(
            "the holder \"{holder}\" is a candidate of another program, and its lease of \
             {theirs:?} is shorter than ours of {lease:?}: if it judges by its own lease, as \
             client-go before v0.27 does, it takes the lock {theirs:?} after our last heartbeat, \
             while our leader still leads"
        ),
        format!(
            "give our candidates a lease that is no longer ({choice}), or bring all others to \
             client-go v0.27 or newer"
        ),
    )
}

async fn ask(
    api: &Api,
    verb: Verb,
    method: Method,
    path: &str,
    object: Option<&Value>,
) -> Result<Reply, Error> {
    let request = api.request(Operation::Connect, verb, &LEASES, "");
    api.exchange(&request, method, path, object).await
}
