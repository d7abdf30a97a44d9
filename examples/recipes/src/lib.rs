//! Recipes: each module is one, complete, to be copied. `docs/how-to/recipes.md` says when to use which,
//! and `tests/recipes.rs` tries each.
//!
//! Three of them are services that can be run, several at a time:
//!
//! ```text
//! export TENURE_BACKEND=file://$HOME/.local/state/recipes TENURE_LOCK=recipes TENURE_POLICY=fast
//! cargo run -p tenure-recipes -- web    # or cron, or drain
//! ```

pub mod cron;
pub mod drain;
pub mod fenced;
pub mod gap;
pub mod web;
