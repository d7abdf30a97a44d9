//! `tenure rbac`: the rights that a candidate needs in Kubernetes.

use tenure::Store;
use tenure_kube::{
    CONFIG_MAPS, KubeConfig, LEASES, NAMED_VERBS, Resource, Subject, lease_candidates_rule,
    pods_rule, rbac_yaml_of,
};

use crate::failure::Failure;
use crate::options::{self, RbacArgs};
use crate::output::print;

/// The stores that ask for such rights, and on which objects.
const STORES: [(&str, Resource); 2] = [("kube-lease", LEASES), ("kube-configmap", CONFIG_MAPS)];

/// Prints YAML to apply; asks nobody.
pub(crate) fn rbac(args: RbacArgs) -> Result<u8, Failure> {
    let lock = options::lock(&args.lock_args.lock)?;
    let url = &args.lock_args.backend.url()?;
    let name = Store::of(url).map(Store::name).unwrap_or_default();
    let Some((scheme, resource)) = STORES.iter().find(|(known, _)| *known == name) else {
        return Err(Failure::new(
            "only Kubernetes asks for such rights; use a URL like kube-lease://namespace",
        ));
    };
    let config = KubeConfig::from_url(scheme, url)?;
    let Some(namespace) = config.stated_namespace() else {
        return Err(Failure::new(format!(
            "the URL does not say in which namespace; use {scheme}://namespace"
        )));
    };
    let subject = match (args.user, args.service_account) {
        (Some(user), _) => Subject::User(user),
        (None, account) => Subject::ServiceAccount(account.unwrap_or_else(|| "default".to_owned())),
    };
    let create = config.creates();
    let mut yaml = rbac_yaml_of(resource, namespace, &lock, &subject, &NAMED_VERBS, create);
    if config.takes_over_from_gone_pods() {
        yaml = pods_rule(&yaml);
    }
    if config.as_lease_candidate().is_some() {
        yaml = lease_candidates_rule(&yaml);
    }
    print(yaml.trim_end())?;
    Ok(0)
}
