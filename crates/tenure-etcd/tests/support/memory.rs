//! How much memory this process takes.

use std::fs;

/// The most memory of this process since [`watch`](Self::watch), beyond what it had then.
pub(crate) struct Memory {
    before: u64,
}

impl Memory {
    fn of_process(field: &str) -> u64 {
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find(|line| line.starts_with(field)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    pub(crate) fn watch() -> Self {
        fs::write("/proc/self/clear_refs", "5").unwrap();
        Self {
            before: Self::of_process("VmRSS:"),
        }
    }

    /// In KiB.
    pub(crate) fn grown(&self) -> u64 {
        Self::of_process("VmHWM:").saturating_sub(self.before)
    }
}
