//! Processes and what they have started, as `/proc` tells it.
//!
//! A number alone does not say which process is meant: it may be another's by now. A process is
//! known by its number and its start time, and is signalled through a pidfd that was opened
//! before its start time was compared.

use std::collections::HashSet;
use std::fs;
use std::time::Duration;

use nix::sys::wait::{Id, WaitPidFlag};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal};

/// Where the kernel shows processes.
const PROCESSES: &str = "/proc";

/// How long killed processes are waited for: long only when a disk hangs.
pub(crate) const UNTIL_GONE: Duration = Duration::from_secs(5);

/// The waits between looks at processes that were killed.
pub(crate) fn waits() -> impl Iterator<Item = Duration> {
    let mut waited = Duration::ZERO;
    let mut wait = Duration::from_micros(500);
    std::iter::from_fn(move || {
        waited += wait;
        wait = (wait * 2).min(Duration::from_millis(20));
        (waited < UNTIL_GONE).then_some(wait)
    })
}

/// A process at the time when it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Process {
    pub(crate) pid: Pid,
    /// 0 for a process whose parent is in another PID namespace.
    pub(crate) parent: i32,
    group: i32,
    session: i32,
    state: char,
    threads: u32,
    /// In clock ticks since boot.
    pub(crate) start: u64,
}

impl Process {
    /// `None` when there is no such process.
    pub(crate) fn read(pid: Pid) -> Option<Self> {
        let stat = fs::read(format!("{PROCESSES}/{pid}/stat")).ok()?;
        Self::parse(pid, &String::from_utf8_lossy(&stat))
    }

    fn parse(pid: Pid, stat: &str) -> Option<Self> {
        // The name is in parentheses and may hold anything. State is the third field of the line.
        let (_, rest) = stat.rsplit_once(')')?;
        let words: Vec<&str> = rest.split_whitespace().collect();
        let field = |number: usize| words.get(number - 3).copied();
        Some(Self {
            pid,
            parent: field(4)?.parse().ok()?,
            group: field(5)?.parse().ok()?,
            session: field(6)?.parse().ok()?,
            state: field(3)?.chars().next()?,
            threads: field(20)?.parse().ok()?,
            start: field(22)?.parse().ok()?,
        })
    }

    /// Whether it can still do something. A dead main thread says nothing about the others.
    pub(crate) fn is_alive(&self) -> bool {
        !matches!(self.state, 'Z' | 'X') || self.threads > 1
    }

    pub(crate) fn is(&self, other: &Self) -> bool {
        self.pid == other.pid && self.start == other.start
    }

    /// Whether it is still alive.
    pub(crate) fn still_runs(&self) -> bool {
        match Self::read(self.pid) {
            Some(now) => now.is(self) && now.is_alive(),
            // Not to be seen is not dead: no file may be opened any more.
            None => rustix::process::test_kill_process(self.pid) != Err(Errno::SRCH),
        }
    }

    /// Signals this process, and never another one that has its number by now.
    pub(crate) fn signal(&self, signal: Signal) {
        let opened = rustix::process::pidfd_open(self.pid, PidfdFlags::empty());
        if !self.still_runs() {
            return;
        }
        let _gone = match opened {
            Ok(opened) => rustix::process::pidfd_send_signal(opened, signal),
            // An old kernel, or a sandbox that forbids it.
            Err(_) => rustix::process::kill_process(self.pid, signal),
        };
    }
}

/// Whether `/proc` shows processes here, by the numbers that they have here: it may be that of another
/// PID namespace.
pub(crate) fn are_shown() -> bool {
    let this = rustix::process::getpid();
    let shown = fs::read_link(format!("{PROCESSES}/self"));
    let is_ours = shown.is_ok_and(|shown| shown.as_os_str() == this.to_string().as_str());
    is_ours && Process::read(this).is_some()
}

/// Whether a shell with job control has started us: only then the shell lets us go on after Ctrl-Z.
pub(crate) fn are_a_job() -> bool {
    let mut ours = Process::read(rustix::process::getpid());
    while let Some(process) = ours {
        let parent = Pid::from_raw(process.parent).and_then(Process::read);
        match parent {
            // A script that is part of the job.
            Some(parent) if parent.group == process.group => ours = Some(parent),
            parent => return parent.is_some_and(|it| it.session == process.session),
        }
    }
    false
}

