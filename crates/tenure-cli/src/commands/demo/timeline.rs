//! The demo's output: what happens, when, and to whom.

use std::io::{self, IsTerminal as _, Write as _};
use std::time::Duration;

use tenure::Time;

use super::candidate::NAMES;
use super::records::RecordedTerms;

/// Colours of the candidates' names, by index.
const COLOURS: [&str; NAMES.len()] = ["\x1b[36m", "\x1b[33m", "\x1b[35m"];
const BOLD: &str = "\x1b[1m";
const GREEN: &str = "\x1b[32m";
const RED: &str = "\x1b[31m";
const PLAIN: &str = "\x1b[0m";

/// Prints lines with the time since its start.
#[derive(Debug)]
pub(super) struct Timeline {
    start: Time,
    coloured: bool,
}

impl Timeline {
    pub(super) fn new(start: Time) -> Self {
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self {
            start,
            coloured: wanted && io::stdout().is_terminal(),
        }
    }

    /// Something happened to a candidate.
    pub(super) fn event(&self, at: Time, candidate: usize, text: &str) -> io::Result<()> {
        let name = format!("{:<6}", NAMES[candidate]);
        let name = self.painted(COLOURS[candidate], &name);
        say(&format!("{}  {name}  {text}", self.elapsed(at)))
    }

    /// A candidate leads.
    pub(super) fn leads(
        &self,
        at: Time,
        candidate: usize,
        token: u64,
        leaderless: Option<Duration>,
    ) -> io::Result<()> {
        let headline = self.painted(BOLD, &format!("leads, token {token}"));
        let gap = leaderless.map(|gap| format!("  nobody led for {}", shown(gap)));
        self.event(
            at,
            candidate,
            &format!("{headline}{}", gap.unwrap_or_default()),
        )
    }

    /// The terms, and whether they are as they must be.
    pub(super) fn verdict(&self, terms: &RecordedTerms) -> io::Result<bool> {
        say("\nWhat the commands themselves recorded:\n")?;
        let tokens = terms.all().iter().map(|term| term.token.to_string().len());
        let width = tokens.max().unwrap_or(0).max("token".len());
        say(&format!(
            "  leader  {:>width$}       from         to     work done  nobody before",
            "token"
        ))?;
        for (index, term) in terms.all().iter().enumerate() {
            let gap = terms.leaderless_before(index).map(shown);
            say(&format!(
                "  {:<6}  {:>width$}  {}  {}  {:>5} pieces  {:>13}",
                NAMES[term.candidate],
                term.token,
                self.elapsed(term.first),
                self.elapsed(term.last),
                term.pieces,
                gap.unwrap_or_else(|| "-".to_owned()),
            ))?;
        }
        let overlaps = terms.overlapping();
        say("")?;
        self.check("no two terms overlapped", overlaps.is_empty())?;
        self.check("tokens rose with every term", terms.tokens_rise())?;
        for (earlier, later) in &overlaps {
            let (earlier, later) = (earlier.token, later.token);
            say(&format!(
                "  the terms with tokens {earlier} and {later} overlapped"
            ))?;
        }
        Ok(overlaps.is_empty() && terms.tokens_rise())
    }

    fn check(&self, claim: &str, holds: bool) -> io::Result<()> {
        let answer = if holds {
            self.painted(GREEN, "yes")
        } else {
            self.painted(RED, "NO")
        };
        say(&format!("  {claim:<30}{answer}"))
    }

    fn elapsed(&self, at: Time) -> String {
        format!("{:>7.3} s", at.since(self.start).as_secs_f64())
    }

    fn painted(&self, colour: &str, text: &str) -> String {
        if self.coloured {
            format!("{colour}{text}{PLAIN}")
        } else {
            text.to_owned()
        }
    }
}

/// Prints lines.
pub(super) fn say(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}")?;
    out.flush()
}

fn shown(duration: Duration) -> String {
    if duration < Duration::from_secs(1) {
        format!("{} ms", duration.as_millis())
    } else {
        format!("{:.2} s", duration.as_secs_f64())
    }
}
