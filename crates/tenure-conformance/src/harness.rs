//! Running cases: one by one in libtest, or all at once for a report.

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::panic::AssertUnwindSafe;

use futures_util::{FutureExt as _, StreamExt as _, stream};
use tokio::sync::RwLock;
use tokio::time::timeout;

use crate::cases::{Case, EXPECTED_CASES, cases};
use crate::limited::Limited;
use crate::runtime::runtime;
use crate::target::Target;
use crate::verdict::{Outcome, Stop, Verdict};

/// The file that each case appends a line to, if the environment names one.
pub const LOG: &str = "TENURE_CONFORMANCE_LOG";

/// How many cases [`run_all`] runs at a time.
const AT_ONCE: usize = 16;

/// Cases that disturb the whole store run alone; libtest runs the others side by side.
static STORE: RwLock<()> = RwLock::const_new(());

impl Case {
    /// Runs the case. A panic of the backend is a failure, as is a case that does not end.
    pub async fn run(&self, target: &dyn Target) -> Outcome {
        // Far beyond what the limits within the case add up to.
        let limit = target.patience() * 30;
        let target = Limited(target);
        let case = AssertUnwindSafe((self.run)(&target)).catch_unwind();
        match timeout(limit, case).await {
            Ok(Ok(verdict)) => judge(verdict, target.impossible_hooks()),
            Ok(Err(panic)) => Outcome::Failed(format!("panicked: {}", panic_text(&*panic))),
            Err(_) => Outcome::Failed(format!("the case did not end within {limit:?}")),
        }
    }
}

/// In strict mode a missing hook is a failure.
fn judge(verdict: Verdict, impossible: Option<&[&str]>) -> Outcome {
    match (verdict, impossible) {
        (Err(Stop::MissingHook(hook, text)), Some(impossible)) if !impossible.contains(&hook) => {
            Outcome::Failed(format!(
                "{text}; implement it, or name it in `impossible_hooks`"
            ))
        }
        (verdict, _) => verdict.into(),
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("no message")
}

/// One case as a test, see [`suite!`](crate::suite).
#[doc(hidden)]
pub fn __run<S: Target>(suite: &str, name: &str, target: impl AsyncFnOnce() -> S) {
    let case = cases().iter().find(|case| case.name == name);
    let Some(case) = case else {
        panic!("there is no case {name}");
    };
    let runtime = runtime();
    let outcome = runtime.block_on(async {
        if case.alone {
            let _alone = STORE.write().await;
            case.run(&target().await).await
        } else {
            let _shared = STORE.read().await;
            case.run(&target().await).await
        }
    });
    // A backend that hangs must not hang the test.
    runtime.shutdown_background();
    log(suite, name, &outcome);
    if let Outcome::Failed(message) = outcome {
        panic!("{message}");
    }
}

/// Says what became of a case where a person and a program can read it.
fn log(suite: &str, name: &str, outcome: &Outcome) {
    let line = line(suite, name, outcome);
    println!("{line}");
    if let Some(path) = std::env::var_os(LOG) {
        let written = OpenOptions::new()
            .append(true)
            .create(true)
            .open(&path)
            // In one write, since many tests append to it.
            .and_then(|mut file| file.write_all(format!("{line}\n").as_bytes()));
        assert!(
            written.is_ok(),
            "{LOG}={}: {written:?}",
            path.to_string_lossy()
        );
    }
}

fn line(suite: &str, name: &str, outcome: &Outcome) -> String {
    // A message of several lines would break a log of one line for each case.
    let outcome = outcome.to_string().replace('\n', " ");
    format!("conformance {suite}: {name}: {outcome}")
}

/// What became of all cases on one backend.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Report {
    /// The backend's name.
    pub suite: String,
    /// Each case with its outcome, in the order of [`cases`].
    pub outcomes: Vec<(&'static Case, Outcome)>,
}

impl Report {
    /// How many passed, failed and were left out.
    pub fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for (_, outcome) in &self.outcomes {
            counts.add(outcome);
        }
        counts
    }

    /// Whether no case failed, and each that there should be was run.
    pub fn is_green(&self) -> bool {
        self.counts().is_green()
    }

    /// Says each outcome as the tests of [`suite!`](crate::suite) do, so that it counts: see
    /// [`LOG`]. For a store that may be absent, where a test has to decide before it runs cases.
    pub fn log(&self) {
        for (case, outcome) in &self.outcomes {
            log(&self.suite, case.name, outcome);
        }
    }

    /// The outcome of the case with this name.
    pub fn outcome(&self, name: &str) -> Option<&Outcome> {
        self.outcomes
            .iter()
            .find(|(case, _)| case.name == name)
            .map(|(_, outcome)| outcome)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (case, outcome) in &self.outcomes {
            writeln!(f, "{:10} {:48} {outcome}", case.family, case.name)?;
        }
        write!(f, "conformance {}: {}", self.suite, self.counts())
    }
}

