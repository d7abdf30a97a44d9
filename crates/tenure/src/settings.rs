//! What an operator sets: the store, the lock, the candidate and the policy.

use std::env;
use std::ffi::OsString;
use std::fmt;
use std::time::Duration;

use tenure_core::{Election, ElectionBuilder, Error, Identity, LockName, Operation, Policy};
use tenure_kit::redact;

use crate::registry::{Registry, built_in};

/// What can be added to any clock's time.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 86_400);

/// The variables that [`from_env`] and the `tenure` binary read.
pub mod variable {
    /// The store's URL; must be set.
    pub const BACKEND: &str = "TENURE_BACKEND";
    /// The lock's name; must be set.
    pub const LOCK: &str = "TENURE_LOCK";
    /// Who campaigns; by default pod or host name and a random part.
    pub const IDENTITY: &str = "TENURE_IDENTITY";
    /// The policy to start from: `default`, `client-go` or `fast`.
    pub const POLICY: &str = "TENURE_POLICY";
    /// The lease, like `15s`; what is not set scales with it.
    pub const LEASE: &str = "TENURE_LEASE";
    /// The heartbeat.
    pub const HEARTBEAT: &str = "TENURE_HEARTBEAT";
    /// How long the work gets to stop when leadership is lost.
    pub const STOP_GRACE: &str = "TENURE_STOP_GRACE";
    /// How long the work gets to stop at a shutdown, while the lock is kept.
    pub const DRAIN_LIMIT: &str = "TENURE_DRAIN_LIMIT";
}

/// The settings in the process's environment, checked; no I/O yet.
///
/// | variable | | like |
/// |---|---|---|
/// | `TENURE_BACKEND` | the store's URL, see [`connect`](crate::connect()) | `file:///var/lib/my-service` |
/// | `TENURE_LOCK` | the lock's name, the same for all candidates | `nightly-batch` |
/// | `TENURE_IDENTITY` | who campaigns; by default [`Identity::of_this_process`] | `host-7` |
/// | `TENURE_POLICY` | the [`Policy`] to start from; by default `default` | `default`, `client-go`, `fast`, `patient` |
/// | `TENURE_LEASE` | its lease; what is not set scales with it | `15s` |
/// | `TENURE_HEARTBEAT` | its heartbeat | `5s` |
/// | `TENURE_STOP_GRACE` | its stop grace | `2s` |
/// | `TENURE_DRAIN_LIMIT` | see [`ElectionBuilder::drain_limit`] | `25s` |
///
/// They are those of the `tenure` binary, with the same meaning there. The first two must be set.
///
/// ```no_run
/// # async fn example() -> Result<(), tenure::Error> {
/// let election = tenure::from_env()?.election().await?;
/// # Ok(())
/// # }
/// ```
///
/// Fails with [`InvalidInput`](tenure_core::ErrorKind::InvalidInput) or
/// [`Misconfigured`](tenure_core::ErrorKind::Misconfigured), as [`connect`](crate::connect()) does
/// for the URL; the message begins with the variable's name, says what to do, and holds no
/// password.
pub fn from_env() -> Result<Settings, Error> {
    Settings::from_variables(|name| env::var_os(name))
}

/// The store, the lock, the candidate and the policy: everything that an [`Election`] needs.
///
/// `Debug` shows no password.
#[derive(Clone)]
#[non_exhaustive]
pub struct Settings {
    registry: Registry,
    /// The store's URL; may hold a password, so show it through [`redact`](crate::redact) only.
    pub backend: String,
    /// The lock.
    pub lock: LockName,
    /// Who campaigns, where it was set.
    pub identity: Option<Identity>,
    /// The policy.
    pub policy: Policy,
    /// See [`ElectionBuilder::drain_limit`]; `None` is its default.
    pub drain_limit: Option<Duration>,
}

impl Settings {
    /// The settings that `read` gives for the names of the [`variable`]s; see [`from_env`], which
    /// is this with the process's environment.
    pub fn from_variables(read: impl Fn(&str) -> Option<OsString>) -> Result<Self, Error> {
        Self::read(built_in().clone(), read)
    }

