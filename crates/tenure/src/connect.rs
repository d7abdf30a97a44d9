//! From a URL to a backend.

use std::sync::Arc;

use tenure_core::{Error, Generation, InGeneration, LockBackend};
use tenure_kit::Url;

use crate::registry::Store;

/// Opens the store that `url` names.
///
/// The scheme chooses the backend; what follows it is the backend's own. `?generation=N` puts the
/// tokens of any store into a [`Generation`].
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
    // The generation is read first, so that a wrong one is told before any I/O.
    let (store, url, generation) = read(url)?;
    let backend = store.connect(url).await?;
    Ok(match generation {
        Some(generation) => Arc::new(InGeneration::new(backend, generation)),
        None => backend,
    })
}

/// Whether [`connect()`] can open the store of this URL, as far as scheme and generation tell.
pub(crate) fn check(url: &str) -> Result<(), Error> {
    let (store, url, _) = read(url)?;
    store.check_built_in(url.scheme()).map(drop)
}

/// The store, and the URL without its `generation` parameter.
fn read(url: &str) -> Result<(&'static Store, Url, Option<Generation>), Error> {
    let store = Store::of(url)?;
    let mut url = Url::parse(url)?;
    let expected = format!("a number from 0 to {}, like ?generation=1", Generation::MAX);
    let generation = url.take_read(&["generation"], &expected, |text| {
        Generation::new(text.parse().ok()?).ok()
    })?;
    Ok((store, url, generation))
}

#[cfg(test)]
mod tests {
    use tenure_core::ErrorKind;

    use super::*;

    #[test]
    fn the_generation_is_taken_out_of_the_url() {
        for (url, generation) in [
            ("memory:", None),
            ("memory:?generation=3", Some(3)),
            ("file:///a?generation=0", Some(0)),
            ("redis://h/?generation=7", Some(7)),
            ("redis://u:p%40@h/", None),
        ] {
            let (_, url, found) = read(url).unwrap();
            assert_eq!(found.map(Generation::get), generation);
            assert!(url.finish().is_ok());
        }
        for url in [
            "memory:?generation=",
            "memory:?generation=-1",
            "memory:?generation=32768",
            "memory:?generation=1&generation=2",
        ] {
            let error = read(url).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{url}");
            assert!(error.message().contains("generation"), "{error}");
        }
    }
}
