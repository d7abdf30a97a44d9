//! Commands that run to an end: captured ones, shown ones, and long ones with a progress line.
//!
//! All waits look for an interrupt, and none of these commands outlives an interrupted run.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process_group};

use crate::interrupt;

const POLL: Duration = Duration::from_millis(20);

/// Whether this is a file that may be run.
pub fn is_executable(path: &Path) -> bool {
    rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok() && path.is_file()
}

/// Runs a command and gives its standard output; a failure carries what it printed.
pub fn capture(command: &mut Command) -> Result<String> {
    capture_with_input(command, "")
}

/// The same, with text on the command's standard input.
pub fn capture_with_input(command: &mut Command, input: &str) -> Result<String> {
    let name = name_of(command);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("{name} cannot be run"))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A command that ends without reading its input says why by its status.
        let _ = stdin.write_all(input.as_bytes());
    }
    let stdout = drain(child.stdout.take());
    let stderr = drain(child.stderr.take());
    let status = wait_within(&mut child, Duration::from_secs(60), &name)?;
    let stdout = stdout.recv().unwrap_or_default();
    let stderr = stderr.recv().unwrap_or_default();
    if !status.success() {
        bail!(
            "{name} failed ({status}): {} {}",
            stderr.trim(),
            stdout.trim()
        );
    }
    Ok(stdout)
}

/// Runs a command in a process group of its own with its output shown, calling `meanwhile` while it
/// runs. On an interrupt the whole group is ended.
pub fn run_shown(command: &mut Command, mut meanwhile: impl FnMut()) -> Result<ExitStatus> {
    let name = name_of(command);
    let mut child = command
        .stdin(Stdio::null())
        .process_group(0)
        .spawn()
        .with_context(|| format!("{name} cannot be run"))?;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if interrupt::raised() {
            end_group(&mut child)?;
            bail!("interrupted while {name} ran");
        }
        meanwhile();
        std::thread::sleep(POLL);
    }
}

/// Runs a long command with one progress line, its output kept in a log whose end is shown when it
/// fails. `describe` makes the line's text out of the number of lines printed and the last one.
pub fn run_with_progress(
    command: &mut Command,
    title: &str,
    log: &Path,
    describe: impl Fn(usize, &str) -> String,
) -> Result<()> {
    let name = name_of(command);
    let mut file =
        File::create(log).with_context(|| format!("cannot write the log {}", log.display()))?;
    let (reader, writer) = std::io::pipe()?;
    command
        .stdin(Stdio::null())
        .stdout(writer.try_clone()?)
        .stderr(writer)
        .process_group(0);
    let spawned = command.spawn();
    // The command holds the pipe's writing end until it is replaced; the reader would never end.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = spawned.with_context(|| format!("{name} cannot be run"))?;

    let (sender, lines) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(reader).split(b'\n').map_while(Result::ok) {
            let _ = sender.send(String::from_utf8_lossy(&line).into_owned());
        }
    });

    let mut progress = Progress::start(title);
    let (mut count, mut text) = (0, String::new());
    let status = loop {
        match lines.recv_timeout(Duration::from_millis(100)) {
            Ok(line) => {
                count += 1;
                writeln!(file, "{line}")?;
                text = describe(count, &line);
                progress.tick(&text);
            }
            Err(mpsc::RecvTimeoutError::Timeout) => progress.tick(&text),
            Err(mpsc::RecvTimeoutError::Disconnected) => break child.wait()?,
        }
        if interrupt::raised() {
            end_group(&mut child)?;
            bail!("interrupted while {name} ran");
        }
    };
    if status.success() {
        progress.done();
        return Ok(());
    }
    bail!(
        "{name} failed ({status}). The end of {}:\n{}",
        log.display(),
        tail(log, 40)
    )
}

