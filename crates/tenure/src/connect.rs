//! From a URL to a backend.

use std::sync::Arc;

use tenure_core::{Error, Generation, InGeneration, LockBackend};
use tenure_kit::redact;

use crate::registry::Store;

/// The URL parameter that every scheme takes.
const GENERATION: &str = "generation";

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
    let store = Store::of(url)?;
    let (url, generation) = take_generation(url)?;
    // The generation is read first, so that a wrong one is told before any I/O.
    let backend = store.connect(url).await?;
    Ok(match generation {
        Some(generation) => Arc::new(InGeneration::new(backend, generation)),
        None => backend,
    })
}

/// Whether [`connect()`] can open the store of this URL, as far as scheme and generation tell.
pub(crate) fn check(url: &str) -> Result<(), Error> {
    let store = Store::of(url)?;
    take_generation(url)?;
    store.check_built_in(url).map(drop)
}

/// The URL without its `generation` parameter, and what that said.
fn take_generation(url: &str) -> Result<(String, Option<Generation>), Error> {
    let (url, fragment) = match url.split_once('#') {
        Some((url, fragment)) => (url, Some(fragment)),
        None => (url, None),
    };
    let Some((location, query)) = url.split_once('?') else {
        return Ok((with_fragment(url.to_owned(), fragment), None));
    };
    let mut generation = None;
    let mut rest = Vec::new();
    for parameter in query.split('&') {
        match parameter.split_once('=') {
            Some((GENERATION, value)) if generation.is_none() => {
                generation = Some(parse_generation(value)?);
            }
            Some((GENERATION, _)) => {
                return Err(Error::invalid_input(
                    "the URL has the parameter generation twice; keep one of them",
                ));
            }
            _ => rest.push(parameter),
        }
    }
    let url = if rest.is_empty() {
        location.to_owned()
    } else {
        format!("{location}?{}", rest.join("&"))
    };
    Ok((with_fragment(url, fragment), generation))
}

fn with_fragment(url: String, fragment: Option<&str>) -> String {
    match fragment {
        Some(fragment) => format!("{url}#{fragment}"),
        None => url,
    }
}

fn parse_generation(value: &str) -> Result<Generation, Error> {
    let number: Option<u16> = value.parse().ok();
    number
        .and_then(|number| Generation::new(number).ok())
        .ok_or_else(|| {
            // A wrong URL could have anything here: it is not worth a look into a password.
            let shown: String = redact(value).chars().take(40).collect();
            Error::invalid_input(format!(
                "the URL's generation {shown:?} is not a number from 0 to {}; use something like \
                 ?generation=1",
                Generation::MAX
            ))
        })
}

#[cfg(test)]
mod tests {
    use tenure_core::ErrorKind;

    use super::*;

    #[test]
    fn the_generation_is_taken_out_of_the_url() {
        for (url, rest, generation) in [
            ("memory:", "memory:", None),
            ("memory:?generation=3", "memory:", Some(3)),
            ("file:///a?generation=0", "file:///a", Some(0)),
            ("x://h/?a=1&generation=7&b=2", "x://h/?a=1&b=2", Some(7)),
            ("x://h/?a=1#f", "x://h/?a=1#f", None),
            ("x://u:p%40@h/", "x://u:p%40@h/", None),
        ] {
            let (url, found) = take_generation(url).unwrap();
            assert_eq!(url, rest);
            assert_eq!(found.map(Generation::get), generation);
        }
        for url in [
            "memory:?generation=",
            "memory:?generation=-1",
            "memory:?generation=32768",
            "memory:?generation=1&generation=2",
        ] {
            let error = take_generation(url).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{url}");
        }
    }
}
