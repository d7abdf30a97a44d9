//! Examples for tenure. Each runs without a server:
//!
//! - `cargo run -p tenure-examples --bin first_leader` and `fenced_write`: the tutorial.
//! - `cargo run -p tenure-examples --example elect`: campaign, guard side effects, resign.
//! - `cargo run -p tenure-examples --example run_while_leader`: work that runs only while leading.
//! - `cargo run -p tenure-examples --example observe`: watch who leads without being a candidate.
//!
//! Each takes a store's URL as its argument, so that several processes can elect among them:
//! `cargo run -p tenure-examples --example run_while_leader -- file://$HOME/.local/state/tenure-example`.

/// The code of these pages is compiled.
#[cfg(doctest)]
mod pages {
    #[doc = include_str!("../README.md")]
    struct Readme;

    #[doc = include_str!("../docs/tutorial/first-leader.md")]
    struct FirstLeader;

    #[doc = include_str!("../docs/tutorial/fence-a-write.md")]
    struct FenceAWrite;

    #[doc = include_str!("../docs/how-to/use-in-a-service.md")]
    struct UseInAService;

    #[doc = include_str!("../docs/how-to/move.md")]
    struct Move;
}
