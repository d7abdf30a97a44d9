//! The first process of a container is the parent of every process that has lost its own, whoever
//! started it. It has to reap them, or they stay in the process table.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use rustix::process::{Pid, WaitOptions};
use tokio::signal::unix::SignalKind;

use crate::failure::Failure;
use crate::supervisor::{processes, signals};

/// Processes whose end somebody here waits for.
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

/// Reaps what nobody waits for, on the runtime that this is called on, if we are the first process.
pub(crate) fn reap_orphans() -> Result<(), Failure> {
    if !rustix::process::getpid().is_init() {
        return Ok(());
    }
    let mut changed = signals::stream(SignalKind::child())?;
    tokio::spawn(async move {
        loop {
            for dead in processes::dead_children() {
                if !is_awaited(dead) {
                    let _reaped = rustix::process::waitpid(Some(dead), WaitOptions::NOHANG);
                }
            }
            changed.recv().await;
        }
    });
    Ok(())
}
