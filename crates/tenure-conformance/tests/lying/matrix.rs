//! Every case on every lying backend.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use tenure_conformance::{Case, Outcome, Target, cases};

use tokio::runtime::Builder;

use crate::lies::{Honest, Lie, honest, lying};

/// What each case said to each lie.
#[derive(Clone, Debug)]
pub(crate) struct Matrix {
    /// By lie and then by case; `None` where it was not run.
    cells: Vec<Vec<Option<Outcome>>>,
}

/// Runs every case on every lying backend, on paused time, so that it takes seconds.
///
/// Lies about processes need real ones, and real time: only the cases with processes are run on
/// those. The calling program has to call `contestant` first.
pub(crate) fn judge() -> Matrix {
    let work: Vec<(usize, usize)> = (0..Lie::ALL.len())
        .flat_map(|lie| (0..cases().len()).map(move |case| (lie, case)))
        .collect();
    let next = AtomicUsize::new(0);
    let cells = Mutex::new(vec![vec![None; cases().len()]; Lie::ALL.len()]);
    let threads = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(&(lie, case)) = work.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let outcome = try_case(Lie::ALL[lie], &cases()[case]);
                    let mut cells = cells.lock().unwrap_or_else(PoisonError::into_inner);
                    cells[lie][case] = outcome;
                }
            });
        }
    });
    Matrix {
        cells: cells.into_inner().unwrap_or_else(PoisonError::into_inner),
    }
}

fn try_case(lie: Lie, case: &Case) -> Option<Outcome> {
    if lie.base() == Honest::Directory && !case.name.contains("process") {
        return None;
    }
    Some(on_its_time(lie.base(), || lying(lie), case))
}

fn on_its_time(
    kind: Honest,
    target: impl FnOnce() -> std::sync::Arc<dyn Target>,
    case: &Case,
) -> Outcome {
    let paused = kind != Honest::Directory;
    let runtime = Builder::new_current_thread()
        .enable_all()
        .start_paused(paused)
        .build();
    match runtime {
        Ok(runtime) => runtime.block_on(async { case.run(&*target()).await }),
        Err(error) => Outcome::Failed(format!("no runtime: {error}")),
    }
}

/// What each case says to an honest store of this kind; all shall pass or be left out.
pub(crate) fn on_honest(kind: Honest) -> Vec<(&'static Case, Outcome)> {
    let outcome = |case| (case, on_its_time(kind, || honest(kind), case));
    cases().iter().map(outcome).collect()
}

impl Matrix {
    fn found(&self, lie: usize, case: usize) -> bool {
        matches!(self.cells[lie][case], Some(Outcome::Failed(_)))
    }

    /// Cases that no lie fails.
    pub(crate) fn blind_cases(&self) -> Vec<&'static str> {
        (0..cases().len())
            .filter(|&case| !(0..Lie::ALL.len()).any(|lie| self.found(lie, case)))
            .map(|case| cases()[case].name)
            .collect()
    }

    /// Lies that no case sees.
    pub(crate) fn unseen_lies(&self) -> Vec<Lie> {
        (0..Lie::ALL.len())
            .filter(|&lie| !(0..cases().len()).any(|case| self.found(lie, case)))
            .map(|lie| Lie::ALL[lie])
            .collect()
    }
}

impl fmt::Display for Matrix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "# fails, . passes, - left out, blank not run\n")?;
        for digit in [10, 1] {
            write!(f, "{:60}", "")?;
            for lie in 0..Lie::ALL.len() {
                write!(f, "{}", (lie + 1) / digit % 10)?;
            }
            writeln!(f)?;
        }
        for (number, case) in cases().iter().enumerate() {
            write!(f, "{:60}", format!("{}::{}", case.family, case.name))?;
            for cells in &self.cells {
                f.write_str(match &cells[number] {
                    Some(Outcome::Failed(_)) => "#",
                    Some(Outcome::Passed) => ".",
                    Some(Outcome::LeftOut(_)) => "-",
                    None => " ",
                })?;
            }
            writeln!(f)?;
        }
        writeln!(f)?;
        for (number, lie) in Lie::ALL.iter().enumerate() {
            let by = (0..cases().len()).filter(|&case| self.found(number, case));
            writeln!(
                f,
                "{:3} {:24} found by {:2}: {}",
                number + 1,
                format!("{lie:?}"),
                by.count(),
                lie.about()
            )?;
        }
        write!(
            f,
            "\n{} cases, {} lies; cases that fail on no lie: {:?}; lies that fail no case: {:?}",
            cases().len(),
            Lie::ALL.len(),
            self.blind_cases(),
            self.unseen_lies()
        )
    }
}
