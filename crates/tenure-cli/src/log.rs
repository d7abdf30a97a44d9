//! Standard error without waiting for it.
//!
//! The reader of standard error may stall for any time: neither the heartbeat nor the
//! command's supervision may wait for that. So a thread of its own writes, and what it does not
//! keep up with is counted and dropped.

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::json;
use tracing_subscriber::fmt::MakeWriter;

/// How many texts wait to be written.
const WAITING: usize = 1024;

/// How long the last lines are tried for before the process ends.
const LAST_TRY: Duration = Duration::from_secs(1);

/// How often it is tried again to ask for that.
const AGAIN: Duration = Duration::from_millis(5);

/// Started with the first text.
static STANDARD_ERROR: OnceLock<Queue> = OnceLock::new();

/// Whether errors are written as JSON.
static AS_JSON: AtomicBool = AtomicBool::new(false);

enum Text {
    Line(Vec<u8>),
    /// All before it is written.
    Mark(SyncSender<()>),
}

/// What waits to be written by the thread of a writer.
struct Queue {
    /// `None` where no thread can be started.
    texts: Option<SyncSender<Text>>,
    /// Texts that were not written since the last one that was.
    dropped: Arc<AtomicU64>,
}

/// From now on errors are JSON objects, one per line.
pub(crate) fn write_json() {
    AS_JSON.store(true, Ordering::Relaxed);
}

/// How a process that we start is told to write its errors as we do.
pub(crate) fn arguments() -> [&'static str; 2] {
    let is_json = AS_JSON.load(Ordering::Relaxed);
    ["--log-format", if is_json { "json" } else { "text" }]
}

/// A line that tells an error.
pub(crate) fn error_line(message: &str, exit_code: u8) -> String {
    if AS_JSON.load(Ordering::Relaxed) {
        let told = json!({ "error": message, "exit_code": exit_code });
        return format!("{told}\n");
    }
    format!("tenure: {message}\n")
}

/// A line that tells what does not end the program.
pub(crate) fn warning_line(message: &str) -> String {
    if AS_JSON.load(Ordering::Relaxed) {
        return format!("{}\n", json!({ "level": "WARN", "message": message }));
    }
    format!("tenure: warning: {message}\n")
}

/// Writes `text` to standard error, or drops it. Never blocks.
pub(crate) fn write(text: &str) {
    standard_error().send(text.as_bytes());
}

/// Waits until everything is written, for a second at most.
pub(crate) fn flush() {
    if let Some(queue) = STANDARD_ERROR.get() {
        queue.flush(LAST_TRY);
    }
}

fn standard_error() -> &'static Queue {
    STANDARD_ERROR.get_or_init(|| Queue::new(WAITING, io::stderr()))
}

impl Queue {
    fn new(waiting: usize, out: impl Write + Send + 'static) -> Self {
        let (texts, received) = sync_channel(waiting);
        let dropped = Arc::new(AtomicU64::new(0));
        let counter = dropped.clone();
        let thread = thread::Builder::new().name("tenure-log".to_owned());
        let started = thread.spawn(move || write_all(&received, &counter, out));
        Self {
            texts: started.is_ok().then_some(texts),
            dropped,
        }
    }

    fn send(&self, line: &[u8]) {
        let sent = match &self.texts {
            Some(texts) => texts.try_send(Text::Line(line.to_vec())).is_ok(),
            None => write_at_once(io::stderr(), line),
        };
        if !sent {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn flush(&self, limit: Duration) {
        let Some(texts) = &self.texts else {
            return;
        };
        let end = Instant::now() + limit;
        let (done, is_done) = sync_channel(1);
        let mut mark = Text::Mark(done);
        while Instant::now() < end {
            match texts.try_send(mark) {
                Ok(()) => {
                    let left = end.saturating_duration_since(Instant::now());
                    let _given_up = is_done.recv_timeout(left);
                    return;
                }
                Err(TrySendError::Full(again)) => mark = again,
                Err(TrySendError::Disconnected(_)) => return,
            }
            thread::sleep(AGAIN);
        }
    }
}

/// Writes as much as `out` takes without waiting; whether that is all. For a process that can have
/// no thread: it ends with an error, which has to be told.
fn write_at_once(mut out: impl Write + AsFd, line: &[u8]) -> bool {
    // A pipe that takes anything takes one of these whole.
    line.chunks(rustix::pipe::PIPE_BUF).all(|part| {
        let mut asked = [PollFd::new(&out, PollFlags::OUT)];
        let takes_it = poll(&mut asked, Some(&Timespec::default()));
        takes_it.is_ok_and(|ready| ready > 0) && out.write_all(part).is_ok()
    })
}

fn write_all(texts: &Receiver<Text>, dropped: &AtomicU64, mut out: impl Write) {
    for text in texts {
        match text {
            Text::Line(line) => {
                let missing = dropped.swap(0, Ordering::Relaxed);
                let written = tell_dropped(&mut out, missing).and_then(|()| out.write_all(&line));
                if written.is_err() {
                    dropped.fetch_add(missing + 1, Ordering::Relaxed);
                }
            }
            Text::Mark(done) => {
                // Who asked may have given up.
                let _late = done.try_send(());
            }
        }
    }
}

fn tell_dropped(out: &mut impl Write, dropped: u64) -> io::Result<()> {
    if dropped == 0 {
        return Ok(());
    }
    let told =
        format!("{dropped} lines of the log were dropped, because nobody read standard error");
    out.write_all(warning_line(&told).as_bytes())
}

/// Standard error for `tracing`.
pub(crate) struct Log;

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        Self
    }
}

impl Write for Log {
    /// A whole line comes at once.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        standard_error().send(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use std::sync::{Condvar, Mutex};

    use super::*;

    /// Blocks until the reader reads.
    #[derive(Clone, Default)]
    struct Stalled(Arc<(Mutex<Reader>, Condvar)>);

    #[derive(Default)]
    struct Reader {
        reads: bool,
        was_asked: bool,
        text: String,
    }

    impl Write for Stalled {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let (reader, changed) = &*self.0;
            let mut reader = reader.lock().unwrap();
            reader.was_asked = true;
            changed.notify_all();
            let mut reader = changed.wait_while(reader, |it| !it.reads).unwrap();
            reader.text.push_str(&String::from_utf8_lossy(bytes));
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_that_nobody_reads_are_counted_and_the_count_is_shown() {
        let out = Stalled::default();
        let queue = Queue::new(2, out.clone());
        let (reader, changed) = &*out.0;
        queue.send(b"first\n");
        drop(changed.wait_while(reader.lock().unwrap(), |it| !it.was_asked));
        // Two wait, five do not fit.
        for _ in 0..7 {
            queue.send(b"next\n");
        }
        queue.flush(Duration::from_millis(1));
        reader.lock().unwrap().reads = true;
        changed.notify_all();
        queue.flush(Duration::from_secs(100));
        let text = reader.lock().unwrap().text.clone();
        assert_eq!(text.matches("next").count(), 2, "{text}");
        assert!(text.contains("5 lines of the log were dropped"), "{text}");
    }
}
