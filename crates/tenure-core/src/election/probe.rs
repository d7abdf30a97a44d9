//! The application's health probe.

use std::fmt;
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::election::relay;

/// So long a heartbeat thread waits for the probe. A probe that takes longer answers for the next
/// heartbeat.
const AT_ONCE: Duration = Duration::from_millis(10);

type Ask = dyn Fn() -> bool + Send + Sync;

/// Says whether the application is well.
pub(super) struct HealthProbe {
    ask: Arc<Ask>,
    answers: Arc<Mutex<Answers>>,
}

/// What a probe that runs on a thread of its own has said.
struct Answers {
    last: bool,
    /// Since when it is asked without an answer.
    asked_at: Option<Instant>,
}

impl HealthProbe {
    pub(super) fn new(probe: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        let answers = Answers {
            last: true,
            asked_at: None,
        };
        Self {
            ask: Arc::new(probe),
            answers: Arc::new(Mutex::new(answers)),
        }
    }

    /// Asks it. On a heartbeat thread a probe that blocks does not block the caller: then its last
    /// answer counts, for `patience`, and after that it is a no.
    pub(super) fn is_well(&self, patience: Duration) -> bool {
        if !relay::is_used() {
            return (self.ask)();
        }
        let now = Instant::now();
        {
            let mut answers = lock(&self.answers);
            if let Some(asked_at) = answers.asked_at {
                return answers.last && now.duration_since(asked_at) < patience;
            }
            answers.asked_at = Some(now);
        }
        let (answered, answer) = sync_channel(1);
        if self.ask_on_a_thread(answered).is_err() {
            // There is no other thread to be had.
            lock(&self.answers).asked_at = None;
            return (self.ask)();
        }
        match answer.recv_timeout(AT_ONCE) {
            Ok(well) => well,
            Err(RecvTimeoutError::Timeout) => lock(&self.answers).last,
            // The probe has panicked.
            Err(RecvTimeoutError::Disconnected) => false,
        }
    }

    fn ask_on_a_thread(&self, answered: SyncSender<bool>) -> std::io::Result<()> {
        let (ask, answers) = (self.ask.clone(), self.answers.clone());
        let thread = thread::Builder::new().name("tenure-health".to_owned());
        thread.spawn(move || {
            let mut said = Said {
                answers,
                well: false,
            };
            said.well = ask();
            let well = said.well;
            drop(said);
            // The engine may have gone on without it.
            let _late = answered.try_send(well);
        })?;
        Ok(())
    }
}

/// Notes the answer, a no where the probe panics.
struct Said {
    answers: Arc<Mutex<Answers>>,
    well: bool,
}

impl Drop for Said {
    fn drop(&mut self) {
        let mut answers = lock(&self.answers);
        answers.last = self.well;
        answers.asked_at = None;
    }
}

fn lock(answers: &Mutex<Answers>) -> std::sync::MutexGuard<'_, Answers> {
    answers.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for HealthProbe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HealthProbe").finish_non_exhaustive()
    }
}
