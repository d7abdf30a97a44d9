//! Which cluster the endpoints belong to: two of them would elect two leaders.

use std::sync::OnceLock;

use etcd_client::{
    AlarmResponse, GetResponse, LeaseGrantResponse, LeaseKeepAliveResponse, LeaseRevokeResponse,
    LeaseTimeToLiveResponse, MemberListResponse, ResponseHeader, StatusResponse, TxnResponse,
};
use tenure_core::ErrorKind;
use tenure_kit::Recovery;
use tokio::sync::watch;

use crate::errors::{EtcdRecovery, StoreError};

/// The cluster of the first endpoint that answered; every other one has to belong to it.
pub(crate) struct Cluster {
    first: OnceLock<(u64, String)>,
    /// Set once, for as long as the process lives: which of the two is the right one, only a
    /// human knows.
    other: watch::Sender<Option<StoreError>>,
}

impl Cluster {
    pub(crate) fn new() -> Self {
        Self {
            first: OnceLock::new(),
            other: watch::Sender::new(None),
        }
    }

    /// Compares the cluster of an answer from `endpoint` with the one that is known.
    pub(crate) fn compare(
        &self,
        header: Option<&ResponseHeader>,
        endpoint: &str,
    ) -> Result<(), StoreError> {
        let id = header.map_or(0, ResponseHeader::cluster_id);
        // A proxy that answers by itself names none.
        if id == 0 {
            return Ok(());
        }
        let (known, by) = self.first.get_or_init(|| (id, endpoint.to_owned()));
        if *known == id {
            return Ok(());
        }
        let error = different((*known, by), (id, endpoint));
        let is_new = self.other.send_if_modified(|other| {
            let is_new = other.is_none();
            other.get_or_insert_with(|| error.clone());
            is_new
        });
        if is_new {
            tracing::error!(
                reason = error.message(),
                "the terms on etcd end: there are two clusters"
            );
        }
        Err(error)
    }

    /// The cluster's id, where an answer has told it.
    pub(crate) fn id(&self) -> Option<u64> {
        self.first.get().map(|(id, _)| *id)
    }

    /// Fails once an endpoint of another cluster has answered.
    pub(crate) fn check(&self) -> Result<(), StoreError> {
        self.other.borrow().clone().map_or(Ok(()), Err)
    }

    /// Returns when an endpoint of another cluster has answered.
    pub(crate) async fn is_another(&self) {
        let mut other = self.other.subscribe();
        // Fails only when the sender is gone, which `self` holds.
        let _found = other.wait_for(Option::is_some).await;
    }
}

fn different(known: (u64, &str), found: (u64, &str)) -> StoreError {
    StoreError::new(
        ErrorKind::Misconfigured,
        format!(
            "the endpoints belong to two etcd clusters: {} to the cluster {:x}, {} to the cluster \
             {:x}; each would elect a leader of its own. Name the members of one cluster in the \
             URL, then restart this process. Restart it too when the cluster was restored from a \
             backup on purpose and has a new id since",
            known.1, known.0, found.1, found.0
        ),
    )
    .recover_by(Recovery::Store(EtcdRecovery::OtherCluster))
}

/// What a request is answered with; most answers name the cluster.
pub(crate) trait Answer {
    fn cluster(&self) -> Option<&ResponseHeader>;
}

macro_rules! answers {
    ($($name:ident),*) => {$(
        impl Answer for $name {
            fn cluster(&self) -> Option<&ResponseHeader> {
                self.header()
            }
        }
    )*};
}

answers!(
    AlarmResponse,
    GetResponse,
    LeaseGrantResponse,
    LeaseKeepAliveResponse,
    LeaseRevokeResponse,
    LeaseTimeToLiveResponse,
    MemberListResponse,
    StatusResponse,
    TxnResponse
);

/// With the time at which it was asked for.
impl<A, T: Answer> Answer for (A, T) {
    fn cluster(&self) -> Option<&ResponseHeader> {
        self.1.cluster()
    }
}

impl<T: Answer> Answer for Option<T> {
    fn cluster(&self) -> Option<&ResponseHeader> {
        self.as_ref().and_then(T::cluster)
    }
}

/// A stream whose answers are compared when they come.
pub(crate) struct Opened<T>(pub(crate) T);

impl<T> Answer for Opened<T> {
    fn cluster(&self) -> Option<&ResponseHeader> {
        None
    }
}
