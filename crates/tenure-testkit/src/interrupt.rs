//! Ctrl-C and termination: noticed at the next waiting point, so that what was started is stopped.
//!
//! Every loop of this program that waits calls [`check`]. A second signal ends the program at once;
//! stores held in the foreground then die by their parent-death signal, and stores started to stay
//! are in their records for `stores down`.

use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, bail};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

static RAISED: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// The exit status of a shell for a process that SIGINT ended.
pub const EXIT_INTERRUPTED: u8 = 130;

/// Installs the handlers. To be called once, before anything is started.
pub fn install() -> Result<()> {
    let flag = Arc::clone(RAISED.get_or_init(Arc::default));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        // The order matters: the flag is still down when the first signal comes.
        signal_hook::flag::register_conditional_shutdown(
            signal,
            i32::from(EXIT_INTERRUPTED),
            Arc::clone(&flag),
        )
        .and_then(|_| signal_hook::flag::register(signal, Arc::clone(&flag)))
        .with_context(|| format!("no handler could be installed for signal {signal}"))?;
    }
    Ok(())
}

/// Whether somebody asked this program to end.
pub fn raised() -> bool {
    RAISED
        .get()
        .is_some_and(|flag| flag.load(Ordering::Relaxed))
}

/// Fails when somebody asked this program to end.
pub fn check() -> Result<()> {
    if raised() {
        bail!("interrupted");
    }
    Ok(())
}
