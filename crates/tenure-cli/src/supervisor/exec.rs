//! `tenure __exec`: sees to it that the command dies with the process that started it, and then
//! becomes the command.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Pid, Signal};

use crate::failure::{Failure, exit};
use crate::log;
use crate::options::ExecArgs;
use crate::supervisor::cgroup::Cgroup;
use crate::supervisor::terminal;

/// How long the terminal is waited for: then something else has taken it.
const FOREGROUND_LIMIT: Duration = Duration::from_secs(10);

/// This program, also when its file was replaced or removed since it was started.
pub(crate) const THIS_PROGRAM: &str = "/proc/self/exe";

/// `command`, by way of this program. It is killed when the calling *thread* ends.
pub(crate) fn dying_with_us(
    command: &[OsString],
    foreground: bool,
    cgroup: Option<&Cgroup>,
) -> process::Command {
    let mut starter = process::Command::new(THIS_PROGRAM);
    starter
        .arg0("tenure")
        .args(["__exec", "--parent", &process::id().to_string()])
        .args(foreground.then_some("--foreground"))
        .args(cgroup.into_iter().flat_map(Cgroup::arguments))
        .args(log::arguments())
        .arg("--")
        .args(command);
    starter
}

/// `tenure __exec`: becomes the command, or tells why not.
pub(crate) fn exec(args: &ExecArgs) -> Failure {
    if let Err(error) = rustix::process::set_parent_process_death_signal(Some(Signal::KILL)) {
        return Failure::new(format!(
            "cannot make the command die with tenure: {error}; it is not started"
        ));
    }
    // The parent may have died before it was asked to take us along.
    if rustix::process::getppid() != Pid::from_raw(args.parent) {
        return Failure::new("tenure has ended, so its command is not started");
    }
    // Without it the subreaper finds what the command starts.
    let cgroup = args.cgroup.clone().map(Cgroup::at);
    let _not_allowed = cgroup.map(|cgroup| cgroup.enter());
    if args.foreground {
        terminal::await_foreground(FOREGROUND_LIMIT);
    }
    let Some((program, arguments)) = args.command.split_first() else {
        return Failure::new("there is no command to run");
    };
    let error = process::Command::new(program).args(arguments).exec();
    let shown = program.to_string_lossy();
    let shown = shown.escape_debug();
    let is_missing = error.kind() == ErrorKind::NotFound;
    let code = if is_missing {
        exit::NOT_FOUND
    } else {
        exit::NOT_EXECUTABLE
    };
    let message = match first_line(program) {
        Some(line) if is_missing => wrong_interpreter(&shown.to_string(), &line),
        _ if is_missing => format!(
            "the command \"{shown}\" was not found; give its path, or add its directory to PATH"
        ),
        Some(line) if error.raw_os_error() == Some(Errno::NOEXEC.raw_os_error()) => format!(
            "the command \"{shown}\" cannot be executed: {error}; if it is a script, its first line \
             must begin with #!, such as #!/bin/sh, and is \"{}\"",
            line.escape_debug()
        ),
        _ => format!(
            "the command \"{shown}\" cannot be executed: {error}; check its permissions and format"
        ),
    };
    Failure::new(message).with_code(code)
}

/// Why a script that is there was "not found".
fn wrong_interpreter(shown: &str, line: &str) -> String {
    let interpreter = line.trim_start_matches("#!").trim();
    if line.ends_with('\r') {
        return format!(
            "the script \"{shown}\" has Windows line ends (CR LF), so its interpreter \
             \"{}\" was not found; convert it: sed -i 's/\\r$//' FILE",
            interpreter.escape_debug()
        );
    }
    format!(
        "\"{shown}\" is there, but its interpreter or dynamic linker was not found; its first line \
         says \"{}\"; install what it names, or correct the line",
        interpreter.escape_debug()
    )
}

/// Of the file that would have been executed, if there is one.
fn first_line(program: &OsStr) -> Option<String> {
    let path = Path::new(program);
    let found = if path.components().count() > 1 {
        path.to_owned()
    } else {
        let all = std::env::var_os("PATH")?;
        std::env::split_paths(&all)
            .map(|directory| directory.join(path))
            .find(|file| file.is_file())?
    };
    let mut start = Vec::new();
    File::open(found)
        .ok()?
        .take(128)
        .read_to_end(&mut start)
        .ok()?;
    let line = start.split(|byte| *byte == b'\n').next()?;
    Some(String::from_utf8_lossy(line).into_owned())
}
