//! What bears on locks in a cluster, for an operator.

use std::time::Duration;

use http::{Method, StatusCode};
use serde_json::{Value, json};
use tenure_core::{Check, Error, ErrorKind, LockName, Operation};

use crate::annotations::annotation;
use crate::api::{Answer, Api, Reply};
use crate::cluster::Cluster;
use crate::election_record::ElectionRecord;
use crate::form::Form;
use crate::resource::{LEASES, PODS, Resource, Verb};
use crate::term::{TERM_ANNOTATION, Term};

/// Where a user asks what it may do; every user who is logged in may.
const REVIEWS: &str = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";

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
    for verb in [Verb::Get, Verb::Create, Verb::Update, Verb::Watch] {
        checks.push(right(api, resource, lock, verb).await);
    }
    if cluster.config().gone_pods {
        checks.push(pods(api).await);
    }
    checks.push(object_check(api, resource, lock).await);
    checks.push(holder::<F>(api, lock, lease).await);
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
    };
    // A right to create cannot be limited to a name.
    let object = (verb != Verb::Create).then_some(lock.as_str());
    let what = what(api, resource, verb);
    let remedy = "grant it: `tenure rbac` prints the Role that suffices";
    match (allowed(api, resource, object, verb).await, verb) {
        (Err(why), _) => unknown(name, &what, &why),
        (Ok(true), _) => Check::fine(name, format!("we may {what}")),
        (Ok(false), Verb::Watch) => Check::warning(
            name,
            format!("we may not {what}: waiting candidates ask every retry interval instead"),
            remedy,
        ),
        // An object that somebody else has made can be led on without it.
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
    match allowed(api, &PODS, None, Verb::Get).await {
        Err(why) => unknown(NAME, &what, &why),
        Ok(true) => Check::fine(NAME, format!("we may {what}")),
        Ok(false) => Check::warning(
            NAME,
            format!("we may not {what}: a holder whose pod is gone keeps its lease"),
            "grant it as `tenure rbac` prints it for this URL, or take gone_pods out of the URL",
        ),
    }
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

/// What the API server says of our own rights; or why it does not.
async fn allowed(
    api: &Api,
    resource: &Resource,
    object: Option<&str>,
    verb: Verb,
) -> Result<bool, String> {
    let mut wanted = json!({
        "namespace": api.namespace,
        "verb": verb.name(),
        "group": resource.group,
        "resource": resource.plural,
    });
    if let Some(object) = object {
        wanted["name"] = json!(object);
    }
    let review = json!({
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": { "resourceAttributes": wanted },
    });
    let asked = ask(api, Verb::Create, Method::POST, REVIEWS, Some(&review)).await;
    let reply = asked.map_err(|error| error.message().to_owned())?;
    if !reply.status.is_success() {
        return Err(reply.status.to_string());
    }
    let review: Value = serde_json::from_slice(&reply.body).unwrap_or_default();
    let allowed = review["status"]["allowed"].as_bool();
    allowed.ok_or_else(|| "the answer does not say".to_owned())
}

/// Whether the lock's object is there or could be made, as far as a dry run tells.
async fn object_check(api: &Api, resource: &Resource, lock: &LockName) -> Check {
    const NAME: &str = "object";
    let (kind, namespace) = (resource.kind, &api.namespace);
    let object = resource.object(namespace, lock);
    let request = api.request(Operation::Connect, Verb::Create, resource, lock.as_str());
    let path = format!("{}?dryRun=All", resource.path(namespace));
    let reply = match api
        .exchange(&request, Method::POST, &path, Some(&object))
        .await
    {
        Ok(reply) => reply,
        Err(error) => return unreachable(NAME, &error),
    };
    match reply.status {
        StatusCode::CONFLICT => Check::fine(NAME, format!("the {kind} \"{lock}\" is there")),
        status if status.is_success() => Check::fine(
            NAME,
            format!("the {kind} \"{lock}\" is not there; the first candidate makes it"),
        ),
        StatusCode::FORBIDDEN => match api.get(Operation::Connect, resource, lock.as_str()).await {
            Ok(Answer::Absent) => Check::unusable(
                NAME,
                format!("the {kind} \"{lock}\" is not there, and we may not make it"),
                "grant the verb create as `tenure rbac` prints it, or make the object yourself",
            ),
            Ok(_) => Check::fine(NAME, format!("the {kind} \"{lock}\" is there")),
            // Told by the permissions already.
            Err(error) if error.kind() == ErrorKind::Forbidden => Check::warning(
                NAME,
                format!("cannot tell whether the {kind} \"{lock}\" is there"),
                "grant the verb get as `tenure rbac` prints it",
            ),
            Err(error) => unreachable(NAME, &error),
        },
        StatusCode::NOT_FOUND => Check::unusable(
            NAME,
            format!("there is no namespace \"{namespace}\", or the server serves no {kind}"),
            format!("kubectl create namespace {namespace}, or name another one in the URL"),
        ),
        _ => Check::unusable(
            NAME,
            reply.refused(&request).message().to_owned(),
            "fix this and run doctor again",
        ),
    }
}

/// Whether the holder is another program's candidate with a shorter lease than ours.
///
/// Old versions of client-go judge by their own lease, not by the one in the record: they would
/// take over from us before our leader's lease ends. A candidate that only waits leaves no trace.
async fn holder<F: Form>(api: &Api, lock: &LockName, lease: Duration) -> Check {
    const NAME: &str = "holder's lease";
    let kind = F::RESOURCE.kind;
    let object = match api
        .get(Operation::Connect, &F::RESOURCE, lock.as_str())
        .await
    {
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
    let record = match F::read(&object) {
        Ok(record) => record.unwrap_or_default(),
        Err(problem) => {
            return Check::unusable(
                NAME,
                format!("the {kind} \"{lock}\" cannot be read: {problem}"),
                format!(
                    "delete it if nothing else needs it: kubectl delete {} {lock} --namespace {}",
                    F::RESOURCE.in_kubectl(),
                    api.namespace
                ),
            );
        }
    };
    if record.holder.is_empty() {
        return nobody(NAME, kind, lock);
    }
    let term = Term::holder(annotation(&object, TERM_ANNOTATION), &record);
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
    let theirs = Duration::from_secs(u64::try_from(record.lease_seconds).unwrap_or(0));
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

fn unreachable(name: &'static str, error: &Error) -> Check {
    Check::unusable(name, error.message(), "fix this and run doctor again")
}
