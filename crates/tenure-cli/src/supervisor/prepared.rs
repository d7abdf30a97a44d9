//! What the [subreaper](crate::supervisor::subreaper) is started with.

use std::ffi::OsString;
use std::process;

use rustix::process::Pid;
use tenure::Term;

use crate::failure::Failure;
use crate::supervisor::cgroup::{self, Cgroup};
use crate::supervisor::child::{BACKEND, BACKEND_FILE, IDENTITY, LOCK, Subreaper, TOKEN};
use crate::supervisor::control::Control;
use crate::supervisor::processes::Process;
use crate::supervisor::subreaper;
use crate::supervisor::terminal::Terminal;

/// What the subreaper is started with.
#[derive(Debug)]
pub(crate) struct Prepared {
    command: Vec<OsString>,
    /// Those without a value are removed.
    environment: [(&'static str, Option<String>); 5],
    terminal: Option<Terminal>,
    /// Where one can be made.
    cgroup: Option<Cgroup>,
}

impl Prepared {
    /// For the subreaper of `command`, which gets the store's URL if `backend` has it.
    ///
    /// What others left behind that were killed with their helpers is killed first.
    pub(crate) async fn new(
        command: &[OsString],
        term: &Term,
        backend: Option<&str>,
        terminal: Option<Terminal>,
        in_cgroup: bool,
    ) -> Self {
        if !cgroup::kill_leftovers().await {
            tracing::error!(
                "what another tenure left behind lives on: it is another user's, or hangs in the kernel"
            );
        }
        Self {
            command: command.to_vec(),
            environment: [
                (LOCK, Some(term.lock().as_str().to_owned())),
                (IDENTITY, Some(term.identity().as_str().to_owned())),
                (TOKEN, Some(term.token().as_u64().to_string())),
                (BACKEND, backend.map(str::to_owned)),
                // With `--pass-backend` too: a URL given twice is refused.
                (BACKEND_FILE, None),
            ],
            terminal,
            cgroup: in_cgroup.then(Cgroup::make).flatten(),
        }
    }

    /// Where everything of the command is, if one could be made.
    pub(crate) fn cgroup(&self) -> Option<&Cgroup> {
        self.cgroup.as_ref()
    }

    /// Has a process that is about to start pass on what the subreaper needs.
    pub(crate) fn add_to(&self, starter: &mut process::Command) {
        self.add_environment(starter);
        starter
            .args(self.terminal.as_ref().map(|_| "--foreground"))
            .args(self.cgroup.iter().flat_map(Cgroup::arguments))
            .arg("--")
            .args(&self.command);
    }

    fn add_environment(&self, starter: &mut process::Command) {
        for (name, value) in &self.environment {
            match value {
                Some(value) => starter.env(name, value),
                None => starter.env_remove(name),
            };
        }
    }

    /// The subreaper that was started, with our end of its socket.
    pub(crate) fn started(self, seen: Process, control: Control) -> Subreaper {
        Subreaper::new(seen, control, self.terminal, self.cgroup)
    }

    /// Starts the subreaper as our own child, without a guard.
    pub(crate) fn start_unguarded(self) -> Result<Subreaper, Failure> {
        let cannot = |error| Failure::new(format!("cannot start a process: {error}"));
        let (control, theirs) = Control::pair().map_err(cannot)?;
        let foreground = self.terminal.is_some();
        let cgroup = self.cgroup.as_ref();
        let mut starter = subreaper::starter(&self.command, foreground, cgroup, theirs);
        self.add_environment(&mut starter);
        let process = starter.spawn().map_err(cannot)?;
        let seen = Process::read(Pid::from_child(&process));
        let seen =
            seen.ok_or_else(|| Failure::new("cannot see a process that was started in /proc"))?;
        Ok(self.started(seen, control))
    }
}
