//! From a URL to a backend.

use std::sync::Arc;

use tenure_core::{Error, Generation, InGeneration, LockBackend};

use crate::redact;
use crate::scheme::{self, Store};

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
    let store = store_of(url)?;
    let (url, generation) = take_generation(url)?;
    // The generation is read first, so that a wrong one is told before any I/O.
    let backend = open(store, &url).await?;
    Ok(match generation {
        Some(generation) => Arc::new(InGeneration::new(backend, generation)),
        None => backend,
    })
}

/// Whether [`connect()`] can open the store of this URL, as far as scheme and generation tell.
pub(crate) fn check(url: &str) -> Result<(), Error> {
    let store = store_of(url)?;
    take_generation(url)?;
    if store.is_built_in() {
        Ok(())
    } else {
        Err(feature_is_off(store, url))
    }
}

/// The one place that knows the backends.
#[allow(
    clippy::unused_async,
    reason = "the memory backend alone has nothing to wait for"
)]
async fn open(store: Store, url: &str) -> Result<Arc<dyn LockBackend>, Error> {
    match store {
        #[cfg(feature = "memory")]
        Store::Memory => open_memory(url),
        #[cfg(feature = "file")]
        Store::File => open_file(url).await,
        #[cfg(feature = "kube-lease")]
        Store::KubeLease => {
            use tenure_kube_lease::{KubeConfig, SCHEME, connect};
            Ok(Arc::new(connect(KubeConfig::from_url(SCHEME, url)?).await?))
        }
        #[cfg(feature = "kube-configmap")]
        Store::KubeConfigMap => {
            use tenure_kube_configmap::{KubeConfig, SCHEME, connect};
            Ok(Arc::new(connect(KubeConfig::from_url(SCHEME, url)?).await?))
        }
        #[cfg(feature = "etcd")]
        Store::Etcd => open_etcd(url).await,
        #[cfg(feature = "redis")]
        Store::Redis => open_redis(url).await,
        #[cfg(feature = "postgres")]
        Store::Postgres => open_postgres(url).await,
        #[allow(unreachable_patterns, reason = "with every feature on, none is left")]
        _ => Err(feature_is_off(store, url)),
    }
}

#[cfg(feature = "memory")]
fn open_memory(url: &str) -> Result<Arc<dyn LockBackend>, Error> {
    let rest = url.split_once(':').map_or("", |(_, rest)| rest);
    if !matches!(rest, "" | "//") {
        return Err(Error::invalid_input(
            "a memory URL holds nothing but its scheme; use memory:",
        ));
    }
    Ok(Arc::new(tenure_core::MemoryBackend::shared()))
}

#[cfg(feature = "file")]
async fn open_file(url: &str) -> Result<Arc<dyn LockBackend>, Error> {
    // Told here, because the backend's own message would show the URL.
    let authority = url.split_once("://").map_or("", |(_, rest)| rest);
    if !authority.starts_with('/') && authority.contains('@') {
        return Err(Error::invalid_input(
            "a file URL has no user, password or host; use file:///absolute/directory",
        ));
    }
    let config = tenure_file::FileConfig::from_url(url)?;
    Ok(Arc::new(tenure_file::connect(config).await?))
}

#[cfg(feature = "etcd")]
async fn open_etcd(url: &str) -> Result<Arc<dyn LockBackend>, Error> {
    let config = tenure_etcd::EtcdConfig::from_url(url)?;
    Ok(Arc::new(tenure_etcd::EtcdBackend::connect(config).await?))
}

#[cfg(feature = "redis")]
async fn open_redis(url: &str) -> Result<Arc<dyn LockBackend>, Error> {
    let config = tenure_redis::RedisConfig::from_url(url)?;
    Ok(Arc::new(tenure_redis::RedisBackend::connect(config).await?))
}

#[cfg(feature = "postgres")]
async fn open_postgres(url: &str) -> Result<Arc<dyn LockBackend>, Error> {
    let config = tenure_postgres::PostgresConfig::from_url(url)?;
    let backend = tenure_postgres::PostgresBackend::connect(config).await?;
    Ok(Arc::new(backend))
}

fn feature_is_off(store: Store, url: &str) -> Error {
    let scheme = url.split_once(':').map_or("", |(scheme, _)| scheme);
    let feature = store.feature();
    Error::misconfigured(format!(
        "the store of {scheme}: URLs is not built in; switch its feature on in Cargo.toml: \
         tenure = {{ version = \"{}\", features = [\"{feature}\"] }}; or, for the tenure binary, \
         build it with --features {feature}",
        env!("CARGO_PKG_VERSION"),
    ))
}

fn store_of(url: &str) -> Result<Store, Error> {
    let is_scheme = |text: &str| {
        text.starts_with(|c: char| c.is_ascii_alphabetic())
            && text
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'))
    };
    // Nothing of what is not a scheme is shown: there may be a password in it.
    match url.split_once(':') {
        Some((scheme, _)) if is_scheme(scheme) => scheme::find(scheme).ok_or_else(|| {
            Error::invalid_input(format!(
                "the URL's scheme {:?} is unknown; use one of {}",
                shortened(scheme),
                scheme::usable()
            ))
        }),
        _ => Err(Error::invalid_input(format!(
            "the store's URL does not begin with a scheme; use one of {}, like \
             file:///var/lib/my-service",
            scheme::usable()
        ))),
    }
}

fn shortened(text: &str) -> String {
    text.chars().take(40).collect()
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
            let shown = redact(value);
            Error::invalid_input(format!(
                "the URL's generation {:?} is not a number from 0 to {}; use something like \
                 ?generation=1",
                shortened(&shown),
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
