//! The real stores that the tests run against: started, asked, described, stopped.
//!
//! Everything lives under `target/stores/`: each process has a record (see `process`) from before it
//! begins, and `state.json` describes the stores that were seen ready. Data begin empty at each
//! start and go with `down`; logs stay.

pub mod control;
mod etcd;
mod http;
pub mod kind;
mod kube;
mod launch;
mod postgres;
pub mod process;
mod redis;
mod server;
pub mod session;
pub mod state;
mod store;
mod user;
