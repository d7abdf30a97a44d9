//! The engine, the owner and the work at one term.

use std::sync::Arc;

use shuttle::future::block_on;
use shuttle::thread;
use tenure_threads::machine::{Cause, Span};
use tenure_threads::{BareTerm, FencingToken};

use super::{Hand, at, identity, join, lock};

fn span(cancel_at: u64, valid_until: u64) -> Span {
    Span {
        cancel_at: at(cancel_at),
        valid_until: at(valid_until),
    }
}

/// A term that is valid until 20 s, and told to stop at 15 s.
fn term(clock: &Arc<Hand>) -> BareTerm {
    let token = FencingToken::from_counter(1).unwrap_or_else(|error| panic!("{error}"));
    BareTerm::new(lock(), identity("one"), token, span(15, 20), clock.clone())
}

/// The engine extends a term while its owner ends it.
pub(crate) fn extend_beside_end() {
    let clock = Hand::at(10);
    let state = term(&clock);
    let engine = {
        let state = state.clone();
        thread::spawn(move || {
            let _refused = state.extend(span(25, 30));
        })
    };
    state.end(Cause::Resigned);
    let term = state.term();
    assert!(!term.is_valid(), "it was ended before");
    join(engine);
    assert!(
        state.has_ended() && !term.is_valid(),
        "an ended term is back"
    );
    assert!(term.is_cancelled(), "the work is not told");
    assert_eq!(term.cause(), Some(Cause::Resigned));
}

/// The engine extends a term at the moment at which it ends by the clock, while the work looks.
pub(crate) fn extend_beside_looks() {
    let clock = Hand::at(10);
    let state = term(&clock);
    let engine = {
        let state = state.clone();
        thread::spawn(move || state.extend(span(45, 50)).is_err())
    };
    let time = {
        let clock = clock.clone();
        thread::spawn(move || clock.set(40))
    };
    let term = state.term();
    let mut over = false;
    let mut cancelled = false;
    for _ in 0..3 {
        let valid = term.is_valid();
        assert!(!(over && valid), "a term that was over is valid again");
        over |= !valid;
        let now_cancelled = term.is_cancelled();
        assert!(
            !cancelled || now_cancelled,
            "what the work was told is taken back"
        );
        cancelled |= now_cancelled;
        if cancelled {
            assert!(term.cause().is_some(), "told to stop without a cause");
        }
    }
    let told = join(engine);
    join(time);
    assert!(
        !(over && term.is_valid()),
        "a term that was over is valid again"
    );
    if over {
        assert!(
            told || !term.is_valid(),
            "the engine does not learn of the end"
        );
    }
}

/// The engine cancels a term while the work looks for the cause.
pub(crate) fn cancel_beside_looks() {
    let clock = Hand::at(10);
    let state = term(&clock);
    let engine = {
        let state = state.clone();
        thread::spawn(move || state.cancel(Cause::Shutdown))
    };
    let term = state.term();
    for _ in 0..3 {
        if term.is_cancelled() {
            assert_eq!(term.cause(), Some(Cause::Shutdown));
        }
    }
    join(engine);
    assert!(term.is_cancelled() && term.is_valid());
}

/// The owner stops a term and gives it back at the moment at which its time comes, while the work
/// looks: all name one cause.
pub(crate) fn stop_beside_time() {
    let clock = Hand::at(10);
    let state = term(&clock);
    let time = {
        let clock = clock.clone();
        thread::spawn(move || clock.set(16))
    };
    let work = {
        let term = state.term();
        thread::spawn(move || {
            block_on(term.cancelled());
            term.cause()
        })
    };
    state.stop(Cause::Shutdown);
    state.give_back();
    let told = join(work);
    join(time);
    assert!(
        matches!(told, Some(Cause::Shutdown | Cause::HeartbeatsMissed)),
        "{told:?}"
    );
    assert_eq!(told, state.term().cause(), "two causes");
    assert!(state.has_ended() && !state.term().is_valid());
}

/// Work waits for the end of its term, which comes by an order.
pub(crate) fn waits_beside_end() {
    let clock = Hand::at(10);
    let state = term(&clock);
    let waits = {
        let term = state.term();
        thread::spawn(move || {
            let stopped = block_on(term.until_cancelled(std::future::pending::<()>()));
            assert!(stopped.is_err() && term.is_cancelled());
            block_on(term.lost());
            assert!(!term.is_valid());
        })
    };
    let engine = {
        let state = state.clone();
        thread::spawn(move || {
            let _refused = state.extend(span(25, 30));
            state.cancel(Cause::Shutdown);
        })
    };
    state.end(Cause::Lost);
    join(engine);
    join(waits);
}

/// Work waits for the end of its term, which the engine moves, and which comes by the clock.
pub(crate) fn waits_beside_time() {
    let clock = Hand::at(10);
    let state = term(&clock);
    let waits = {
        let term = state.term();
        thread::spawn(move || {
            block_on(term.lost());
            assert!(!term.is_valid(), "it was lost before");
            assert!(!term.is_valid(), "a term that was over is valid again");
        })
    };
    let engine = {
        let state = state.clone();
        thread::spawn(move || {
            // A shorter lease: the waiting must notice.
            let _refused = state.extend(span(12, 14));
        })
    };
    clock.set(15);
    join(engine);
    join(waits);
}

/// Work waits for the end of its term, which comes by the clock while the engine still moves it.
pub(crate) fn waits_beside_extension() {
    let clock = Hand::at(10);
    let state = term(&clock);
    let waits = {
        let term = state.term();
        thread::spawn(move || {
            block_on(term.lost());
            for _ in 0..3 {
                assert!(!term.is_valid(), "a term that was lost is valid again");
            }
        })
    };
    let engine = thread::spawn(move || {
        let _refused = state.extend(span(45, 50));
    });
    clock.set(21);
    join(engine);
    clock.set(60);
    join(waits);
}
