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

/// Starts a topology. `None`: this machine has no program for it.
pub async fn start(name: &str, directory: &Path) -> Result<Option<Box<dyn Store>>> {
    Ok(match name {
        "file" => Some(Box::new(file::File::start(directory)?)),
        "file-small-disk" => file::File::on_small_disk(directory)?.map(boxed),
        "kube-lease" => kubernetes::Kubernetes::start("kube-lease")
            .await?
            .map(boxed),
        "kube-configmap" => kubernetes::Kubernetes::start("kube-configmap")
            .await?
            .map(boxed),
        "etcd" => etcd::Etcd::start(1)?.map(boxed),
        "etcd-cluster" => etcd::Etcd::start(3)?.map(boxed),
        "redis" => redis::Redis::start()?.map(boxed),
        "redis-sentinel" => redis_replicas::Replicas::sentinel().await?.map(boxed),
        "redis-cluster" => redis_replicas::Replicas::cluster().await?.map(boxed),
        "postgres" => postgres::Postgres::start()?.map(boxed),
        "postgres-standby" => postgres_standby::Pair::start().await?.map(boxed),
        _ => bail!(
            "there is no topology {name:?}: choose one of {}",
            NAMES.join(", ")
        ),
    })
}

fn boxed(store: impl Store + 'static) -> Box<dyn Store> {
    Box::new(store)
}
