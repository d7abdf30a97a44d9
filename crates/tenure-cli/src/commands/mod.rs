//! One file for each thing that `tenure` can be told to do.

pub(crate) mod bench;
pub(crate) mod demo;
pub(crate) mod doctor;
pub(crate) mod list;
pub(crate) mod pages;
pub(crate) mod policy;
#[cfg(any(feature = "kube-lease", feature = "kube-configmap"))]
pub(crate) mod rbac;
pub(crate) mod run;
pub(crate) mod status;
pub(crate) mod step_down;
pub(crate) mod version;
pub(crate) mod watch;
