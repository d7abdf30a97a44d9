//! The workspace's own commands, run as `cargo xtask <command>`.

#[cfg(not(unix))]
fn main() {
    eprintln!("cargo xtask runs servers as child processes and needs a Unix system");
    std::process::exit(1);
}

#[cfg(unix)]
mod api;
#[cfg(unix)]
mod bench;
#[cfg(unix)]
mod chaos;
#[cfg(unix)]
mod cli;
#[cfg(unix)]
mod features;
#[cfg(unix)]
mod fuzz;
#[cfg(unix)]
mod more;
#[cfg(unix)]
mod nightly;
#[cfg(unix)]
mod other_servers;
#[cfg(unix)]
mod outside;
#[cfg(unix)]
mod packages;
#[cfg(unix)]
mod report;
#[cfg(unix)]
mod retention;
#[cfg(unix)]
mod size;
#[cfg(unix)]
mod steps;
#[cfg(unix)]
mod suite;

#[cfg(unix)]
fn main() -> std::process::ExitCode {
    cli::main()
}
