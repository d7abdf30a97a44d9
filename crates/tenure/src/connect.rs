//! From a URL to a backend.

use std::sync::Arc;

use tenure_core::{Error, LockBackend};

use crate::registry::built_in;

/// Opens the store that `url` names, of those of this workspace; [`Registry`](crate::Registry) has yours too.
///
/// The scheme chooses the backend; what follows it is the backend's own. `?generation=N` puts the
/// tokens of any store into a [`Generation`](tenure_core::Generation).
///
/// Fails, without any I/O, with
/// - [`InvalidInput`](tenure_core::ErrorKind::InvalidInput) on a URL that cannot be read or whose scheme is
///   unknown: the message lists those that are known,
/// - [`Misconfigured`](tenure_core::ErrorKind::Misconfigured) when the scheme's feature is off: the message
///   names the feature and the line to change,
///
/// and then as the backend's own way to open it does. No message holds a password. Never hangs:
/// each backend has a limit of its own.
///
/// Call it on the runtime that is to do the store's I/O: see
/// [`HeartbeatThread`](crate::HeartbeatThread). Dropping the future gives up.
///
#[cfg_attr(feature = "memory", doc = "```")]
#[cfg_attr(not(feature = "memory"), doc = "```ignore")]
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), tenure::Error> {
/// let backend = tenure::connect("memory:").await?;
/// assert_eq!(backend.capabilities().store, "memory");
///
/// let error = tenure::connect("mongodb://admin:secret@db").await.unwrap_err();
/// assert!(error.message().contains("unknown"));
/// assert!(!error.message().contains("secret"));
/// # Ok(())
/// # }
/// ```
pub async fn connect(url: &str) -> Result<Arc<dyn LockBackend>, Error> {
    built_in().connect(url).await
}