/// Whether `parent` waits in the kernel for a child of its group that is stopped.
pub(crate) fn awaits_stopped_start(parent: Pid) -> bool {
    let in_kernel = Process::read(parent).filter(|it| it.state == 'D');
    let Some(parent) = in_kernel else {
        return false;
    };
    let number = parent.pid.as_raw_nonzero().get();
    let is_stopped_child = |it: &Process| {
        it.parent == number
            && it.group == parent.group
            && it.start >= parent.start
            && it.state == 'T'
    };
    all().iter().any(is_stopped_child)
}

/// Everything that runs, or is dead and not reaped.
fn all() -> Vec<Process> {
    numbers().filter_map(Process::read).collect()
}

fn numbers() -> impl Iterator<Item = Pid> {
    let entries = fs::read_dir(PROCESSES).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(Pid::from_raw)
}

/// A dead child of this process, which is not reaped by this.
pub(crate) fn dead_child() -> Option<Pid> {
    let look = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    let seen = nix::sys::wait::waitid(Id::All, look).ok()?;
    Pid::from_raw(seen.pid()?.as_raw())
}

/// Reaps a dead child, unless another thread started it and waits for it. What has lost its parent
/// falls to the main thread.
pub(crate) fn reap_of_this_thread(dead: Pid) {
    let flags = WaitPidFlag::WNOHANG | WaitPidFlag::__WNOTHREAD;
    let number = nix::unistd::Pid::from_raw(dead.as_raw_nonzero().get());
    let _another_thread_has_it = nix::sys::wait::waitpid(number, Some(flags));
}

/// The dead children of this process that nobody has reaped.
pub(crate) fn dead_children() -> Vec<Pid> {
    let this = rustix::process::getpid().as_raw_nonzero().get();
    let dead = |process: &Process| process.parent == this && !process.is_alive();
    all().into_iter().filter(dead).map(|it| it.pid).collect()
}

/// Whether nothing in a process group can do anything any more. Those that became another user
/// count: they live, though they cannot be killed.
pub(crate) fn is_gone(group: Pid) -> bool {
    let number = group.as_raw_nonzero().get();
    let is_member = |process: &Process| process.group == number && process.is_alive();
    !all().iter().any(is_member)
}

/// Kills what runs below `root`, once; the number of processes that were found there alive.
///
/// A process that is started meanwhile may be missed: call it until it finds nothing.
pub(crate) fn kill_below(root: &Process) -> usize {
    kill_among(root, |_| true)
}

/// Like [`kill_below`], for those children of `root` that `is_ours` says, and what is below them.
pub(crate) fn kill_among(root: &Process, is_ours: impl Fn(&Process) -> bool) -> usize {
    let all = all();
    let ours = below(root, &all, is_ours);
    let mut killed_groups = HashSet::new();
    let mut living = 0;
    for process in all.iter().filter(|it| ours.contains(&it.pid)) {
        // One that is dead and not reaped still tells of its group: a program that forks and exits all the
        // time is seen dead only.
        living += usize::from(process.is_alive());
        let strangers = |it: &&Process| it.group == process.group && !ours.contains(&it.pid);
        let all_of_group =
            !all.iter().any(|it| strangers(&it)) && killed_groups.insert(process.group);
        kill(process, root, all_of_group);
    }
    living
}

/// The numbers of the processes below `root`: not `root` itself.
fn below(root: &Process, all: &[Process], is_ours: impl Fn(&Process) -> bool) -> HashSet<Pid> {
    let mut found = HashSet::new();
    if !all.iter().any(|process| process.is(root)) {
        return found;
    }
    let mut parents = vec![*root];
    while let Some(parent) = parents.pop() {
        let number = parent.pid.as_raw_nonzero().get();
        for child in all.iter().filter(|it| it.parent == number) {
            // What is older than its parent is the child of an earlier process of this number.
            let is_child =
                child.start >= parent.start && (parent.pid != root.pid || is_ours(child));
            if is_child && found.insert(child.pid) {
                parents.push(*child);
            }
        }
    }
    found
}

