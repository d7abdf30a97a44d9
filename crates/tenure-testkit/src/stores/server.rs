//! What every store is asked, and what each needs for its answers.

use anyhow::Result;

/// Variables for the tests, in the order they are shown.
pub(super) type Env = Vec<(&'static str, String)>;

/// What every store can do once it is started.
pub(super) trait Server {
    /// Asks it once whether it serves; the answer is its version.
    fn probe(&self) -> Result<String>;

    /// What remains to be set up, once, when it serves.
    fn settle(&self) -> Result<()> {
        Ok(())
    }

    /// What the tests need to know.
    fn env(&self) -> Result<Env>;
}
