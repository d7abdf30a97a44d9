//! The network of one connection, as the suite commands it.

use std::fmt;
use std::sync::Arc;

use tenure_core::LockBackend;

use crate::proxy::{FaultProxy, Way};

/// A connection whose network the suite commands: the answer to
/// [`connect_by_proxy`](crate::Target::connect_by_proxy).
#[derive(Debug)]
pub struct Proxied {
    pub(crate) backend: Arc<dyn LockBackend>,
    pub(crate) network: Box<dyn Network>,
}

impl Proxied {
    /// A backend all of whose connections to the store go through these proxies: one for each
    /// server that it may talk to. They are dropped after the backend.
    pub fn new(
        backend: Arc<dyn LockBackend>,
        proxies: impl IntoIterator<Item = FaultProxy>,
    ) -> Self {
        Self::on(backend, proxies.into_iter().collect::<Vec<_>>())
    }

    /// A backend on another network than TCP, such as a model's.
    pub fn on(backend: Arc<dyn LockBackend>, network: impl Network + 'static) -> Self {
        let network = Box::new(network);
        Self { backend, network }
    }
}

/// What the suite does to the connections of one backend. [`FaultProxy`] says what each fault is.
pub trait Network: fmt::Debug + Send + Sync {
    /// Grows with each request that goes this way.
    fn requests(&self) -> u64;

    /// See [`FaultProxy::reset`].
    fn reset(&self);

    /// See [`FaultProxy::half_close`].
    fn half_close(&self, way: Way);

    /// Holds the answers: see [`FaultProxy::hold`].
    fn hold_answers(&self);

    /// Loses everything, both ways: see [`FaultProxy::lose`].
    fn lose(&self);

    /// See [`FaultProxy::restore`].
    fn restore(&self);
}

impl Network for Vec<FaultProxy> {
    fn requests(&self) -> u64 {
        self.iter().map(|proxy| proxy.seen(Way::Requests)).sum()
    }

    fn reset(&self) {
        self.iter().for_each(FaultProxy::reset);
    }

    fn half_close(&self, way: Way) {
        for proxy in self {
            proxy.half_close(way);
        }
    }

    fn hold_answers(&self) {
        for proxy in self {
            proxy.hold(Way::Answers);
        }
    }

    fn lose(&self) {
        for proxy in self {
            proxy.lose(Way::Both);
        }
    }

    fn restore(&self) {
        self.iter().for_each(FaultProxy::restore);
    }
}
