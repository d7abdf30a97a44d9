//! Process groups that were killed.

use std::fs;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::Pid;

/// How long a killed group is waited for: long only when a disk hangs.
pub(crate) const UNTIL_GONE: Duration = Duration::from_secs(5);

/// The waits between looks at a group that was killed.
pub(crate) fn waits() -> impl Iterator<Item = Duration> {
    let mut waited = Duration::ZERO;
    let mut wait = Duration::from_micros(500);
    std::iter::from_fn(move || {
        waited += wait;
        wait = (wait * 2).min(Duration::from_millis(20));
        (waited < UNTIL_GONE).then_some(wait)
    })
}

/// Whether nothing in `group` can do anything any more.
pub(crate) fn is_gone(group: Pid) -> bool {
    if has_no_members(rustix::process::test_kill_process_group(group)) {
        return true;
    }
    // Dead processes count as members until somebody reaps them, which the first process of many
    // a container never does.
    let Ok(processes) = fs::read_dir("/proc") else {
        return false;
    };
    !processes
        .flatten()
        .filter(|entry| is_number(&entry.file_name()))
        .filter_map(|entry| fs::read_to_string(entry.path().join("stat")).ok())
        .any(|stat| is_alive_in(&stat, group))
}

/// Whether this answer says so. Members that have become another user are refused to us, and live.
fn has_no_members(answer: Result<(), Errno>) -> bool {
    answer == Err(Errno::SRCH)
}

fn is_number(name: &std::ffi::OsStr) -> bool {
    name.as_encoded_bytes().iter().all(u8::is_ascii_digit)
}

/// Whether a line of `/proc/PID/stat` tells of a living member of `group`.
fn is_alive_in(stat: &str, group: Pid) -> bool {
    // After the name, which is in parentheses and may hold anything: state, parent, group.
    let mut words = stat
        .rsplit_once(')')
        .map_or("", |(_, rest)| rest)
        .split_whitespace();
    let state = words.next();
    let of = words.nth(1).and_then(|word| word.parse().ok());
    of == Some(group.as_raw_nonzero().get()) && !matches!(state, Some("Z" | "X"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_that_became_another_user_count() {
        assert!(has_no_members(Err(Errno::SRCH)));
        assert!(!has_no_members(Err(Errno::PERM)));
        assert!(!has_no_members(Ok(())));
    }

    #[test]
    fn the_dead_do_not_count() {
        let group = Pid::from_raw(70).unwrap();
        assert!(is_alive_in("71 (a) (b c) S 1 70 70 0", group));
        assert!(is_alive_in("71 (x) T 70 70 1 0", group));
        assert!(!is_alive_in("71 (x) Z 1 70 70 0", group));
        assert!(!is_alive_in("71 (x) S 70 71 70 0", group));
        assert!(!is_alive_in("", group));
    }
}
