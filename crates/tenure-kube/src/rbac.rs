//! The least rights that a backend needs, as YAML to apply.

use std::fmt::Write as _;

use tenure_core::LockName;

use crate::resource::{Resource, Verb};

/// Who is to have the rights.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Subject {
    /// A service account of the lock's namespace.
    ServiceAccount(String),
    /// A user, as the API server knows it by certificate or token.
    User(String),
}

/// The verbs that a candidate needs on its own object. The right to create cannot be limited to a
/// name, since the name is not part of such a request's path.
pub const NAMED_VERBS: [Verb; 3] = [Verb::Get, Verb::Update, Verb::Watch];

/// A Role and `RoleBinding` with what a candidate for `lock` needs, and nothing else.
///
/// Where the object exists already, the second rule (`create`) can be left out, until a user
/// deletes the object. Without `watch` the lock is polled. Observers need `get` and `watch` only.
pub fn rbac_yaml(
    resource: &Resource,
    namespace: &str,
    lock: &LockName,
    subject: &Subject,
) -> String {
    rbac_yaml_of(resource, namespace, lock, subject, &NAMED_VERBS, true)
}

/// As [`rbac_yaml`], with other verbs.
pub fn rbac_yaml_of(
    resource: &Resource,
    namespace: &str,
    lock: &LockName,
    subject: &Subject,
    named: &[Verb],
    create: bool,
) -> String {
    let (group, plural) = (resource.group, resource.plural);
    let name = format!("tenure-{plural}-{lock}");
    let mut yaml = format!(
        "apiVersion: rbac.authorization.k8s.io/v1\n\
         kind: Role\n\
         metadata:\n  name: {name}\n  namespace: {namespace}\n\
         rules:\n"
    );
    let mut rule = |name: Option<&str>, verbs: &[Verb]| {
        let verbs: Vec<String> = verbs
            .iter()
            .map(|verb| format!("\"{}\"", verb.name()))
            .collect();
        // Writing to a string does not fail.
        let _written = write!(
            yaml,
            "- apiGroups: [\"{group}\"]\n  resources: [\"{plural}\"]\n{}  verbs: [{}]\n",
            name.map_or_else(String::new, |name| format!(
                "  resourceNames: [\"{name}\"]\n"
            )),
            verbs.join(", ")
        );
    };
    if !named.is_empty() {
        rule(Some(lock.as_str()), named);
    }
    if create {
        rule(None, &[Verb::Create]);
    }
    let subject = match subject {
        Subject::ServiceAccount(name) => {
            format!(
                "- kind: ServiceAccount\n  name: {}\n  namespace: {namespace}\n",
                quoted(name)
            )
        }
        Subject::User(name) => format!(
            "- apiGroup: rbac.authorization.k8s.io\n  kind: User\n  name: {}\n",
            quoted(name)
        ),
    };
    format!(
        "{yaml}---\n\
         apiVersion: rbac.authorization.k8s.io/v1\n\
         kind: RoleBinding\n\
         metadata:\n  name: {name}\n  namespace: {namespace}\n\
         roleRef:\n  apiGroup: rbac.authorization.k8s.io\n  kind: Role\n  name: {name}\n\
         subjects:\n{subject}"
    )
}

/// The same Role with the right that
/// [`take_over_from_gone_pods`](crate::KubeConfig::take_over_from_gone_pods) needs. It is not limited
/// to names: a Deployment's pods have ever new ones.
pub fn pods_rule(yaml: &str) -> String {
    let rule = "- apiGroups: [\"\"]\n  resources: [\"pods\"]\n  verbs: [\"get\"]\n";
    yaml.replacen("---\n", &format!("{rule}---\n"), 1)
}

/// The same Role with the rights that a [`LeaseCandidate`](crate::LeaseCandidate) needs to its own
/// object. They are not limited to names: each candidate has another.
pub fn lease_candidates_rule(yaml: &str) -> String {
    let verbs = "\"get\", \"create\", \"update\", \"watch\", \"delete\"";
    let rule = format!(
        "- apiGroups: [\"coordination.k8s.io\"]\n  resources: [\"leasecandidates\"]\n  verbs: [{verbs}]\n"
    );
    yaml.replacen("---\n", &format!("{rule}---\n"), 1)
}

/// A YAML string: JSON's are.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resource::{CONFIG_MAPS, LEASES};

    #[test]
    fn only_creating_is_not_limited_to_the_name() {
        let lock = LockName::new("batch").unwrap();
        let account = Subject::ServiceAccount("worker".to_owned());
        let yaml = rbac_yaml(&LEASES, "team", &lock, &account);
        let expected = r#"apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata:
  name: tenure-leases-batch
  namespace: team
rules:
- apiGroups: ["coordination.k8s.io"]
  resources: ["leases"]
  resourceNames: ["batch"]
  verbs: ["get", "update", "watch"]
- apiGroups: ["coordination.k8s.io"]
  resources: ["leases"]
  verbs: ["create"]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata:
  name: tenure-leases-batch
  namespace: team
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: Role
  name: tenure-leases-batch
subjects:
- kind: ServiceAccount
  name: "worker"
  namespace: team
"#;
        assert_eq!(yaml, expected);
    }

    #[test]
    fn the_right_to_look_at_pods_goes_into_the_role() {
        let lock = LockName::new("batch").unwrap();
        let yaml = rbac_yaml(&LEASES, "team", &lock, &Subject::User("a".to_owned()));
        let with_pods = pods_rule(&yaml);
        let of_pods = "- apiGroups: [\"\"]\n  resources: [\"pods\"]\n  verbs: [\"get\"]\n";
        let (role, binding) = with_pods.split_once("---\n").unwrap();
        assert!(role.ends_with(of_pods), "{role}");
        assert_eq!(
            format!("{}---\n{binding}", role.strip_suffix(of_pods).unwrap()),
            yaml
        );
    }

    #[test]
    fn a_users_name_is_quoted() {
        let lock = LockName::new("batch").unwrap();
        let user = Subject::User("o'neill: \"x\"".to_owned());
        let yaml = rbac_yaml(&CONFIG_MAPS, "team", &lock, &user);
        assert!(yaml.contains(r#"name: "o'neill: \"x\"""#), "{yaml}");
        assert!(yaml.contains(r#"- apiGroups: [""]"#), "{yaml}");
    }

    #[test]
    fn the_rights_of_a_lease_candidate_go_into_the_role() {
        let lock = LockName::new("batch").unwrap();
        let account = Subject::ServiceAccount("worker".to_owned());
        let yaml = rbac_yaml(&LEASES, "team", &lock, &account);
        let more = lease_candidates_rule(&yaml);
        let rule = "resources: [\"leasecandidates\"]\n  \
                    verbs: [\"get\", \"create\", \"update\", \"watch\", \"delete\"]\n---\n";
        assert!(more.contains(rule), "{more}");
    }
}
