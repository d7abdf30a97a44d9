//! Private `PostgreSQL` servers on loopback ports, their standbys, and `PgBouncer` before them. The
//! newest server on this machine is taken, or the one that `TENURE_TEST_POSTGRES_BIN` names.

use std::env;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;
use tokio_postgres::{Client, NoTls};

use crate::environment::{find, kept, left_out, program};
use crate::port::free_port;
use crate::process::{Process, is_root, run};
use crate::wait::{LIMIT, wait_until};

/// The password of the role `app`, which may all.
pub const PASSWORD: &str = "correct-horse";

/// The folder of another server's programs, if it is not the one of this system that is meant.
pub const PROGRAMS: &str = "TENURE_TEST_POSTGRES_BIN";

/// Nobody holds or awaits any lock but the sessions' own.
pub const NO_LOCKS: &str = "SELECT count(*) = 0 FROM pg_locks WHERE locktype = 'advisory' \
                            AND NOT (objsubid = 2 AND classid = 1952804469)";

/// Whether the server is one that the environment names.
pub fn is_named() -> bool {
    env::var_os(PROGRAMS).is_some()
}

/// The newest server's programs; `None`, and a line that says so, where there are none.
fn programs() -> Option<PathBuf> {
    if let Some(named) = env::var_os(PROGRAMS) {
        return Some(named.into());
    }
    let mut found: Vec<PathBuf> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path().join("bin")))
        .filter(|bin| bin.join("initdb").is_file())
        .collect();
    found.sort();
    let on_path = || find("initdb").and_then(|file| file.parent().map(Path::to_path_buf));
    let found = found.pop().or_else(on_path);
    if found.is_none() {
        left_out("no PostgreSQL server");
    }
    found
}

/// A command of an ordinary user: the server refuses to run as root.
pub fn as_user(program: &Path) -> Command {
    if !is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid=postgres", "--regid=postgres", "--clear-groups"])
        .arg("--")
        .arg(program);
    command
}

/// Gives a folder to the user that the server runs as.
pub fn give(path: &Path) {
    if is_root() {
        run(Command::new("chown")
            .args(["-R", "postgres:postgres"])
            .arg(path));
    }
}

fn folder() -> TempDir {
    let mut named = tempfile::Builder::new();
    named.prefix("tenure-pg").tempdir().unwrap()
}

/// `15.18`
fn version(bin: &Path) -> String {
    let said = Command::new(bin.join("postgres")).arg("--version").output();
    let said = String::from_utf8(said.unwrap().stdout).unwrap();
    said.split_whitespace().nth(2).unwrap().to_owned()
}

/// The cluster of which most servers are copies, so that they share its system identifier.
const ONE: &str = "";

/// Another one.
const OTHER: &str = "-other";

/// A copy of a cluster that is made once.
fn data(bin: &Path, cluster: &str, into: &Path) {
    let copy = |from: &Path, into: &Path| run(Command::new("cp").arg("-a").arg(from).arg(into));
    let template = kept().join(format!("tenure-postgres-{}{cluster}", version(bin)));
    if !template.is_dir() {
        let made = folder();
        let secret = made.path().join("password");
        fs::write(&secret, PASSWORD).unwrap();
        give(made.path());
        run(as_user(&bin.join("initdb"))
            .current_dir("/")
            .args(["--no-sync", "-U", "app", "-A", "scram-sha-256"])
            .args(["--locale=C", "-E", "UTF8", "--pwfile"])
            .arg(&secret)
            .arg("-D")
            .arg(made.path().join("data")));
        let own = tempfile::tempdir_in(kept()).unwrap();
        copy(&made.path().join("data"), own.path());
        // Another test may have been quicker.
        let _raced = fs::rename(own.path().join("data"), &template);
    }
    copy(&template, into);
}

