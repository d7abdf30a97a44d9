//! A panic that is planted, to show that a target finds one.
//!
//! Each target names one rare place of its own. A run with `TENURE_FUZZ_PLANT=1` panics there, when
//! the text at this place also is long, and of a length that no file of a corpus has there.
//!
//! libFuzzer keeps an input that reaches code for the first time. So each condition here leads to a
//! function of its own: the compiler would make one comparison of them otherwise. It changes the
//! length of a part of an input often. A letter of its choice at one place of 200 takes it hours.

use std::cell::Cell;
use std::sync::OnceLock;

thread_local! {
    static REACHED: Cell<u8> = const { Cell::new(0) };
}

/// How far it is to the panic.
const STEPS: u8 = 3;

/// Panics in a run with a planted panic, if `is_rare` and the text is of such a length.
pub(crate) fn at(is_rare: bool, text: &str) {
    let length = text.len();
    behind(is_rare, length > 32, length % 16 == 2);
}

/// The same for three conditions, one of which follows the other.
pub(crate) fn behind(first: bool, second: bool, third: bool) {
    if !first {
        return;
    }
    behind_one();
    if !second {
        return;
    }
    behind_two();
    if third {
        behind_three();
    }
}

#[inline(never)]
fn behind_one() {
    reach(1);
}

#[inline(never)]
fn behind_two() {
    reach(2);
}

#[inline(never)]
fn behind_three() {
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