    /// The same, with the stores of `registry`.
    pub(crate) fn read(
        registry: Registry,
        read: impl Fn(&str) -> Option<OsString>,
    ) -> Result<Self, Error> {
        let text = |name: &str| match read(name).map(OsString::into_string) {
            None => Ok(None),
            Some(Ok(text)) => Ok(Some(text)),
            Some(Err(_)) => Err(Error::invalid_input(format!("{name} is not valid UTF-8"))),
        };
        let required = |name: &str, what: &str| {
            text(name)?
                .ok_or_else(|| Error::invalid_input(format!("{name} is not set; set it to {what}")))
        };
        let url = "the store's URL, like file:///var/lib/my-service";
        let backend = required(variable::BACKEND, url)?;
        registry
            .check(&backend)
            .map_err(|error| named(variable::BACKEND, &error))?;
        let lock = required(variable::LOCK, "the lock's name, like nightly-batch")?;
        let lock = LockName::new(lock).map_err(|error| named(variable::LOCK, &error))?;
        let identity = text(variable::IDENTITY)?
            .map(Identity::new)
            .transpose()
            .map_err(|error| named(variable::IDENTITY, &error))?;
        let preset = text(variable::POLICY)?;
        let lease = text(variable::LEASE)?;
        let heartbeat = text(variable::HEARTBEAT)?;
        let stop_grace = text(variable::STOP_GRACE)?;
        let policy = PolicySettings {
            preset: Setting::new(variable::POLICY, preset.as_deref()),
            lease: Setting::new(variable::LEASE, lease.as_deref()),
            heartbeat: Setting::new(variable::HEARTBEAT, heartbeat.as_deref()),
            stop_grace: Setting::new(variable::STOP_GRACE, stop_grace.as_deref()),
        };
        let drain_limit = text(variable::DRAIN_LIMIT)?;
        let drain_limit = Setting::new(variable::DRAIN_LIMIT, drain_limit.as_deref());
        Ok(Self {
            registry,
            backend,
            lock,
            identity,
            policy: policy.read()?,
            drain_limit: drain_limit.duration()?,
        })
    }

    /// Opens the store, and gives the election.
    ///
    /// Fails as [`connect`](crate::connect()) and [`ElectionBuilder::build`] do.
    pub async fn election(&self) -> Result<Election, Error> {
        self.builder().await?.build()
    }

    /// The same, for those who have more to set.
    pub async fn builder(&self) -> Result<ElectionBuilder, Error> {
        let backend = self.registry.connect(&self.backend).await?;
        let mut builder = Election::builder(backend, self.lock.clone()).policy(self.policy.clone());
        if let Some(identity) = &self.identity {
            builder = builder.identity(identity.clone());
        }
        if let Some(limit) = self.drain_limit {
            builder = builder.drain_limit(limit);
        }
        Ok(builder)
    }
}

impl Registry {
    /// The settings in the process's environment: [`from_env`](crate::from_env) with these stores.
    pub fn from_env(&self) -> Result<Settings, Error> {
        self.from_variables(|name| env::var_os(name))
    }

    /// The settings that `read` gives: [`Settings::from_variables`] with these stores.
    pub fn from_variables(
        &self,
        read: impl Fn(&str) -> Option<OsString>,
    ) -> Result<Settings, Error> {
        Settings::read(self.clone(), read)
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("backend", &redact(&self.backend))
            .field("lock", &self.lock)
            .field("identity", &self.identity)
            .field("policy", &self.policy)
            .field("drain_limit", &self.drain_limit)
            .finish_non_exhaustive()
    }
}

/// A setting as text, and what it is called where it was set: a variable or an option. For
/// programs that read options of their own and mean the same by them.
#[derive(Clone, Copy, Debug)]
pub struct Setting<'a> {
    name: &'a str,
    text: Option<&'a str>,
}

impl<'a> Setting<'a> {
    /// What `name` was set to, if it was.
    pub fn new(name: &'a str, text: Option<&'a str>) -> Self {
        Self { name, text }
    }

    /// Reads a duration: `15s`, `500ms`, `1m 30s`.
    ///
    /// Fails with [`InvalidInput`](tenure_core::ErrorKind::InvalidInput), and names the setting.
    pub fn duration(self) -> Result<Option<Duration>, Error> {
        let Some(text) = self.text else {
            return Ok(None);
        };
        let duration = humantime::parse_duration(text).map_err(|problem| {
            Error::invalid_input(format!(
                "{} \"{}\" is not a duration ({problem}); use something like 15s or 500ms",
                self.name,
                shown(text)
            ))
        })?;
        if duration > LONGEST {
            return Err(Error::invalid_input(format!(
                "{} \"{}\" is longer than 100 years; use something like 15s or 500ms",
                self.name,
                shown(text)
            )));
        }
        Ok(Some(duration))
    }
}

