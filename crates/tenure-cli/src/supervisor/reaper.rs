//! We are the parent of every process below us that has lost its own, whichever started it: as a
//! subreaper, or as the first process of a container. So we reap them, or they stay in the process
//! table.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use rustix::process::Pid;
use tokio::signal::unix::SignalKind;

use crate::failure::Failure;
use crate::supervisor::{processes, signals};

/// Processes whose end is waited for here.
static AWAITED: Mutex<Option<HashSet<Pid>>> = Mutex::new(None);

fn awaited<T>(with: impl FnOnce(&mut HashSet<Pid>) -> T) -> T {
    let mut awaited = AWAITED.lock().unwrap_or_else(PoisonError::into_inner);
    with(awaited.get_or_insert_default())
}

/// While it lives, a process is left to the one who waits for it.
#[derive(Debug)]
pub(crate) struct Awaited(Pid);

impl Awaited {
    pub(crate) fn new(pid: Pid) -> Self {
        awaited(|all| all.insert(pid));
        Self(pid)
    }
}

impl Drop for Awaited {
    fn drop(&mut self) {
        awaited(|all| all.remove(&self.0));
    }
}

/// Whether this is a process of ours, and not of the command.
pub(crate) fn is_awaited(pid: Pid) -> bool {
    awaited(|all| all.contains(&pid))
}

/// Reaps what nobody waits for, on the runtime of the main thread, on which this is called.
pub(crate) fn reap_orphans() -> Result<(), Failure> {
    let mut changed = signals::stream(SignalKind::child())?;
    tokio::spawn(async move {
        loop {
            for dead in processes::dead_children() {
                if !is_awaited(dead) {
                    processes::reap_of_this_thread(dead);
                }
            }
            changed.recv().await;
        }
    });
    Ok(())
}
