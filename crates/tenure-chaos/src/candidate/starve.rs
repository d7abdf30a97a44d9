//! A candidate whose runtime is starved: blocking work stands on each of its threads.
//!
//! A file of the process asks for it, because a candidate has no other ear that hears without its
//! runtime.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::Result;
use tokio::runtime::Handle;

use crate::history::Writer;

/// How often a candidate looks whether the file is there.
const LOOK: Duration = Duration::from_millis(20);

/// The file that asks the runtime of a process to stand still, for the milliseconds that it holds.
pub fn request(beside: &Path, process: u32) -> PathBuf {
    beside.with_file_name(format!("starve-{process}"))
}

/// Looks for the file on a thread that lasts as long as the process.
pub(super) fn on_request(history: &Path, beside: &Path) -> Result<()> {
    let process = std::process::id();
    let history = Writer::create(history, &process.to_string())?;
    let file = request(beside, process);
    let runtime = Handle::current();
    thread::spawn(move || {
        loop {
            thread::sleep(LOOK);
            let asked = fs::read_to_string(&file).ok();
            if let Some(millis) = asked.and_then(|text| text.trim().parse().ok()) {
                let _gone = fs::remove_file(&file);
                // A history that cannot be written ends the candidate elsewhere.
                let _told = starve(&runtime, Duration::from_millis(millis), &history);
            }
        }
    });
    Ok(())
}

/// Blocks each thread of the runtime, one after the other, until all have been blocked for so long.
fn starve(runtime: &Handle, time: Duration, history: &Writer) -> Result<()> {
    let (begun, has_begun) = mpsc::channel();
    let mut over = Vec::new();
    for _ in 0..runtime.metrics().num_workers() {
        let (end, ends) = mpsc::channel::<()>();
        let begun = begun.clone();
        runtime.spawn(async move {
            let _waits = begun.send(());
            let _ended = ends.recv();
        });
        has_begun.recv()?;
        over.push(end);
    }
    history.event("starved", 0, &over.len().to_string())?;
    thread::sleep(time);
    drop(over);
    history.event("fed", 0, "")?;
    Ok(())
}
