//! What bears on locks in a cluster, for an operator.

use http::{Method, StatusCode};
use serde_json::{Value, json};
use tenure_core::{Check, Error, ErrorKind, LockName, Operation};

use crate::client::{Answer, Cluster, Reply};
use crate::pods::PODS;
use crate::{Resource, Verb};

/// Where a user asks what it may do; every user who is logged in may.
const REVIEWS: &str = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";

/// Looks, and changes nothing.
pub(crate) async fn diagnose(
    cluster: &Cluster,
    resource: &Resource,
    lock: &LockName,
    minds_pods: bool,
) -> Vec<Check> {
    let mut checks = vec![version(cluster).await];
    for verb in [Verb::Get, Verb::Create, Verb::Update, Verb::Watch] {
        checks.push(right(cluster, resource, lock, verb).await);
    }
    if minds_pods {
        checks.push(pods(cluster).await);
    }
    checks.push(place(cluster, resource, lock).await);
    checks
}

async fn version(cluster: &Cluster) -> Check {
    const NAME: &str = "server version";
    let untold = |why: String| {
        Check::warning(
            NAME,
            format!("the API server does not tell its version: {why}"),
            "nothing, if it is Kubernetes 1.14 or newer (1.19 for Leases of client-go's own)",
        )
    };
    match ask(cluster, Verb::Get, Method::GET, "/version", None).await {
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
async fn right(cluster: &Cluster, resource: &Resource, lock: &LockName, verb: Verb) -> Check {
    let name = match verb {
        Verb::Get => "permission to get",
        Verb::Create => "permission to create",
        Verb::Update => "permission to update",
        Verb::Watch => "permission to watch",
    };
    // A right to create cannot be limited to a name.
    let object = (verb != Verb::Create).then_some(lock.as_str());
    let what = what(cluster, resource, verb);
    let remedy = "grant it: `tenure rbac` prints the Role that suffices";
    match (allowed(cluster, resource, object, verb).await, verb) {
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
async fn pods(cluster: &Cluster) -> Check {
    const NAME: &str = "permission to get pods";
    let what = what(cluster, &PODS, Verb::Get);
    match allowed(cluster, &PODS, None, Verb::Get).await {
        Err(why) => unknown(NAME, &what, &why),
        Ok(true) => Check::fine(NAME, format!("we may {what}")),
        Ok(false) => Check::warning(
            NAME,
            format!("we may not {what}: a holder whose pod is gone keeps its lease"),
            "grant it as `tenure rbac` prints it for this URL, or take gone_pods out of the URL",
        ),
    }
}

fn what(cluster: &Cluster, resource: &Resource, verb: Verb) -> String {
    let (verb, resource) = (verb.name(), resource.in_kubectl());
    format!(
        "{verb} {resource} in the namespace \"{}\"",
        cluster.namespace()
    )
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
    cluster: &Cluster,
    resource: &Resource,
    object: Option<&str>,
    verb: Verb,
) -> Result<bool, String> {
    let mut wanted = json!({
        "namespace": cluster.namespace(),
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
    let asked = ask(cluster, Verb::Create, Method::POST, REVIEWS, Some(&review)).await;
    let reply = asked.map_err(|error| error.message().to_owned())?;
    if !reply.status.is_success() {
        return Err(reply.status.to_string());
    }
    let review: Value = serde_json::from_slice(&reply.body).unwrap_or_default();
    let allowed = review["status"]["allowed"].as_bool();
    allowed.ok_or_else(|| "the answer does not say".to_owned())
}

/// Whether the lock's object is there or could be made, as far as a dry run tells.
async fn place(cluster: &Cluster, resource: &Resource, lock: &LockName) -> Check {
    const NAME: &str = "object";
    let object = json!({
        "apiVersion": resource.api_version(),
        "kind": resource.kind,
        "metadata": { "name": lock.as_str(), "namespace": cluster.namespace() },
    });
    let (kind, namespace) = (resource.kind, cluster.namespace());
    let request = cluster.request(Operation::Connect, Verb::Create, resource, lock.as_str());
    let path = format!("{}?dryRun=All", resource.path(namespace));
    let reply = match cluster
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
        StatusCode::FORBIDDEN => match cluster
            .get(Operation::Connect, resource, lock.as_str())
            .await
        {
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
            "mend that, and look again",
        ),
    }
}

async fn ask(
    cluster: &Cluster,
    verb: Verb,
    method: Method,
    path: &str,
    object: Option<&Value>,
) -> Result<Reply, Error> {
    let request = cluster.request(Operation::Connect, verb, &crate::LEASES, "");
    cluster.exchange(&request, method, path, object).await
}

fn unreachable(name: &'static str, error: &Error) -> Check {
    Check::unusable(name, error.message(), "mend that, and look again")
}
