//! What every topology is: a store of the run's own, and the faults that apply to it.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, Result};
use tenure_conformance::async_trait;
use tenure_conformance::proxy::FaultProxy;

use crate::fault::{Fault, Promise};
use crate::links::Links;

/// The lock of every run: each run has a store of its own.
pub const LOCK: &str = "chaos";

/// How many candidates a store is made for.
pub const CANDIDATES: usize = 5;

/// A fault that applies to a store.
#[derive(Clone, Copy, Debug)]
pub struct Applies {
    /// The fault.
    pub fault: Fault,
    /// What the store's documentation says of it.
    pub promise: Promise,
    /// How many leases longer than usual the next leader may take after it.
    pub more_leases: u32,
}

/// A fault within the promise.
pub(super) const fn within(fault: Fault) -> Applies {
    Applies {
        fault,
        promise: Promise::Within,
        more_leases: 0,
    }
}

/// A fault that the documentation excludes, by this sentence.
pub(super) const fn beyond(fault: Fault, sentence: &'static str) -> Applies {
    Applies {
        fault,
        promise: Promise::Beyond(sentence),
        more_leases: 0,
    }
}

impl Applies {
    /// The next leader may take so many leases longer.
    pub(super) const fn and_leases(self, more_leases: u32) -> Self {
        Self {
            more_leases,
            ..self
        }
    }
}

/// From `docs/reference/guarantees.md`. A test of the book looks for each such sentence in its page.
pub(super) const DELETED: &str = "guarantees: no one deletes the lock under its holder";

/// A store of the run's own.
#[async_trait]
pub trait Store: Send {
    /// The topology's name on the command line.
    fn name(&self) -> &'static str;

    /// The URL for a candidate.
    fn url(&self, candidate: usize) -> String;

    /// The proxies between a candidate and the store's servers; none where there is no network.
    fn proxies(&self, candidate: usize) -> &[FaultProxy];

    /// The faults of the store itself that apply.
    fn faults(&self) -> Vec<Applies>;

    /// Whether a fault takes the tokens back to their start.
    fn forgets_tokens(&self, _fault: Fault) -> bool {
        false
    }

    /// Brings a fault of the store about. Returns the evidence that it took effect, or nothing when
    /// that shows only at its end.
    async fn strike(&mut self, fault: Fault, lasts: Duration) -> Result<String>;

    /// Ends it, waits until the store serves, and returns the evidence.
    async fn heal(&mut self, fault: Fault) -> Result<String>;
}

/// For each candidate a proxy in front of each of these servers, at the address on its link.
pub(super) fn proxies(
    servers: &[SocketAddr],
    links: Option<&Links>,
) -> Result<Vec<Vec<FaultProxy>>> {
    let of = |candidate: usize| -> Result<Vec<FaultProxy>> {
        let host = links.map_or(Ipv4Addr::LOCALHOST, |links| links.host(candidate));
        let started = servers
            .iter()
            .map(|server| FaultProxy::start_at(host, *server));
        started.map(|proxy| proxy.context("a proxy")).collect()
    };
    (0..CANDIDATES).map(of).collect()
}
