//! `tenure status` and `tenure watch`: who leads, for people and for programs.

use std::borrow::Cow;
use std::io::{self, ErrorKind, Write as _};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::StreamExt as _;
use serde_json::{Value, json};
use tenure::{Error, FencingToken, Holder, LockName, Observation, Observer, Occupancy, Operation};
use tenure::{LockBackend, Policy};

use crate::cli::LookArgs;
use crate::failure::{Failure, exit};
use crate::options;
use crate::signals::Signals;

/// How long `status` waits for the store.
const LIMIT: Duration = Duration::from_secs(10);

/// Who leads, as both commands show it.
struct View {
    state: &'static str,
    leader: Option<String>,
    token: Option<FencingToken>,
    value: Option<String>,
    expires_in: Option<Duration>,
}

impl View {
    const LED: &'static str = "led";
    const FREE: &'static str = "free";
    const UNKNOWN: &'static str = "unknown";

    fn none(state: &'static str) -> Self {
        Self {
            state,
            leader: None,
            token: None,
            value: None,
            expires_in: None,
        }
    }

    fn of(state: &'static str, holder: Holder) -> Self {
        Self {
            state,
            leader: Some(holder.identity),
            token: holder.token,
            value: holder.value,
            expires_in: holder.expires_in,
        }
    }

    fn json(&self, lock: &LockName) -> Value {
        let millis = |left: Duration| u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
        json!({
            "lock": lock.as_str(),
            "state": self.state,
            "leader": self.leader,
            "token": self.token.map(FencingToken::as_u64),
            "value": self.value,
            "expires_in_ms": self.expires_in.map(millis),
        })
    }

    /// Other programs may have written the names, so they are escaped: a terminal must not obey
    /// them.
    fn text(&self, lock: &LockName) -> String {
        let Some(leader) = &self.leader else {
            return match self.state {
                Self::FREE => format!("nobody leads {lock}"),
                _ => format!("cannot tell who leads {lock}: the store does not answer"),
            };
        };
        let leader = leader.escape_debug();
        let mut text = if self.state == Self::LED {
            format!("{leader} leads {lock}")
        } else {
            format!("the record of {lock} names {leader}, who was not seen renewing yet")
        };
        let token = self.token.map(|token| format!(", token {token}"));
        let value = self.value.as_deref();
        let value = value.map(|value| format!(", value \"{}\"", value.escape_debug()));
        let left = self.expires_in.map(|left| {
            let seconds = left.as_secs_f64();
            format!(", lease ends in {seconds:.1} s unless renewed")
        });
        for detail in [token, value, left].into_iter().flatten() {
            text.push_str(&detail);
        }
        text
    }
}

impl From<Occupancy> for View {
    fn from(occupancy: Occupancy) -> Self {
        match occupancy {
            Occupancy::Led(holder) => Self::of(Self::LED, holder),
            Occupancy::Unknown(holder) => Self::of(Self::UNKNOWN, holder),
            Occupancy::Free => Self::none(Self::FREE),
            _ => Self::none(Self::UNKNOWN),
        }
    }
}

impl From<Observation> for View {
    fn from(observation: Observation) -> Self {
        match observation {
            Observation::Led {
                identity,
                value,
                token,
                ..
            } => Self {
                leader: Some(identity),
                token,
                value,
                ..Self::none(Self::LED)
            },
            Observation::Free => Self::none(Self::FREE),
            // How much of the lease is left changes all the time, so `watch` does not tell it.
            Observation::Unknown {
                recorded: Some(mut holder),
            } => {
                holder.expires_in = None;
                Self::of(Self::UNKNOWN, holder)
            }
            _ => Self::none(Self::UNKNOWN),
        }
    }
}

/// Opens a store without making anything there: a mistyped path would look like a free lock.
pub(crate) async fn open(url: &str) -> Result<Arc<dyn LockBackend>, Error> {
    tenure::connect(&to_look_at(url)).await
}

fn to_look_at(url: &str) -> Cow<'_, str> {
    let is_file = url
        .split_once(':')
        .is_some_and(|(scheme, _)| scheme.eq_ignore_ascii_case("file"));
    if !is_file || url.contains("create=") {
        return Cow::Borrowed(url);
    }
    let joint = if url.contains('?') { '&' } else { '?' };
    Cow::Owned(format!("{url}{joint}create=false"))
}

