//! The schemes of a URL.

use tenure_core::Error;

/// How the server that holds a lock is found.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Single,
    Sentinel,
    Cluster,
    Socket,
}

impl Kind {
    /// And whether the connection is encrypted.
    pub(super) fn of_scheme(scheme: &str) -> Result<(Self, bool), Error> {
        Ok(match scheme {
            "redis" | "valkey" => (Self::Single, false),
            "rediss" | "valkeys" => (Self::Single, true),
            "redis+sentinel" | "valkey+sentinel" => (Self::Sentinel, false),
            "rediss+sentinel" | "valkeys+sentinel" => (Self::Sentinel, true),
            "redis+cluster" | "valkey+cluster" => (Self::Cluster, false),
            "rediss+cluster" | "valkeys+cluster" => (Self::Cluster, true),
            "redis+unix" | "valkey+unix" => (Self::Socket, false),
            _ => {
                return Err(Error::invalid_input(
                    "the URL's scheme is unknown; known are redis://, redis+sentinel://, \
                     redis+cluster://, redis+unix:// and, with TLS, rediss://, rediss+sentinel://, \
                     rediss+cluster://",
                ));
            }
        })
    }
}
