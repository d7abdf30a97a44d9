//! What a kubeconfig says, read as kubectl reads it.

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};

use kube::Config;
use kube::config::{AuthInfo, Context, ExecAuthCluster, Kubeconfig, KubeconfigError};
use tenure_kit::StoreError;
use tenure_kit::limits::shown;
use tenure_kit::proxy::Proxy;
use tenure_kit::store_error::with_reasons;

use crate::access::{self, Access};

/// What the kubeconfig says of this context, or of its current one. Without `file` it is what
/// `KUBECONFIG` lists, else `~/.kube/config`. Blocks.
pub(crate) fn read(file: Option<&Path>, context: Option<&str>) -> Result<Access, StoreError> {
    let read = match file {
        Some(file) => Kubeconfig::read_from(file),
        None => read_default(),
    };
    access_of(&read.map_err(|error| unreadable(&error))?, context)
}

fn wrong(problem: &str) -> StoreError {
    access::misconfigured(format!(
        "the kubeconfig cannot be used: {problem}; name one by ?kubeconfig= or KUBECONFIG, and a \
         context in it by ?context="
    ))
}

pub(crate) fn unreadable(error: &KubeconfigError) -> StoreError {
    if let KubeconfigError::Parse(error) = error {
        // Its text shows what stands there, which may be a token.
        let place = error.location();
        let place =
            place.map(|place| format!(" (line {}, column {})", place.line(), place.column()));
        return wrong(&format!(
            "it is no YAML of its kind{}",
            place.unwrap_or_default()
        ));
    }
    wrong(&shown(&with_reasons(error)))
}

fn read_default() -> Result<Kubeconfig, KubeconfigError> {
    let listed = std::env::var_os("KUBECONFIG").unwrap_or_default();
    let files = std::env::split_paths(&listed).filter(|file| !file.as_os_str().is_empty());
    match &files.collect::<Vec<_>>()[..] {
        [] => Kubeconfig::read(),
        files => merged(files),
    }
}

/// The first file to say something wins. Files that are missing say nothing, as long as there is
/// one.
fn merged(files: &[PathBuf]) -> Result<Kubeconfig, KubeconfigError> {
    let (mut merged, mut missing) = (None, None);
    for file in files {
        let next = match Kubeconfig::read_from(file) {
            Ok(next) => next,
            Err(KubeconfigError::ReadConfig(error, file))
                if error.kind() == io::ErrorKind::NotFound =>
            {
                missing = Some(KubeconfigError::ReadConfig(error, file));
                continue;
            }
            Err(error) => return Err(error),
        };
        merged = Some(match merged {
            None => next,
            Some(first) => Kubeconfig::merge(first, next)?,
        });
    }
    match missing {
        Some(missing) if merged.is_none() => Err(missing),
        _ => Ok(merged.unwrap_or_default()),
    }
}

pub(crate) fn access_of(read: &Kubeconfig, given: Option<&str>) -> Result<Access, StoreError> {
    let absent = |what: &str, name: &str| wrong(&format!("it has no {what} \"{}\"", shown(name)));
    let current = read.current_context.as_deref();
    let name = given.or(current).filter(|name| !name.is_empty());
    let name = name.ok_or_else(|| wrong("it has no current-context"))?;
    let mut contexts = read.contexts.iter().filter(|named| named.name == name);
    let context = contexts.find_map(|named| named.context.as_ref());
    let context = context.ok_or_else(|| absent("context", name))?;
    let mut clusters = read.clusters.iter();
    let cluster = clusters
        .find(|named| named.name == context.cluster)
        .and_then(|named| named.cluster.as_ref())
        .ok_or_else(|| absent("cluster", &context.cluster))?;
    let server = cluster.server.as_deref().and_then(access::server);
    let server = server
        .ok_or_else(|| wrong("the server of its cluster is no URL like https://host:port"))?;
    let proxy = match cluster.proxy_url.as_deref().filter(is_set) {
        // It is meant for this server: NO_PROXY does not count.
        Some(url) => Some(Proxy::parse("proxy-url in the kubeconfig", url)?),
        None => access::proxy_of_environment(&server)?,
    };
    let mut kube = Config::new(server);
    if let Some(namespace) = context.namespace.as_deref().filter(is_set) {
        namespace.clone_into(&mut kube.default_namespace);
    }
    kube.tls_server_name = cluster
        .tls_server_name
        .clone()
        .filter(|name| is_set(&&**name));
    kube.accept_invalid_certs = cluster.insecure_skip_tls_verify.unwrap_or(false);
    kube.disable_compression = cluster.disable_compression.unwrap_or(false);
    // What a helper learns about the cluster: its authority's certificates, loaded.
    let told = ExecAuthCluster::try_from(cluster).map_err(|error| unreadable(&error))?;
    if let Some(ca) = told
        .certificate_authority_data
        .as_deref()
        .filter(|ca| !ca.is_empty())
    {
        kube.root_cert = Some(access::certificates(ca)?);
    }
    kube.auth_info = user_of(read, context);
    if let Some(helper) = &mut kube.auth_info.exec
        && helper.provide_cluster_info
    {
        helper.cluster = Some(told);
    }
    let servers = read.clusters.iter().filter_map(|named| {
        let cluster = named.cluster.as_ref()?;
        cluster.server.as_deref()
    });
    let servers = servers.collect::<HashSet<_>>().len();
    let by_itself = given.is_none().then(|| (name.to_owned(), servers));
    Ok(Access {
        kube,
        proxy,
        context: by_itself,
    })
}

/// Nobody in particular when there is no such user, as for kubectl.
fn user_of(read: &Kubeconfig, context: &Context) -> AuthInfo {
    let mut users = read.auth_infos.iter();
    let found = users.find(|named| context.user.as_ref() == Some(&named.name));
    found
        .and_then(|named| named.auth_info.clone())
        .unwrap_or_default()
}

fn is_set(text: &&str) -> bool {
    !text.is_empty()
}

#[cfg(test)]
mod tests {
    use tenure_core::ErrorKind;

    use super::*;

    #[test]
    fn a_kubeconfig_that_cannot_be_read_is_not_shown() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config");
        for text in [
            "users:\n- name: us\n  user: { token: hunter2 ]",
            "users: hunter2",
            "users:\n- name: us\n  user: { token: [hunter2] }",
            "clusters:\n- name: a\n  cluster: { certificate-authority-data: hunter2 }\n\
             contexts:\n- name: b\n  context: { cluster: a }\ncurrent-context: b",
        ] {
            std::fs::write(&file, text).unwrap();
            let error = read(Some(&file), None).err().unwrap();
            assert_eq!(error.kind, ErrorKind::Misconfigured);
            assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
        }
        std::fs::write(&file, "users: hunter2").unwrap();
        let error = read(Some(&file), None).err().unwrap();
        assert!(error.message().contains("line 1, column"), "{error}");
    }
}
