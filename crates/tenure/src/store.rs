//! What is known of a store: its URLs, and how to connect.

use std::borrow::Cow;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use tenure_core::{Error, LockBackend, LockName};
use tenure_kit::Url;

/// A backend that is being connected.
type Connecting = Pin<Box<dyn Future<Output = Result<Arc<dyn LockBackend>, Error>> + Send>>;

/// Connects the backend of a URL whose `generation` is taken out already.
type Connect = dyn Fn(Url) -> Connecting + Send + Sync;

/// What a released lock leaves at a store.
type LeftBehind = fn(&LockName) -> String;

/// A store that a URL can name, whether its feature is on or not.
///
/// [`Registry::new`](crate::Registry::new) lists those of this workspace, with their URLs.
///
/// A store of your own is made with [`Store::new`], and opened through a [`Registry`](crate::Registry).
///
/// ```
/// let store = tenure::Store::of("rediss+cluster://a,b")?;
/// assert_eq!((store.name(), store.reach()), ("redis", tenure::Reach::Network));
/// # Ok::<(), tenure::Error>(())
/// ```
#[derive(Clone)]
pub struct Store {
    name: &'static str,
    schemes: Vec<&'static str>,
    examples: Vec<&'static str>,
    reach: Reach,
    secret_parameters: Vec<&'static str>,
    /// The parameter by which connecting makes nothing at the store.
    look_only: Option<(&'static str, &'static str)>,
    left_behind: Option<LeftBehind>,
    /// `None` when the feature is off.
    connect: Option<Arc<Connect>>,
}

/// Among whom a store elects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reach {
    /// The tasks of one process.
    Process,
    /// The processes of one host.
    Host,
    /// All that reach the store's servers, which other programs may use too.
    Network,
}

impl Store {
    /// A store of your own. Its URLs begin with `name:`, and `connect` opens them.
    ///
    /// `name` is also what [`Capabilities::store`](tenure_core::Capabilities::store) says. `connect`
    /// gets the URL without its `generation` parameter. It reads the parameters it knows, and calls
    /// [`Url::finish`], which refuses the others. It has a limit of its own, and none of its errors
    /// holds a password. [`Reach`] is [`Network`](Reach::Network) unless [`with_reach`](Self::with_reach)
    /// says otherwise. [`Registry::with`](crate::Registry::with) checks the name.
    pub fn new<Connected, Backend>(
        name: &'static str,
        connect: impl Fn(Url) -> Connected + Send + Sync + 'static,
    ) -> Self
    where
        Connected: Future<Output = Result<Backend, Error>> + Send + 'static,
        Backend: LockBackend,
    {
        let connect = move |url| -> Connecting {
            let connected = connect(url);
            Box::pin(async move {
                let backend: Arc<dyn LockBackend> = Arc::new(connected.await?);
                Ok(backend)
            })
        };
        Self {
            connect: Some(Arc::new(connect)),
            ..Self::not_built_in(name)
        }
    }

    /// A store whose feature is off.
    pub(crate) fn not_built_in(name: &'static str) -> Self {
        Self {
            name,
            schemes: vec![name],
            examples: Vec::new(),
            reach: Reach::Network,
            secret_parameters: Vec::new(),
            look_only: None,
            left_behind: None,
            connect: None,
        }
    }