/// How many cases ended how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counts {
    /// The backend kept the contract.
    pub passed: usize,
    /// It broke the contract.
    pub failed: usize,
    /// The case did not apply.
    pub left_out: usize,
}

impl Counts {
    fn add(&mut self, outcome: &Outcome) {
        match outcome {
            Outcome::Passed => self.passed += 1,
            Outcome::Failed(_) => self.failed += 1,
            Outcome::LeftOut(_) => self.left_out += 1,
        }
    }

    /// All of them.
    pub fn total(&self) -> usize {
        self.passed + self.failed + self.left_out
    }

    /// Whether no case failed, and there are as many as there should be.
    pub fn is_green(&self) -> bool {
        self.failed == 0 && self.total() == EXPECTED_CASES
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} passed, {} failed, {} left out, {} of {EXPECTED_CASES} cases",
            self.passed,
            self.failed,
            self.left_out,
            self.total()
        )
    }
}

/// Runs all cases on one backend: those that can side by side, then the others one by one.
///
/// Panics of the backend are failures of their case. Nothing is logged. The future is to be
/// awaited where it is made (`block_on`, `#[tokio::test]`): it cannot move to another thread.
pub async fn run_all(suite: impl Into<String>, target: &dyn Target) -> Report {
    let numbered = || cases().iter().enumerate();
    let mut outcomes: BTreeMap<usize, Outcome> =
        stream::iter(numbered().filter(|(_, case)| !case.alone))
            .map(async |(number, case)| (number, case.run(target).await))
            .buffer_unordered(AT_ONCE)
            .collect()
            .await;
    for (number, case) in numbered().filter(|(_, case)| case.alone) {
        outcomes.insert(number, case.run(target).await);
    }
    Report {
        suite: suite.into(),
        outcomes: cases().iter().zip(outcomes.into_values()).collect(),
    }
}

/// Counts the lines of a [`LOG`] for each backend: what a driver compares with
/// [`EXPECTED_CASES`]. Of several lines of one case, as after a second run, the last counts;
/// other lines are skipped.
pub fn tally(log: &str) -> BTreeMap<String, Counts> {
    let mut last: BTreeMap<&str, BTreeMap<&str, Outcome>> = BTreeMap::new();
    for line in log.lines() {
        if let Some((suite, case, outcome)) = parse(line) {
            last.entry(suite).or_default().insert(case, outcome);
        }
    }
    let mut counts = BTreeMap::new();
    for (suite, outcomes) in last {
        let count: &mut Counts = counts.entry(suite.to_owned()).or_default();
        for outcome in outcomes.values() {
            count.add(outcome);
        }
    }
    counts
}

fn parse(line: &str) -> Option<(&str, &str, Outcome)> {
    let (suite, rest) = line.strip_prefix("conformance ")?.split_once(": ")?;
    let (case, outcome) = rest.split_once(": ")?;
    let outcome = match outcome.split_once(": ") {
        None if outcome == "passed" => Outcome::Passed,
        Some(("failed", message)) => Outcome::Failed(message.to_owned()),
        Some(("left out", reason)) => Outcome::LeftOut(reason.to_owned()),
        _ => return None,
    };
    Some((suite, case, outcome))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_case_is_listed_once_and_counted() {
        let mut names: Vec<_> = cases().iter().map(|case| case.name).collect();
        assert_eq!(names.len(), EXPECTED_CASES);
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), EXPECTED_CASES, "two cases have one name");
    }

    /// A function that is written but not listed would never run.
    #[test]
    fn every_function_of_the_families_is_listed() {
        macro_rules! sources {
            ($($family:literal)+) => {
                [$(($family, include_str!(concat!("cases/", $family, ".rs")))),+]
            };
        }
        for (family, source) in sources!(
            "acquiring" "basics" "drops" "exclusion" "expiry" "hints" "holders" "limits"
            "queueing" "releasing" "renewal" "sessions" "tokens" "errors"
        ) {
            for line in source.lines() {
                let Some(rest) = line.strip_prefix("pub async fn ") else {
                    continue;
                };
                let name = rest.split('(').next().unwrap();
                assert!(
                    cases()
                        .iter()
                        .any(|case| case.family == family && case.name == name),
                    "{family}::{name} is not in the list of cases"
                );
            }
        }
    }

    #[test]
    fn what_is_logged_can_be_counted() {
        let outcomes = [
            ("a", Outcome::Failed("two\nlines: of text".to_owned())),
            ("b", Outcome::LeftOut("no hook".to_owned())),
            ("a", Outcome::Passed),
        ];
        let mut log = "something else\n".to_owned();
        for (case, outcome) in &outcomes {
            log += &line("memory", case, outcome);
            log.push('\n');
        }
        let counts = tally(&log);
        assert_eq!(counts.len(), 1);
        let expected = Counts {
            passed: 1,
            failed: 0,
            left_out: 1,
        };
        assert_eq!(counts["memory"], expected);
        assert!(!counts["memory"].is_green(), "some cases are missing");
    }
}
