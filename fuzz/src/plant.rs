//! A panic that is planted, to show that a target finds one.
//!
//! Each target names one rare place of its own. A run with `TENURE_FUZZ_PLANT=1` panics there.

use std::cell::Cell;
use std::sync::OnceLock;

thread_local! {
    static REACHED: Cell<bool> = const { Cell::new(false) };
}

/// Panics in a run with a planted panic, if `is_rare`.
pub(crate) fn at(is_rare: bool) {
    static PLANTED: OnceLock<bool> = OnceLock::new();
    if !is_rare {
        return;
    }
    REACHED.set(true);
    assert!(
        !PLANTED.get_or_init(|| std::env::var_os("TENURE_FUZZ_PLANT").is_some()),
        "the planted panic"
    );
}

/// Whether two bytes stand there that no file of a corpus holds. Each is compared by itself: libFuzzer
/// sees such comparisons, and not those of whole texts.
pub(crate) fn marks(text: &str) -> bool {
    let mut before = 0;
    text.bytes().any(|byte| {
        let found = before == b'z' && byte == b'q';
        before = byte;
        found
    })
}

/// Whether this thread has reached a rare place since it was last asked.
pub fn was_reached() -> bool {
    REACHED.take()
}
