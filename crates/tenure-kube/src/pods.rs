//! Candidates that are pods, and whether a holder's pod is still there.

use tenure_core::{Error, Identity, Operation};

use crate::api::Api;
use crate::reply::Answer;
use crate::resource::PODS;

const PREFIX: &str = "pod/";

/// The identity `pod/<namespace>/<name>/<uid>` of a candidate in a pod: all three from the downward
/// API (`metadata.namespace`, `metadata.name`, `metadata.uid`).
///
/// The prefix keeps it apart from client-go's usual identity, a host name with a number drawn at
/// random, which would otherwise look like a pod with another UID. One container of a pod may
/// campaign under it: it is the same for all of them, and after a restart.
///
/// Fails with [`InvalidInput`](tenure_core::ErrorKind::InvalidInput) if one of them is empty or
/// cannot be part of an identity.
pub fn pod_identity(namespace: &str, name: &str, uid: &str) -> Result<Identity, Error> {
    let identity = format!("{PREFIX}{namespace}/{name}/{uid}");
    if pod_of(&identity).is_none() {
        return Err(Error::invalid_input(
            "a pod's namespace, name and UID are letters, digits, '-' and '.'; take them from the \
             downward API (metadata.namespace, metadata.name, metadata.uid)",
        ));
    }
    Identity::new(identity)
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Pod<'a> {
    pub(crate) namespace: &'a str,
    pub(crate) name: &'a str,
    uid: &'a str,
}

/// The pod that an identity names; others may have written it, so it is checked before it becomes
/// part of a path.
pub(crate) fn pod_of(identity: &str) -> Option<Pod<'_>> {
    let (namespace, rest) = identity.strip_prefix(PREFIX)?.split_once('/')?;
    let (name, uid) = rest.split_once('/')?;
    let inner = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
    let good = |part: &str| {
        part.starts_with(|c: char| c.is_ascii_alphanumeric()) && part.chars().all(inner)
    };
    let pod = Pod {
        namespace,
        name,
        uid,
    };
    [namespace, name, uid].into_iter().all(good).then_some(pod)
}

/// Whether there is no such pod any more.
pub(crate) async fn is_gone(api: &Api, pod: &Pod<'_>) -> Result<bool, Error> {
    Ok(match api.get(Operation::Holder, &PODS, pod.name).await? {
        Answer::Absent => true,
        Answer::Object(found) => found["metadata"]["uid"]
            .as_str()
            .is_some_and(|uid| uid != pod.uid),
        Answer::Conflict => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_identity_of_the_form_names_a_pod() {
        let identity = pod_identity("team", "web-0", "7d9f-11").unwrap();
        assert_eq!(identity.as_str(), "pod/team/web-0/7d9f-11");
        let expected = Pod {
            namespace: "team",
            name: "web-0",
            uid: "7d9f-11",
        };
        assert_eq!(pod_of(identity.as_str()), Some(expected));
        for other in [
            "web-0",
            "web-0_7d9f-11",
            "pod/team/web-0",
            "pod/team//1",
            "pod//web-0/1",
            "pod/team/web-0/",
            "pod/team/../1",
            "pod/team/web-0/1/2",
            "pod/team/a?b/1",
            "pod/team/a%2Fb/1",
        ] {
            assert_eq!(pod_of(other), None, "{other}");
        }
        assert!(pod_identity("team", "", "1").is_err());
        assert!(pod_identity("team", "a/b", "1").is_err());
    }
}