/// A policy's settings as text.
#[derive(Clone, Copy, Debug)]
pub struct PolicySettings<'a> {
    /// The policy to start from: one of [`PRESETS`](Self::PRESETS).
    pub preset: Setting<'a>,
    /// The lease.
    pub lease: Setting<'a>,
    /// The heartbeat.
    pub heartbeat: Setting<'a>,
    /// The stop grace.
    pub stop_grace: Setting<'a>,
}

impl PolicySettings<'_> {
    /// The names of the ready-made policies.
    pub const PRESETS: [&'static str; 4] = ["default", "client-go", "fast", "patient"];

    /// The policy, or an error that names the setting that cannot be read, or says with numbers
    /// what does not fit.
    pub fn read(self) -> Result<Policy, Error> {
        let preset = match self.preset.text {
            None | Some("default") => Policy::default(),
            Some("client-go") => Policy::client_go(),
            Some("fast") => Policy::fast(),
            Some("patient") => Policy::patient(),
            Some(other) => {
                return Err(Error::invalid_input(format!(
                    "{} \"{}\" is no policy; use one of {}",
                    self.preset.name,
                    shown(other),
                    Self::PRESETS.join(", ")
                )));
            }
        };
        let mut builder = preset.to_builder();
        if let Some(lease) = self.lease.duration()? {
            builder = builder.lease(lease);
        }
        if let Some(heartbeat) = self.heartbeat.duration()? {
            builder = builder.heartbeat(heartbeat);
        }
        if let Some(grace) = self.stop_grace.duration()? {
            builder = builder.stop_grace(grace);
        }
        let Setting { name: preset, .. } = self.preset;
        builder.build().map_err(|error| {
            let names = [self.lease.name, self.heartbeat.name, self.stop_grace.name];
            let message = format!(
                "{} (set by {preset}, {})",
                error.message(),
                names.join(", ")
            );
            Error::new(error.kind(), Operation::Configure, message)
        })
    }
}

/// The error with the name of the variable that it is about. Its source stays behind: what is
/// checked here has none.
fn named(variable: &str, error: &Error) -> Error {
    let message = format!("{variable}: {}", error.message());
    Error::new(error.kind(), error.operation(), message)
}

/// The beginning, without what a terminal would obey. A password could stand anywhere if the
/// variables were mixed up.
fn shown(text: &str) -> String {
    let text = redact(text);
    text.chars().take(40).flat_map(char::escape_debug).collect()
}

#[cfg(test)]
mod tests {
    #[cfg(feature = "memory")]
    use tenure_core::ErrorKind;

    use super::*;
    use crate::store::Store;