/// Kills `process`, if it still is below `root`, and its process group if all of it is.
///
/// The signal to the group reaches also a process that is being started in it at this moment.
fn kill(process: &Process, root: &Process, all_of_group: bool) {
    let opened = rustix::process::pidfd_open(process.pid, PidfdFlags::empty());
    let Some(now) = Process::read(process.pid) else {
        return;
    };
    // One whose parent has died meanwhile is found by the next look.
    let adopted = now.parent == root.pid.as_raw_nonzero().get();
    if !now.is(process) || (now.parent != process.parent && !adopted) {
        return;
    }
    if all_of_group
        && now.group == process.group
        && let Some(group) = own_group(process.group)
    {
        // It fails for a process that has become another user.
        let _refused = rustix::process::kill_process_group(group, Signal::KILL);
    }
    let _gone = match opened {
        Ok(opened) => rustix::process::pidfd_send_signal(opened, Signal::KILL),
        // An old kernel, or a sandbox that forbids it.
        Err(_) => rustix::process::kill_process(process.pid, Signal::KILL),
    };
}

/// To a system call, 0 means our own group and 1 (as -1) every process there is.
fn own_group(number: i32) -> Option<Pid> {
    let group = (number > 1).then(|| Pid::from_raw(number)).flatten();
    group.filter(|group| our_group() != Some(*group))
}

/// Our process group; `None` when it is another PID namespace's, where it has no number here.
pub(crate) fn our_group() -> Option<Pid> {
    let this = Process::read(rustix::process::getpid())?;
    (this.group > 0)
        .then(|| Pid::from_raw(this.group))
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(pid: i32, parent: i32, start: u64) -> Process {
        let line =
            format!("{pid} (a) (b c) S {parent} {pid} 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 {start} 0");
        Process::parse(Pid::from_raw(pid).unwrap(), &line).unwrap()
    }

    #[test]
    fn a_line_of_stat_is_understood_whatever_the_name_holds() {
        let process = process(71, 70, 5);
        assert_eq!((process.parent, process.group, process.start), (70, 71, 5));
        assert!(Process::parse(process.pid, "").is_none());
    }

    #[test]
    fn the_dead_do_not_count() {
        let process = process(71, 70, 5);
        assert!(process.is_alive());
        let of = |state: char, threads: u32| Process {
            state,
            threads,
            ..process
        };
        assert!(!of('Z', 1).is_alive());
        // Its main thread has ended, another one has not.
        assert!(of('Z', 2).is_alive());
        assert!(of('T', 1).is_alive());
    }

    #[test]
    fn descendants_are_those_below_and_no_others() {
        let root = process(10, 1, 100);
        let all = [
            root,
            process(11, 10, 100),
            process(12, 11, 101),
            process(13, 12, 105),
            process(20, 1, 101),
            process(21, 20, 102),
            // Its parent's number was another's when it was started.
            process(30, 13, 104),
        ];
        let found = |root: &Process| -> Vec<i32> {
            let found = below(root, &all, |_| true);
            let mut found: Vec<i32> = found.iter().map(|it| it.as_raw_nonzero().get()).collect();
            found.sort_unstable();
            found
        };
        assert_eq!(found(&root), [11, 12, 13]);
        // Another process has the number of the one that is meant.
        assert_eq!(found(&process(10, 1, 99)), [0; 0]);
        let only_young = below(&root, &all, |child| child.start > 100);
        assert!(only_young.is_empty());
    }

    #[test]
    fn only_a_group_of_its_own_is_ever_killed() {
        for number in [i32::MIN, -2, -1, 0, 1] {
            assert!(own_group(number).is_none(), "{number}");
        }
        let ours = rustix::process::getpgrp().as_raw_nonzero().get();
        assert!(own_group(ours).is_none());
    }

    #[test]
    fn this_process_is_shown() {
        assert!(are_shown());
        let this = Process::read(rustix::process::getpid()).unwrap();
        assert!(this.is_alive());
    }
}
