//! Debian's packages.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::environment::find;
use crate::interrupt;
use crate::paths::Dirs;
use crate::shell::{capture, run_with_progress};

/// Packages that start a service of their own when they are installed, and the service's name.
const SERVICES: [(&str, &str); 5] = [
    ("etcd-server", "etcd"),
    ("redis-server", "redis-server"),
    ("postgresql", "postgresql"),
    ("pgbouncer", "pgbouncer"),
    ("prometheus", "prometheus"),
];

/// Installs packages, and leaves none of their services running.
pub(crate) fn install(packages: &[&str]) -> Result<()> {
    if find("apt-get").is_none() {
        bail!("this system has no apt-get");
    }
    let packages: Vec<&str> = packages
        .iter()
        .copied()
        .filter(|package| !is_installed(package))
        .collect();
    if packages.is_empty() {
        return Ok(());
    }
    let log = Dirs::open()?.log("apt-get");
    if let Err(error) = update(&log) {
        // The lists that are there may do.
        interrupt::check()?;
        eprintln!("{error:#}");
    }
    let before: BTreeSet<&str> = SERVICES
        .iter()
        .filter(|(package, _)| is_installed(package))
        .map(|(package, _)| *package)
        .collect();
    let mut arguments = vec!["install", "--yes", "--no-install-recommends"];
    arguments.extend(&packages);
    run(
        &arguments,
        &format!("installing {}", packages.join(" ")),
        &log,
    )?;
    // The services of packages that somebody else installed are somebody else's.
    for (package, service) in SERVICES {
        if !before.contains(package) && is_installed(package) {
            stop_service(service);
        }
    }
    Ok(())
}

/// Refreshes the lists of packages, once a run.
fn update(log: &Path) -> Result<()> {
    static DONE: AtomicBool = AtomicBool::new(false);
    if DONE.swap(true, Ordering::Relaxed) {
        return Ok(());
    }
    run(&["update"], "refreshing the package lists", log)
}

/// Runs apt-get; while somebody else's apt is at work it waits for that one's end.
fn run(arguments: &[&str], title: &str, log: &Path) -> Result<()> {
    const LIMIT: Duration = Duration::from_secs(300);
    let begin = Instant::now();
    loop {
        let mut command = as_root("apt-get")?;
        command.args(arguments);
        let Err(error) = run_with_progress(&mut command, title, log, |_, line| line.to_owned())
        else {
            return Ok(());
        };
        let locked = fs::read_to_string(log).is_ok_and(|log| log.contains("Could not get lock"));
        if !locked || begin.elapsed() > LIMIT {
            return Err(error);
        }
        eprintln!("{title}: waiting for another apt to end");
        for _ in 0..30 {
            interrupt::check()?;
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

/// A command run as root: directly, or through a sudo that asks nothing.
fn as_root(program: &str) -> Result<Command> {
    let mut command;
    if rustix::process::geteuid().is_root() {
        command = Command::new(program);
        command.env("DEBIAN_FRONTEND", "noninteractive");
    } else {
        let may = find("sudo")
            .is_some_and(|sudo| capture(Command::new(sudo).args(["-n", "true"])).is_ok());
        if !may {
            bail!("installing packages needs root, or a sudo that asks for no password");
        }
        command = Command::new("sudo");
        command.args(["-n", "DEBIAN_FRONTEND=noninteractive", program]);
    }
    Ok(command)
}

fn is_installed(package: &str) -> bool {
    capture(Command::new("dpkg-query").args([
        "--show",
        "--showformat=${db:Status-Status}",
        package,
    ]))
    .is_ok_and(|status| status == "installed")
}

/// Stops a service that came with a package, and keeps it from coming back at the next start of the
/// machine. One that never started (a container, a policy against it) is fine.
fn stop_service(service: &str) {
    let attempt = || -> Result<()> {
        if Path::new("/run/systemd/system").exists() {
            capture(as_root("systemctl")?.args(["disable", "--now", service]))?;
        } else {
            capture(as_root("service")?.args([service, "stop"]))?;
        }
        Ok(())
    };
    if let Err(error) = attempt().context("after the installation") {
        eprintln!("the service {service} was not stopped, if it ran at all: {error:#}");
    }
}