    fn read(variables: &[(&str, &str)]) -> Result<Settings, Error> {
        Settings::from_variables(|name| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| value.into())
        })
    }

    #[cfg(feature = "memory")]
    const MINIMUM: [(&str, &str); 2] = [("TENURE_BACKEND", "memory:"), ("TENURE_LOCK", "job")];

    #[test]
    fn what_is_missing_is_named_with_an_example() {
        let message = read(&[]).unwrap_err().to_string();
        assert!(message.contains("TENURE_BACKEND is not set"), "{message}");
        assert!(message.contains("file:///"), "{message}");
    }

    #[cfg(feature = "memory")]
    #[test]
    fn two_variables_are_enough_and_the_rest_has_defaults() {
        let settings = read(&MINIMUM).unwrap();
        assert_eq!(settings.lock.as_str(), "job");
        assert_eq!(settings.policy, Policy::default());
        assert_eq!((settings.identity, settings.drain_limit), (None, None));
        let message = read(&MINIMUM[..1]).unwrap_err().to_string();
        assert!(message.contains("TENURE_LOCK is not set"), "{message}");
    }

    #[cfg(feature = "memory")]
    #[tokio::test]
    async fn every_variable_reaches_the_election() {
        let all = [
            ("TENURE_IDENTITY", "alice"),
            ("TENURE_POLICY", "client-go"),
            ("TENURE_LEASE", "30s"),
            ("TENURE_HEARTBEAT", "3s"),
            ("TENURE_STOP_GRACE", "1500ms"),
            ("TENURE_DRAIN_LIMIT", "1m 30s"),
        ];
        let settings = read(&[&MINIMUM[..], &all[..]].concat()).unwrap();
        assert_eq!(settings.drain_limit, Some(Duration::from_secs(90)));
        let election = settings.election().await.unwrap();
        assert_eq!(election.identity().as_str(), "alice");
        assert_eq!(election.lock().as_str(), "job");
        let expected = Policy::client_go()
            .to_builder()
            .lease(Duration::from_secs(30))
            .heartbeat(Duration::from_secs(3))
            .stop_grace(Duration::from_millis(1500))
            .build()
            .unwrap();
        assert_eq!(*election.policy(), expected);
    }

    #[cfg(feature = "memory")]
    #[test]
    fn what_is_wrong_is_told_by_the_variables_name_and_without_a_password() {
        use ErrorKind::{InvalidInput, Misconfigured};
        let url = "mysql://u:hunter2@h/d";
        for (name, value, kind, expected) in [
            ("TENURE_BACKEND", "", InvalidInput, "scheme"),
            ("TENURE_BACKEND", url, InvalidInput, "\"mysql\" is unknown"),
            ("TENURE_LOCK", "", InvalidInput, "is empty"),
            ("TENURE_LOCK", "Upper", InvalidInput, "team.batch-job"),
            ("TENURE_IDENTITY", "two words", InvalidInput, "visible"),
            ("TENURE_POLICY", url, InvalidInput, "client-go"),
            ("TENURE_POLICY", "\u{1b}[31m", InvalidInput, "client-go"),
            ("TENURE_LEASE", "soon", InvalidInput, "15s or 500ms"),
            ("TENURE_LEASE", url, InvalidInput, "15s or 500ms"),
            ("TENURE_LEASE", "", InvalidInput, "15s or 500ms"),
            ("TENURE_HEARTBEAT", "25s", Misconfigured, "25s"),
            ("TENURE_STOP_GRACE", "19s", Misconfigured, "19s"),
            ("TENURE_DRAIN_LIMIT", "ever", InvalidInput, "15s or 500ms"),
        ] {
            let mut variables = MINIMUM.to_vec();
            variables.retain(|(other, _)| *other != name);
            variables.push((name, value));
            let error = read(&variables).unwrap_err();
            let text = format!("{error} {error:?}");
            assert_eq!(error.kind(), kind, "{text}");
            assert!(text.contains(name), "{text}");
            assert!(text.contains(expected), "{text}");
            assert!(!text.contains("hunter2"), "{text}");
            assert!(!text.contains('\u{1b}'), "{text}");
        }
    }

    #[cfg(all(unix, feature = "memory"))]
    #[test]
    fn text_that_is_not_unicode_is_refused() {
        use std::os::unix::ffi::OsStringExt as _;
        let read = |name: &str| match name {
            "TENURE_BACKEND" => Some(OsString::from_vec(vec![0xff])),
            _ => None,
        };
        let message = Settings::from_variables(read).unwrap_err().to_string();
        assert!(message.contains("TENURE_BACKEND is not valid UTF-8"));
    }

    #[test]
    fn the_settings_of_a_registry_open_its_stores() {
        let connect = |_| async { Ok(tenure_core::MemoryBackend::private()) };
        let store = Store::new("scratch", connect);
        let registry = Registry::empty().with(store).unwrap();
        let read = |name: &str| match name {
            "TENURE_BACKEND" => Some("scratch:".into()),
            "TENURE_LOCK" => Some("job".into()),
            _ => None,
        };
        let settings = registry.from_variables(read).unwrap();
        assert_eq!(settings.backend, "scratch:");
        assert!(Settings::from_variables(read).is_err());
    }

    #[cfg(feature = "memory")]
    #[test]
    fn debug_shows_no_password() {
        let mut settings = read(&MINIMUM).unwrap();
        settings.backend = "redis://u:hunter2@h".to_owned();
        assert!(!format!("{settings:?}").contains("hunter2"));
    }
}
