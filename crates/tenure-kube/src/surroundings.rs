//! What doctor tells of the way to the API server, and of which cluster it is.

use http::{HeaderMap, Method};
use tenure_core::{Check, Error, LockName, Operation};
use tenure_kit::limits::shown;

use crate::api::Api;
use crate::reply::Answer;
use crate::resource::{LEASES, NAMESPACES, Resource, Verb};

/// Every cluster has it, and it lasts as long as the cluster.
const LASTING: &str = "kube-system";

pub(crate) async fn all(
    api: &Api,
    resource: &Resource,
    lock: &LockName,
    found: &Result<Answer, Error>,
) -> [Check; 2] {
    [
        between(api).await,
        cluster(api, resource, lock, found).await,
    ]
}

/// Whether something answers in the API server's place. An API server names neither a `Server` nor
/// a `Via`.
async fn between(api: &Api) -> Check {
    const NAME: &str = "in between";
    let request = api.request(Operation::Connect, Verb::Get, &LEASES, "");
    let by = api.route().proxy.map_or_else(
        || "no forward proxy is used".to_owned(),
        |proxy| format!("connections go through {proxy}"),
    );
    let reply = api.exchange(&request, Method::GET, "/version", None).await;
    let named = match &reply {
        Ok(reply) => named(&reply.headers),
        Err(error) => {
            return Check::warning(NAME, error.message(), "fix this and run doctor again");
        }
    };
    if named.is_empty() {
        return Check::fine(NAME, format!("{by}, and the API server answers itself"));
    }
    Check::warning(
        NAME,
        format!(
            "{by}, and a server in between has passed the answer on ({})",
            named.join(", ")
        ),
        "let it pass requests that last five minutes (watches), the header Retry-After and all \
         statuses, or connect to the API server itself",
    )
}

fn named(headers: &HeaderMap) -> Vec<String> {
    let of = |name: &'static str| {
        let values = headers.get_all(name).iter();
        values.map(move |value| {
            format!(
                "{name}: {}",
                shown(&String::from_utf8_lossy(value.as_bytes()))
            )
        })
    };
    of("via").chain(of("server")).collect()
}

/// By what two candidates' doctors can be compared: candidates of two clusters elect two leaders.
async fn cluster(
    api: &Api,
    resource: &Resource,
    lock: &LockName,
    found: &Result<Answer, Error>,
) -> Check {
    const NAME: &str = "cluster";
    let route = api.route();
    let mut told = vec![match &route.server {
        Some(server) => format!("the API server is {server}"),
        None => "the API server is that of the application's own client".to_owned(),
    }];
    let uid = |answer: &Answer| match answer {
        Answer::Object(object) => object["metadata"]["uid"].as_str().map(shown),
        Answer::Absent | Answer::Conflict => None,
    };
    let lasting = api
        .get_cluster_wide(Operation::Connect, &NAMESPACES, LASTING)
        .await;
    if let Some(uid) = lasting.ok().as_ref().and_then(uid) {
        told.push(format!("the namespace {LASTING} has the UID {uid}"));
    }
    if let Some(uid) = found.as_ref().ok().and_then(uid) {
        told.push(format!(
            "the {} \"{lock}\" has the UID {uid}",
            resource.kind
        ));
    }
    told.push("doctor must tell the same UIDs for every candidate".to_owned());
    let told = told.join("; ");
    match route.context {
        Some((context, servers)) if servers > 1 => Check::warning(
            NAME,
            format!(
                "{told}; the kubeconfig names {servers} API servers, and its context \"{}\" \
                 chooses this one",
                shown(&context)
            ),
            "name the context in the URL (?context=), so that all candidates are in one cluster",
        ),
        _ => Check::fine(NAME, told),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_in_between_is_known_by_its_headers() {
        let mut headers = HeaderMap::new();
        headers.insert("audit-id", "1".parse().unwrap());
        assert!(named(&headers).is_empty());
        headers.insert("server", "nginx".parse().unwrap());
        headers.append("via", "1.1 a".parse().unwrap());
        headers.append("via", "1.1 b".parse().unwrap());
        assert_eq!(
            named(&headers),
            ["via: 1.1 a", "via: 1.1 b", "server: nginx"]
        );
    }
}