/// The last lines of a log, indented.
pub fn tail(path: &Path, lines: usize) -> String {
    let Ok(bytes) = std::fs::read(path) else {
        return format!("  (no log at {})", path.display());
    };
    let text = String::from_utf8_lossy(&bytes);
    let all: Vec<&str> = text.lines().collect();
    let from = all.len().saturating_sub(lines);
    let mut shown = String::new();
    for line in &all[from..] {
        shown.push_str("  ");
        shown.push_str(line);
        shown.push('\n');
    }
    if shown.is_empty() {
        shown.push_str("  (the log is empty)\n");
    }
    shown
}

fn name_of(command: &Command) -> String {
    // A command bound to this program (see `bound::bound`) names its own program as an argument.
    let mut bound = command.get_args().skip_while(|argument| *argument != "--");
    let program = match bound.next().and_then(|_| bound.next()) {
        Some(program)
            if command
                .get_args()
                .next()
                .is_some_and(|first| first == "__become" || first == "__watch") =>
        {
            program
        }
        _ => command.get_program(),
    };
    program.to_string_lossy().into_owned()
}

fn drain(pipe: Option<impl Read + Send + 'static>) -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            let _ = pipe.read_to_end(&mut bytes);
        }
        let _ = sender.send(String::from_utf8_lossy(&bytes).into_owned());
    });
    receiver
}

fn wait_within(child: &mut Child, limit: Duration, name: &str) -> Result<ExitStatus> {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        let late = start.elapsed() > limit;
        if late || interrupt::raised() {
            child.kill()?;
            child.wait()?;
            interrupt::check()?;
            bail!("{name} did not end within {} s", limit.as_secs());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Asks a child's process group to end, and after a while makes it.
fn end_group(child: &mut Child) -> Result<()> {
    let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let signal = |signal| {
        if let Some(group) = group {
            // A group that is gone already is what is wanted.
            let _ = kill_process_group(group, signal);
        }
    };
    signal(Signal::TERM);
    let start = Instant::now();
    while child.try_wait()?.is_none() && start.elapsed() < Duration::from_secs(5) {
        std::thread::sleep(POLL);
    }
    signal(Signal::KILL);
    child.wait()?;
    Ok(())
}

/// A line at the beginning, now and then, and at the end.
struct Progress {
    title: String,
    start: Instant,
    printed: Instant,
}

impl Progress {
    const EVERY: Duration = Duration::from_secs(20);

    fn start(title: &str) -> Self {
        eprintln!("{title}: started");
        let now = Instant::now();
        Self {
            title: title.to_owned(),
            start: now,
            printed: now,
        }
    }

    fn tick(&mut self, text: &str) {
        if self.printed.elapsed() >= Self::EVERY {
            self.printed = Instant::now();
            let seconds = self.start.elapsed().as_secs();
            eprintln!("{}: {seconds} s, {text}", self.title);
        }
    }

    fn done(&self) {
        let seconds = self.start.elapsed().as_secs_f32();
        eprintln!("{}: done in {seconds:.1} s", self.title);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_is_captured_and_failures_carry_it() {
        let mut echo = Command::new("sh");
        let seen = capture_with_input(echo.args(["-c", "cat; echo there"]), "hello ").unwrap();
        assert_eq!(seen, "hello there\n");

        let mut fails = Command::new("sh");
        let error = capture(fails.args(["-c", "echo why >&2; exit 3"])).unwrap_err();
        assert!(error.to_string().contains("why"), "{error}");
    }

    #[test]
    fn progress_keeps_a_log_and_shows_its_end() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        let mut works = Command::new("sh");
        works.args(["-c", "echo a; echo b >&2"]);
        run_with_progress(&mut works, "test", &log, |_, _| String::new()).unwrap();
        assert_eq!(std::fs::read_to_string(&log).unwrap(), "a\nb\n");

        let mut fails = Command::new("sh");
        fails.args(["-c", "echo the reason; exit 1"]);
        let error = run_with_progress(&mut fails, "test", &log, |_, _| String::new()).unwrap_err();
        assert!(error.to_string().contains("the reason"), "{error}");
    }
}
