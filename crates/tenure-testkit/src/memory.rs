//! How much memory this process has used.

use std::fs;

/// The most memory of this process from [`watch`](Self::watch) on, beyond what it had then. For a
/// test that is alone in its process.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    before: u64,
}

impl Memory {
    fn of_process(field: &str) -> u64 {
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find(|line| line.starts_with(field)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// From now on.
    pub fn watch() -> Self {
        // Forgets the peak so far.
        fs::write("/proc/self/clear_refs", "5").unwrap();
        Self {
            before: Self::of_process("VmRSS:"),
        }
    }

    /// In KiB.
    pub fn grown(&self) -> u64 {
        Self::of_process("VmHWM:").saturating_sub(self.before)
    }
}