/// A running server; ended on drop.
#[derive(Debug)]
pub struct Server {
    /// Where it listens.
    pub port: u16,
    /// What its data and its log are in.
    pub dir: TempDir,
    bin: PathBuf,
    settings: Vec<String>,
    environment: Vec<(&'static str, String)>,
    process: Process,
}

/// Starts a server with these settings. `None`: left out.
pub fn start(settings: &[&str]) -> Option<Server> {
    start_copy_of(ONE, free_port(), settings)
}

/// The same with this environment, such as that of a [`WallClock`](crate::wall_clock::WallClock).
pub fn start_under(environment: Vec<(&'static str, String)>, settings: &[&str]) -> Option<Server> {
    let bin = programs()?;
    let dir = folder();
    data(&bin, ONE, &dir.path().join("data"));
    Some(start_in(bin, dir, free_port(), environment, settings))
}

/// The same with another system identifier than all other servers here, on this port.
pub fn start_another_cluster(port: u16) -> Option<Server> {
    start_copy_of(OTHER, port, &[])
}

fn start_copy_of(cluster: &str, port: u16, settings: &[&str]) -> Option<Server> {
    let bin = programs()?;
    let dir = folder();
    data(&bin, cluster, &dir.path().join("data"));
    Some(start_in(bin, dir, port, Vec::new(), settings))
}

fn start_in(
    bin: PathBuf,
    dir: TempDir,
    port: u16,
    environment: Vec<(&'static str, String)>,
    settings: &[&str],
) -> Server {
    give(dir.path());
    let settings: Vec<String> = settings.iter().map(|&text| text.to_owned()).collect();
    let mut server = Server {
        process: spawn(&bin, dir.path(), port, &environment, &settings),
        port,
        dir,
        bin,
        settings,
        environment,
    };
    server.await_up();
    server
}

fn spawn(
    bin: &Path,
    dir: &Path,
    port: u16,
    environment: &[(&'static str, String)],
    settings: &[String],
) -> Process {
    let mut log = fs::File::options();
    let log = log.create(true).append(true).open(dir.join("log")).unwrap();
    let mut command = as_user(&bin.join("postgres"));
    command
        .current_dir("/")
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .arg("-D")
        .arg(dir.join("data"))
        .args(["-p", &port.to_string(), "-h", "127.0.0.1", "-k", ""])
        .args(settings.iter().flat_map(|setting| ["-c", setting]))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log);
    Process::of(&mut command)
}

impl Server {
    fn await_up(&mut self) {
        wait_until("the server answers", || {
            assert!(!self.process.has_ended(), "it ended: {}", self.log());
            let ready = Command::new(self.bin.join("pg_isready"))
                .args(["-q", "-h", "127.0.0.1", "-p", &self.port.to_string()])
                .status();
            ready.unwrap().success()
        });
    }

    /// All that it has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap()
    }

    /// `127.0.0.1:12345`
    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// A URL without TLS, and without a pause after the server's start.
    pub fn url(&self) -> String {
        url_at(self.port)
    }

    /// What tells its cluster from others.
    pub async fn identifier(&self) -> String {
        let question = "SELECT system_identifier::text FROM pg_control_system()";
        let row = self.admin().await.query_one(question, &[]).await;
        row.unwrap().get(0)
    }

    /// A session beside those of the backends.
    pub async fn admin(&self) -> Client {
        admin(self.port).await
    }

    /// `smart` is "TERM", `fast` "INT", `immediate` "QUIT". Waits for its end.
    pub fn stop(&mut self, with: &str) {
        self.process.signal(with);
        self.process.wait();
    }

    /// Starts it again on the same port and data.
    pub fn restart(&mut self) {
        let (bin, dir) = (&self.bin, self.dir.path());
        self.process = spawn(bin, dir, self.port, &self.environment, &self.settings);
        self.await_up();
    }

    /// A hot standby of it.
    #[must_use]
    pub fn standby(&self) -> Self {
        self.standby_on(free_port())
    }

    /// The same on this port, such as that of a server that was there before.
    #[must_use]
    pub fn standby_on(&self, port: u16) -> Self {
        let dir = folder();
        give(dir.path());
        run(as_user(&self.bin.join("pg_basebackup"))
            .current_dir("/")
            .env("PGPASSWORD", PASSWORD)
            .args(["-h", "127.0.0.1", "-p", &self.port.to_string(), "-U", "app"])
            .args(["-R", "--no-sync", "-c", "fast", "-X", "stream", "-D"])
            .arg(dir.path().join("data")));
        start_in(self.bin.clone(), dir, port, Vec::new(), &[])
    }

    /// Makes a standby a server that writes.
    pub fn promote(&self) {
        run(as_user(&self.bin.join("pg_ctl"))
            .current_dir("/")
            .args(["promote", "-w", "-D"])
            .arg(self.dir.path().join("data")));
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // A server that is killed cannot give back what it holds of the system's shared memory.
        if !self.process.has_ended() {
            self.stop("QUIT");
        }
    }
}

/// The URL of a server or a proxy on this port.
pub fn url_at(port: u16) -> String {
    format!("postgres://app:{PASSWORD}@127.0.0.1:{port}/postgres?sslmode=disable&quarantine=off")
}

/// A session on the server with this port, beside those of the backends.
pub async fn admin(port: u16) -> Client {
    let url = format!(
        "host=127.0.0.1 port={port} user=app password={PASSWORD} dbname=postgres \
         application_name=admin"
    );
    let (client, connection) = tokio_postgres::connect(&url, NoTls).await.unwrap();
    // A forked child that dropped its copy would make ours deaf.
    tokio::spawn(tenure_core::Process::current().confine(connection));
    client
}

/// `PgBouncer` in front of a server; killed on drop.
#[derive(Debug)]
pub struct Bouncer {
    /// Where it listens.
    pub port: u16,
    _dir: TempDir,
    _process: Process,
}

impl Bouncer {
    /// Starts it with this `pool_mode`. `None`: left out.
    pub fn start(server: &Server, mode: &str) -> Option<Self> {
        let program = program("pgbouncer")?;
        let dir = folder();
        let port = free_port();
        let users = dir.path().join("users");
        fs::write(&users, format!("\"app\" \"{PASSWORD}\"\n")).unwrap();
        let config = dir.path().join("pgbouncer.ini");
        let text = format!(
            "[databases]\npostgres = host=127.0.0.1 port={}\n[pgbouncer]\n\
             listen_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n\
             auth_type = plain\nauth_file = {}\npool_mode = {mode}\n",
            server.port,
            users.display()
        );
        fs::write(&config, text).unwrap();
        give(dir.path());
        let mut command = as_user(&program);
        let process = Process::start(command.current_dir("/").arg("-q").arg(&config));
        wait_until("pgbouncer answers", || {
            TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok()
        });
        Some(Self {
            port,
            _dir: dir,
            _process: process,
        })
    }

    /// A URL without TLS, and without a pause after the server's start.
    pub fn url(&self) -> String {
        url_at(self.port)
    }
}

/// Asks the server until it says yes.
pub async fn until(client: &Client, question: &str) {
    let asking = async {
        while !client
            .query_one(question, &[])
            .await
            .unwrap()
            .get::<_, bool>(0)
        {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    let asked = tokio::time::timeout(LIMIT, asking).await;
    assert!(asked.is_ok(), "never: {question}");
}

/// Waits until the session has ended.
pub async fn until_closed(client: &Client) {
    crate::wait::until("the session ends", async || client.is_closed()).await;
}
