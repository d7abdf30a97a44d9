//! The topologies: each a real store of the run's own, and the faults that apply to it.

mod etcd;
mod file;
mod kubernetes;
mod postgres;
mod postgres_standby;
mod redis;
mod redis_replicas;
mod topology;

use std::path::Path;

use anyhow::{Result, bail};

use crate::links::Links;
pub use topology::{Applies, CANDIDATES, LOCK, Store};

/// The names of all topologies.
pub const NAMES: [&str; 11] = [
    "file",
    "file-small-disk",
    "kube-lease",
    "kube-configmap",
    "etcd",
    "etcd-cluster",
    "redis",
    "redis-sentinel",
    "redis-cluster",
    "postgres",
    "postgres-standby",
];

/// Those with proxies in front. Clients find the servers of the others by themselves, or there is no
/// network.
pub const BEHIND_PROXIES: [&str; 7] = [
    "kube-lease",
    "kube-configmap",
    "etcd",
    "etcd-cluster",
    "redis",
    "postgres",
    "postgres-standby",
];

/// Starts a topology, with its proxies on these links. `None`: this machine has no program for it.
pub async fn start(
    name: &str,
    directory: &Path,
    links: Option<&Links>,
) -> Result<Option<Box<dyn Store>>> {
    Ok(match name {
        "file" => Some(Box::new(file::File::start(directory)?)),
        "file-small-disk" => file::File::on_small_disk(directory)?.map(boxed),
        "kube-lease" => kubernetes::Kubernetes::start("kube-lease", links)
            .await?
            .map(boxed),
        "kube-configmap" => kubernetes::Kubernetes::start("kube-configmap", links)
            .await?
            .map(boxed),
        "etcd" => etcd::Etcd::start(1, links)?.map(boxed),
        "etcd-cluster" => etcd::Etcd::start(3, links)?.map(boxed),
        "redis" => redis::Redis::start(links)?.map(boxed),
        "redis-sentinel" => redis_replicas::Replicas::sentinel().await?.map(boxed),
        "redis-cluster" => redis_replicas::Replicas::cluster().await?.map(boxed),
        "postgres" => postgres::Postgres::start(links)?.map(boxed),
        "postgres-standby" => postgres_standby::Pair::start(links).await?.map(boxed),
        _ => bail!(
            "there is no topology {name:?}: choose one of {}",
            NAMES.join(", ")
        ),
    })
}

fn boxed(store: impl Store + 'static) -> Box<dyn Store> {
    Box::new(store)
}
