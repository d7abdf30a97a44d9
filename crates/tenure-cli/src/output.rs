//! What is printed, for people and for programs.

use std::io::{self, ErrorKind, Write as _};
use std::time::Duration;

use serde_json::{Value, json};
use tenure::{FencingToken, Holder, LockName, Observation, Occupancy};

use crate::failure::Failure;

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

/// Text without what a terminal would obey; lines stay lines.
pub(crate) fn harmless(text: &str) -> String {
    escape(text, |c| c.is_control() && c != '\n')
}

/// One line without what a terminal would obey.
pub(crate) fn harmless_line(text: &str) -> String {
    escape(text, char::is_control)
}

fn escape(text: &str, is_escaped: impl Fn(char) -> bool) -> String {
    let escape = |c: char| match c {
        c if is_escaped(c) => c.escape_debug().to_string(),
        c => c.to_string(),
    };
    text.chars().map(escape).collect()
}

/// Who leads, as `status` and `watch` show it.
pub(crate) struct LeaderView {
    pub(crate) state: &'static str,
    leader: Option<String>,
    token: Option<FencingToken>,
    value: Option<String>,
    expires_in: Option<Duration>,
}

impl LeaderView {
    const LED: &'static str = "led";
    pub(crate) const FREE: &'static str = "free";
    const UNKNOWN: &'static str = "unknown";

    /// Of a lock whose record cannot be read.
    pub(crate) fn unreadable() -> Self {
        Self::none(Self::UNKNOWN)
    }

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

    pub(crate) fn json(&self, lock: &LockName) -> Value {
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
    pub(crate) fn text(&self, lock: &LockName) -> String {
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

impl From<Occupancy> for LeaderView {
    fn from(occupancy: Occupancy) -> Self {
        match occupancy {
            Occupancy::Led(holder) => Self::of(Self::LED, holder),
            Occupancy::Unknown(holder) => Self::of(Self::UNKNOWN, holder),
            Occupancy::Free => Self::none(Self::FREE),
            _ => Self::none(Self::UNKNOWN),
        }
    }
}

impl From<Observation> for LeaderView {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_wrote_cannot_reach_the_terminal() {
        let lock = LockName::new("job").unwrap();
        let mut holder = Holder::new("eve\u{1b}[31m\n\u{202e}");
        holder.value = Some("\u{7}".to_owned());
        let text = LeaderView::from(Occupancy::Led(holder.clone())).text(&lock);
        assert!(
            text.starts_with("eve\\u{1b}[31m\\n\\u{202e} leads job"),
            "{text}"
        );
        assert!(!text.chars().any(char::is_control), "{text:?}");
        let json = LeaderView::from(Occupancy::Led(holder.clone())).json(&lock);
        assert_eq!(json["leader"], holder.identity);
        assert!(!json.to_string().chars().any(char::is_control));
    }

    #[test]
    fn a_leader_that_was_not_seen_renewing_is_unknown_by_name() {
        let lock = LockName::new("job").unwrap();
        let view = LeaderView::from(Occupancy::Unknown(Holder::new("eve")));
        assert_eq!(view.json(&lock)["state"], "unknown");
        assert_eq!(view.json(&lock)["leader"], "eve");
        let text = view.text(&lock);
        assert!(
            text.contains("names eve, who was not seen renewing"),
            "{text}"
        );
        let silent = LeaderView::from(Observation::Unknown { recorded: None });
        assert_eq!(silent.json(&lock)["leader"], Value::Null);
        assert!(silent.text(&lock).contains("does not answer"));
    }
}
