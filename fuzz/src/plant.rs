//! A panic that is planted, to show that a target finds one.
//!
//! Each target names one rare place of its own. A run with `TENURE_FUZZ_PLANT=1` panics there, when
//! the text at this place also is long, and of a length that no file of a corpus has there.
//!
//! libFuzzer keeps an input that reaches code for the first time. So each condition here leads to a
//! function of its own: the compiler would make one comparison of them otherwise. A text that has
//! grown a little, or half of the right length, is kept and changed further. A needle, like one
//! letter at one of 200 places, would show how long a run is, and not what it reaches.

use std::cell::Cell;
use std::sync::OnceLock;

thread_local! {
    static REACHED: Cell<u8> = const { Cell::new(0) };
}

/// How far it is to the panic.
const STEPS: u8 = 8;

/// Panics in a run with a planted panic, if `is_rare` and the text is of such a length.
pub(crate) fn at(is_rare: bool, text: &str) {
    let length = text.len();
    if !is_rare {
        return;
    }
    step::<1>();
    if length <= 8 {
        return;
    }
    step::<2>();
    if length <= 16 {
        return;
    }
    step::<3>();
    if length <= 32 {
        return;
    }
    step::<4>();
    if !length.is_multiple_of(2) {
        return;
    }
    step::<5>();
    if length % 4 != 2 {
        return;
    }
    step::<6>();
    if length % 8 != 2 {
        return;
    }
    step::<7>();
    if length % 16 == 2 {
        panic();
    }
}

/// The same for three conditions, one of which follows the other.
pub(crate) fn behind(first: bool, second: bool, third: bool) {
    if !first {
        return;
    }
    step::<1>();
    if !second {
        return;
    }
    step::<2>();
    if third {
        panic();
    }
}

#[inline(never)]
fn step<const NUMBER: u8>() {
    reach(NUMBER);
}

#[inline(never)]
fn panic() {
    static PLANTED: OnceLock<bool> = OnceLock::new();
    reach(STEPS);
    assert!(
        !PLANTED.get_or_init(|| std::env::var_os("TENURE_FUZZ_PLANT").is_some()),
        "the planted panic"
    );
}

fn reach(step: u8) {
    REACHED.set(REACHED.get().max(step));
}

/// Whether this thread has reached the planted panic since it was last asked.
pub fn was_reached() -> bool {
    REACHED.take() == STEPS
}