/// `tenure status`.
pub(crate) fn status(args: &LookArgs) -> Result<u8, Failure> {
    let lock = options::lock(&args.place.lock)?;
    let occupancy = options::runtime()?.block_on(async {
        let backend = open(&args.place.backend).await?;
        match tokio::time::timeout(LIMIT, backend.holder(&lock)).await {
            Ok(occupancy) => occupancy,
            Err(_) => Err(Error::timeout(Operation::Holder, LIMIT)),
        }
    })?;
    let view = View::from(occupancy);
    let line = if args.json {
        view.json(&lock).to_string()
    } else {
        view.text(&lock)
    };
    print(&line)?;
    Ok(if view.state == View::FREE {
        exit::NO_LEADER
    } else {
        0
    })
}

/// `tenure watch`.
pub(crate) fn watch(args: &LookArgs) -> Result<u8, Failure> {
    let lock = options::lock(&args.place.lock)?;
    options::runtime()?.block_on(async {
        let mut signals = Signals::handle()?;
        let backend = tokio::select! {
            backend = open(&args.place.backend) => backend?,
            _ = signals.ending() => return Ok(0),
        };
        tokio::select! {
            fit = refuse_if_useless(&*backend, &lock) => fit?,
            _ = signals.ending() => return Ok(0),
        }
        let mut changes = Observer::new(backend, lock.clone(), Policy::default()).watch();
        loop {
            let observation = tokio::select! {
                observation = changes.next() => observation,
                _ = signals.ending() => return Ok(0),
            };
            let Some(observation) = observation else {
                return Ok(0);
            };
            if !print(&at_this_time(&View::from(observation), &lock, args.json))? {
                return Ok(0);
            }
        }
    })
}

/// What somebody has to mend is told at once, instead of watched in vain.
async fn refuse_if_useless(backend: &dyn LockBackend, lock: &LockName) -> Result<(), Failure> {
    match tokio::time::timeout(LIMIT, backend.holder(lock)).await {
        Ok(Err(error)) if !error.is_retryable() => Err(error.into()),
        _ => Ok(()),
    }
}

fn at_this_time(view: &View, lock: &LockName, as_json: bool) -> String {
    let time = humantime::format_rfc3339_millis(SystemTime::now());
    if !as_json {
        return format!("{time}  {}", view.text(lock));
    }
    let mut object = view.json(lock);
    object["time"] = Value::String(time.to_string());
    object.to_string()
}

/// Prints a line; `false` when nobody reads any more.
pub(crate) fn print(line: &str) -> Result<bool, Failure> {
    let mut out = io::stdout().lock();
    match writeln!(out, "{line}").and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(Failure::new(format!(
            "cannot write to standard output: {error}"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_wrote_cannot_reach_the_terminal() {
        let lock = LockName::new("job").unwrap();
        let mut holder = Holder::new("eve\u{1b}[31m\n\u{202e}");
        holder.value = Some("\u{7}".to_owned());
        let text = View::from(Occupancy::Led(holder.clone())).text(&lock);
        assert!(
            text.starts_with("eve\\u{1b}[31m\\n\\u{202e} leads job"),
            "{text}"
        );
        assert!(!text.chars().any(char::is_control), "{text:?}");
        let json = View::from(Occupancy::Led(holder.clone())).json(&lock);
        assert_eq!(json["leader"], holder.identity);
        assert!(!json.to_string().chars().any(char::is_control));
    }

    #[test]
    fn a_leader_that_was_not_seen_renewing_is_unknown_by_name() {
        let lock = LockName::new("job").unwrap();
        let view = View::from(Occupancy::Unknown(Holder::new("eve")));
        assert_eq!(view.json(&lock)["state"], "unknown");
        assert_eq!(view.json(&lock)["leader"], "eve");
        let text = view.text(&lock);
        assert!(
            text.contains("names eve, who was not seen renewing"),
            "{text}"
        );
        let silent = View::from(Observation::Unknown { recorded: None });
        assert_eq!(silent.json(&lock)["leader"], Value::Null);
        assert!(silent.text(&lock).contains("does not answer"));
    }
}
