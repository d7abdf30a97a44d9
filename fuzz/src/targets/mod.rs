//! One module a store, and those of what a person writes.

pub(crate) mod etcd;
pub(crate) mod file;
pub(crate) mod kubernetes;
pub(crate) mod names;
pub(crate) mod policy;
pub(crate) mod postgres;
pub(crate) mod redis;
pub(crate) mod urls;