    /// The schemes of its URLs, in lower case, in place of its name alone.
    #[must_use]
    pub fn with_schemes(mut self, schemes: &[&'static str]) -> Self {
        self.schemes = schemes.to_vec();
        self
    }

    /// What its URLs look like, for help texts.
    #[must_use]
    pub fn with_examples(mut self, examples: &[&'static str]) -> Self {
        self.examples = examples.to_vec();
        self
    }

    /// Among whom it elects.
    #[must_use]
    pub fn with_reach(mut self, reach: Reach) -> Self {
        self.reach = reach;
        self
    }

    /// The parameters of its URLs whose values are secrets, such as `key`.
    ///
    /// [`redact`](crate::redact()) hides them in the whole process from [`Registry::with`](crate::Registry::with)
    /// on. It hides those whose names hold `pass`, `secret`, `token`, `credential` or `pwd` anyway,
    /// and what stands before an `@`.
    #[must_use]
    pub fn with_secret_parameters(mut self, names: &[&'static str]) -> Self {
        self.secret_parameters = names.to_vec();
        self
    }

    /// The parameter and value by which connecting makes nothing at the store: see
    /// [`to_look_at`](Self::to_look_at).
    #[must_use]
    pub fn with_look_only(mut self, name: &'static str, value: &'static str) -> Self {
        self.look_only = Some((name, value));
        self
    }

    /// What a released lock leaves at the store and how to delete it.
    #[must_use]
    pub fn with_left_behind(mut self, left_behind: fn(&LockName) -> String) -> Self {
        self.left_behind = Some(left_behind);
        self
    }

    /// The store's name, which is that of its feature too, and what
    /// [`Capabilities::store`](tenure_core::Capabilities::store) says.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The schemes of its URLs, in lower case.
    pub fn schemes(&self) -> &[&'static str] {
        &self.schemes
    }

    /// What its URLs look like.
    pub fn examples(&self) -> &[&'static str] {
        &self.examples
    }

    /// Among whom it elects.
    pub fn reach(&self) -> Reach {
        self.reach
    }

    /// The parameters of its URLs whose values are secrets. [`redact`](crate::redact()) hides them.
    pub fn secret_parameters(&self) -> &[&'static str] {
        &self.secret_parameters
    }

    /// Whether its feature is on, as it is for a store of your own.
    pub fn is_built_in(&self) -> bool {
        self.connect.is_some()
    }

    /// What a released lock leaves at the store and how to delete it, if anything.
    pub fn left_behind(&self, lock: &LockName) -> Option<String> {
        self.left_behind.map(|left_behind| left_behind(lock))
    }

    /// One of its URLs, with the parameter by which [`connect`](crate::connect()) makes nothing at
    /// the store, unless the URL says already what is to be made.
    ///
    /// For those who only look: a mistyped directory that they made would look like a free lock.
    pub fn to_look_at<'a>(&self, url: &'a str) -> Cow<'a, str> {
        match self.look_only {
            Some((name, value)) if !has_parameter(url, name) => {
                let joint = if url.contains('?') { '&' } else { '?' };
                Cow::Owned(format!("{url}{joint}{name}={value}"))
            }
            _ => Cow::Borrowed(url),
        }
    }

    /// Connects, or says which feature to switch on.
    pub(crate) async fn connect(&self, url: Url) -> Result<Arc<dyn LockBackend>, Error> {
        self.check_built_in(url.scheme())?(url).await
    }

    /// How to connect. Fails when the feature is off.
    pub(crate) fn check_built_in(&self, scheme: &str) -> Result<&Connect, Error> {
        self.connect.as_deref().ok_or_else(|| {
            let feature = self.name;
            Error::misconfigured(format!(
                "the store of {scheme}: URLs is not built in; switch its feature on in \
                 Cargo.toml: tenure = {{ version = \"{}\", features = [\"{feature}\"] }}; or, for \
                 the tenure binary, build it with --features {feature}",
                env!("CARGO_PKG_VERSION"),
            ))
        })
    }
}

/// Whether the URL has a parameter of this name, as it is written.
fn has_parameter(url: &str, name: &str) -> bool {
    let parameters = url.split_once('?').map_or("", |(_, parameters)| parameters);
    parameters
        .split('&')
        .any(|parameter| parameter.split('=').next() == Some(name))
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store")
            .field("name", &self.name)
            .field("schemes", &self.schemes)
            .field("is_built_in", &self.is_built_in())
            .finish_non_exhaustive()
    }
}
