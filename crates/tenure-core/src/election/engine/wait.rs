//! Waiting for what happens next. The calls to the store run only here.

use std::future;
use std::task::Poll;

use crate::contract::backend::{Changes, Hint, Loss};
use crate::contract::process::Process;
use crate::election::engine::Engine;
use crate::election::engine::running::Answer;

pub(super) enum Happening {
    /// The caller is a fork of the process that the engine belongs to.
    Forked,
    Instructions,
    Answer(Answer),
    Hint(Option<Hint>),
    Loss,
    Timer,
}

impl Engine {
    pub(super) async fn next(&mut self) -> Happening {
        let clock = self.context.clock.clone();
        let wake = self.machine.next_wake();
        self.context.due.set(wake);
        let timer = async {
            match wake {
                Some(at) => clock.sleep_until(at).await,
                None => future::pending().await,
            }
        };
        let instructions = self.instructions.clone();
        let process = &self.context.process;
        let (changes, loss) = (&mut self.changes, &mut self.loss);
        tokio::select! {
            // Instructions first, so that a term that was given back is not extended; the clock is
            // looked at by the machine whatever comes.
            biased;
            // A child that was forked in mid-term and runs this task too.
            () = forked(process) => Happening::Forked,
            () = instructions.arrived() => Happening::Instructions,
            // Before an answer, which may be older.
            () = end_of(loss.as_mut()) => {
                *loss = None;
                Happening::Loss
            }
            answer = self.calls.running.answer() => Happening::Answer(answer),
            hint = next_hint(changes.as_mut()) => Happening::Hint(hint),
            () = timer => Happening::Timer,
        }
    }
}

/// Looks whenever the engine is polled.
async fn forked(process: &Process) {
    let forked = || !process.is_current();
    future::poll_fn(|_| {
        if forked() {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    })
    .await;
}

async fn end_of(loss: Option<&mut Loss>) {
    match loss {
        Some(loss) => loss.await,
        None => future::pending().await,
    }
}

async fn next_hint(changes: Option<&mut Changes>) -> Option<Hint> {
    match changes {
        Some(changes) => future::poll_fn(|cx| changes.as_mut().poll_next(cx)).await,
        None => future::pending().await,
    }
}
