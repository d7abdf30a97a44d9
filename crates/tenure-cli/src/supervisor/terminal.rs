//! The terminal that `tenure run` and its command share.
//!
//! The kernel stops a process of a background group that reads from the terminal or sets it up. So
//! when `tenure` is in the terminal's foreground group, the command's group becomes that, as with a
//! shell's job, and `tenure` takes the terminal back when the command has ended or stopped. A
//! `tenure` in the background never touches the terminal.

use std::fs::File;

use nix::sys::signal::{SigSet, Signal};
use rustix::process::Pid;
use rustix::termios::{OptionalActions, Termios};

use crate::supervisor::processes;

/// The terminal that controls a process.
const TERMINAL: &str = "/dev/tty";

/// The terminal, while `tenure` or its command is in the foreground.
#[derive(Debug)]
pub(crate) struct Terminal {
    file: File,
    /// Which group of ours is in the foreground when the command is not.
    ours: Pid,
    /// How it was set up before the command got it.
    settings: Option<Termios>,
    is_given: bool,
}

impl Terminal {
    /// `None` without a terminal, and in its background.
    pub(crate) fn in_foreground() -> Option<Self> {
        let file = File::options().read(true).write(true).open(TERMINAL).ok()?;
        let ours = processes::our_group()?;
        if rustix::termios::tcgetpgrp(&file).ok()? != ours {
            return None;
        }
        Some(Self {
            settings: rustix::termios::tcgetattr(&file).ok(),
            file,
            ours,
            is_given: false,
        })
    }

    /// Gives the terminal to the command's group, if it is still ours to give.
    pub(crate) fn give(&mut self, group: Pid) {
        if self.foreground() == Some(self.ours) {
            self.is_given = rustix::termios::tcsetpgrp(&self.file, group).is_ok();
        }
    }

    /// Takes the terminal back from the command's group. What a command that was killed has set up,
    /// such as a password prompt without echo, is set back.
    pub(crate) fn take_back(&mut self, set_back: bool) {
        if !std::mem::take(&mut self.is_given) {
            return;
        }
        // We are in the background now, and would be stopped for this. Processes that we start must
        // not inherit it.
        let mut blocked = SigSet::empty();
        blocked.add(Signal::SIGTTOU);
        let is_blocked = blocked.thread_block().is_ok();
        if is_blocked {
            // It fails when the terminal is gone.
            let _gone = rustix::termios::tcsetpgrp(&self.file, self.ours);
            let _unchanged = blocked.thread_unblock();
        }
        if let Some(settings) = self.settings.as_ref().filter(|_| set_back) {
            let _gone = rustix::termios::tcsetattr(&self.file, OptionalActions::Now, settings);
        }
    }

    /// Whether the command's group has it.
    pub(crate) fn is_given(&self) -> bool {
        self.is_given
    }

    fn foreground(&self) -> Option<Pid> {
        rustix::termios::tcgetpgrp(&self.file).ok()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.take_back(true);
    }
}

/// For a process that is about to become the command: returns when its group has the terminal, or
/// after `limit`.
pub(crate) fn await_foreground(limit: std::time::Duration) {
    let Ok(terminal) = File::open(TERMINAL) else {
        return;
    };
    let Some(ours) = processes::our_group() else {
        return;
    };
    let start = std::time::Instant::now();
    while rustix::termios::tcgetpgrp(&terminal) != Ok(ours) && start.elapsed() < limit {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
}
