//! Private `PostgreSQL` servers on loopback ports, for one test each.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "each test binary uses a part; a failed unwrap is a failed test"
)]

use std::env;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tenure_core::{
    Acquired, CampaignId, Candidate, Grant, Holder, Identity, LockBackend, LockName, Occupancy,
    Renewal,
};
use tenure_postgres::{PostgresBackend, PostgresConfig, TlsMode};

/// How long anything may take before the test has failed.
pub const LIMIT: Duration = Duration::from_secs(120);

/// A lease that no test outlives.
pub const LONG: Duration = Duration::from_secs(600);

pub const PASSWORD: &str = "correct-horse";

/// The folder of another server's programs, if it is not the one of this system that is meant.
const PROGRAMS: &str = "TENURE_TEST_POSTGRES_BIN";

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
    let on_path = env::var_os("PATH")
        .and_then(|path| env::split_paths(&path).find(|dir| dir.join("initdb").is_file()));
    let found = found.pop().or(on_path);
    if found.is_none() {
        left_out("no PostgreSQL server");
    }
    found
}

pub fn left_out(what: &str) {
    let line = format!("LEFT OUT: {what}");
    assert!(env::var_os("TENURE_TEST_STRICT").is_none(), "{line}");
    eprintln!("{line}");
}

fn is_root() -> bool {
    let out = Command::new("id").arg("-u").output().unwrap();
    String::from_utf8_lossy(&out.stdout).trim() == "0"
}

/// As an ordinary user: the server refuses to run as root.
pub fn as_user(program: &Path) -> Command {
    if is_root() {
        let mut command = Command::new("setpriv");
        command
            .args([
                "--reuid=postgres",
                "--regid=postgres",
                "--clear-groups",
                "--",
            ])
            .arg(program);
        command
    } else {
        Command::new(program)
    }
}

pub fn run(command: &mut Command) {
    let out = command.stdin(Stdio::null()).output().unwrap();
    assert!(
        out.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&out.stderr)
    );
}

pub fn give(path: &Path) {
    if is_root() {
        run(Command::new("chown")
            .args(["-R", "postgres:postgres"])
            .arg(path));
    }
}

/// `15.18`
fn version(bin: &Path) -> String {
    let told = Command::new(bin.join("postgres")).arg("--version").output();
    let told = String::from_utf8(told.unwrap().stdout).unwrap();
    told.split_whitespace().nth(2).unwrap().to_owned()
}

/// The cluster of which most servers are copies, so that they share its system identifier.
const ONE: &str = "";

/// Another one.
const OTHER: &str = "-other";

/// A copy of a cluster that is made once.
fn data(bin: &Path, cluster: &str, into: &Path) {
    let name = format!("tenure-postgres-{}{cluster}", version(bin));
    let template = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    if !template.is_dir() {
        let made = tempfile::Builder::new()
            .prefix("tenure-initdb")
            .tempdir()
            .unwrap();
        let secret = made.path().join("password");
        fs::write(&secret, PASSWORD).unwrap();
        give(made.path());
        run(as_user(&bin.join("initdb"))
            .current_dir("/")
            .args([
                "--no-sync",
                "-U",
                "app",
                "-A",
                "scram-sha-256",
                "--locale=C",
                "-E",
                "UTF8",
            ])
            .arg("--pwfile")
            .arg(&secret)
            .arg("-D")
            .arg(made.path().join("data")));
        let own = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        run(Command::new("cp")
            .arg("-a")
            .arg(made.path().join("data"))
            .arg(own.path()));
        // Another test may have been quicker.
        let _raced = fs::rename(own.path().join("data"), &template);
    }
    run(Command::new("cp").arg("-a").arg(&template).arg(into));
}

/// A running server; ended on drop.
pub struct Server {
    pub port: u16,
    pub dir: TempDir,
    bin: PathBuf,
    settings: Vec<String>,
    child: Child,
}

pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

/// Starts a server with these settings. `None`: left out.
pub fn start(settings: &[&str]) -> Option<Server> {
    start_copy_of(ONE, free_port(), settings)
}

/// The same with another system identifier than all other servers here, on this port.
pub fn start_another_cluster(port: u16) -> Option<Server> {
    start_copy_of(OTHER, port, &[])
}

fn start_copy_of(cluster: &str, port: u16, settings: &[&str]) -> Option<Server> {
    let bin = programs()?;
    let dir = tempfile::Builder::new()
        .prefix("tenure-pg")
        .tempdir()
        .unwrap();
    data(&bin, cluster, &dir.path().join("data"));
    Some(start_in(bin, dir, port, settings))
}

fn start_in(bin: PathBuf, dir: TempDir, port: u16, settings: &[&str]) -> Server {
    give(dir.path());
    let settings: Vec<String> = settings.iter().map(|&text| text.to_owned()).collect();
    let child = spawn(&bin, dir.path(), port, &settings);
    let mut server = Server {
        port,
        dir,
        bin,
        settings,
        child,
    };
    server.await_up();
    server
}

fn spawn(bin: &Path, dir: &Path, port: u16, settings: &[String]) -> Child {
    let log = fs::File::options()
        .create(true)
        .append(true)
        .open(dir.join("log"))
        .unwrap();
    let mut command = as_user(&bin.join("postgres"));
    command
        .current_dir("/")
        .arg("-D")
        .arg(dir.join("data"))
        .args(["-p", &port.to_string(), "-h", "127.0.0.1", "-k", ""]);
    for setting in settings {
        command.args(["-c", setting]);
    }
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap()
}

impl Server {
    fn await_up(&mut self) {
        let start = Instant::now();
        loop {
            assert!(
                self.child.try_wait().unwrap().is_none(),
                "the server ended: {}",
                self.log()
            );
            let ready = Command::new(self.bin.join("pg_isready"))
                .args(["-q", "-h", "127.0.0.1", "-p", &self.port.to_string()])
                .status()
                .unwrap();
            if ready.success() {
                return;
            }
            assert!(start.elapsed() < LIMIT, "the server does not answer");
            thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap()
    }

    /// How many heartbeats it has answered or prepared, if it logs all statements.
    pub fn heartbeats(&self) -> usize {
        self.log().matches("pg_is_in_recovery(), coalesce").count()
    }

    pub fn url(&self) -> String {
        url_at(self.port)
    }

    pub fn config(&self) -> PostgresConfig {
        let config = PostgresConfig::from_url(&self.url()).unwrap();
        config
            .tls_mode(TlsMode::Disable)
            .connect_timeout(Duration::from_secs(20))
    }

    pub async fn connect(&self) -> PostgresBackend {
        PostgresBackend::connect(self.config()).await.unwrap()
    }

    /// What tells its cluster from others.
    pub async fn identifier(&self) -> String {
        let question = "SELECT system_identifier::text FROM pg_control_system()";
        let row = self.admin().await.query_one(question, &[]).await;
        row.unwrap().get(0)
    }

    /// A session beside those of the backends.
    pub async fn admin(&self) -> tokio_postgres::Client {
        admin(self.port).await
    }

    /// `smart` is "TERM", `fast` "INT", `immediate` "QUIT". Waits for its end.
    pub fn stop(&mut self, with: &str) {
        signal(with, self.child.id());
        self.child.wait().unwrap();
    }

    /// Starts it again on the same port and data.
    pub fn restart(&mut self) {
        self.child = spawn(&self.bin, self.dir.path(), self.port, &self.settings);
        self.await_up();
    }

    /// A hot standby of it.
    pub fn standby(&self) -> Server {
        let dir = tempfile::Builder::new()
            .prefix("tenure-pg")
            .tempdir()
            .unwrap();
        give(dir.path());
        run(as_user(&self.bin.join("pg_basebackup"))
            .current_dir("/")
            .env("PGPASSWORD", PASSWORD)
            .args(["-h", "127.0.0.1", "-p", &self.port.to_string(), "-U", "app"])
            .args(["-R", "--no-sync", "-c", "fast", "-X", "stream", "-D"])
            .arg(dir.path().join("data")));
        start_in(self.bin.clone(), dir, free_port(), &[])
    }

    pub fn promote(&self) {
        run(as_user(&self.bin.join("pg_ctl"))
            .current_dir("/")
            .args(["promote", "-w", "-D"])
            .arg(self.dir.path().join("data")));
    }
}

fn url_at(port: u16) -> String {
    format!("postgres://app:{PASSWORD}@127.0.0.1:{port}/postgres?sslmode=disable&quarantine=off")
}

/// A session on the server with this port, beside those of the backends.
pub async fn admin(port: u16) -> tokio_postgres::Client {
    let url = format!(
        "host=127.0.0.1 port={port} user=app password={PASSWORD} dbname=postgres \
         application_name=admin"
    );
    let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls)
        .await
        .unwrap();
    // A forked child that dropped its copy would make ours deaf.
    tokio::spawn(tenure_core::Process::current().confine(connection));
    client
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|status| status.is_none()) {
            self.stop("QUIT");
        }
    }
}

pub fn signal(signal: &str, pid: u32) {
    let status = Command::new("kill")
        .args([&format!("-{signal}"), &pid.to_string()])
        .status();
    assert!(status.unwrap().success());
}

/// `PgBouncer` in front of a server; killed on drop. `None`: left out.
pub struct Bouncer {
    pub port: u16,
    _dir: TempDir,
    child: Child,
}

impl Bouncer {
    pub fn start(server: &Server, mode: &str) -> Option<Self> {
        let program = ["/usr/sbin/pgbouncer", "/usr/bin/pgbouncer"]
            .into_iter()
            .map(PathBuf::from)
            .find(|program| program.is_file());
        let Some(program) = program else {
            left_out("no pgbouncer");
            return None;
        };
        let dir = tempfile::Builder::new()
            .prefix("tenure-bouncer")
            .tempdir()
            .unwrap();
        let port = free_port();
        let users = dir.path().join("users");
        fs::write(&users, format!("\"app\" \"{PASSWORD}\"\n")).unwrap();
        let config = dir.path().join("pgbouncer.ini");
        fs::write(
            &config,
            format!(
                "[databases]\npostgres = host=127.0.0.1 port={}\n[pgbouncer]\n\
                 listen_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n\
                 auth_type = plain\nauth_file = {}\npool_mode = {mode}\n",
                server.port,
                users.display()
            ),
        )
        .unwrap();
        give(dir.path());
        let child = as_user(&program)
            .current_dir("/")
            .arg("-q")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let start = Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(start.elapsed() < LIMIT, "pgbouncer does not answer");
            thread::sleep(Duration::from_millis(5));
        }
        Some(Self {
            port,
            _dir: dir,
            child,
        })
    }

    pub fn config(&self) -> PostgresConfig {
        PostgresConfig::from_url(&format!(
            "postgres://app:{PASSWORD}@127.0.0.1:{}/postgres?sslmode=disable&connect_timeout=20\
             &quarantine=off",
            self.port
        ))
        .unwrap()
    }
}

impl Drop for Bouncer {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// This test binary again, as another process; killed on drop.
pub struct Process {
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl Process {
    /// Runs the test `role`, which finds the server in `TENURE_TEST_CHILD`.
    pub fn start(role: &str, server: &Server, lease: Duration) -> Self {
        Self::start_at(role, server, server.port, lease)
    }

    /// The same, where it finds the server behind another port.
    pub fn start_at(role: &str, server: &Server, port: u16, lease: Duration) -> Self {
        let mut child = Command::new(env::current_exe().unwrap())
            .args([role, "--exact", "--nocapture", "--test-threads=1"])
            .env("TENURE_TEST_CHILD", url_at(port))
            .env("TENURE_TEST_PORT", server.port.to_string())
            .env("TENURE_TEST_LEASE", lease.as_millis().to_string())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let said = BufReader::new(child.stdout.take().unwrap());
        let (line, lines) = mpsc::channel();
        thread::spawn(move || {
            for said in said.lines().map_while(Result::ok) {
                // Nobody listens any more when the test has ended.
                let _unheard = line.send(said);
            }
        });
        Self { child, lines }
    }

    /// Waits until the process says `word`; what follows it in its line.
    pub fn says(&mut self, word: &str) -> String {
        let start = Instant::now();
        loop {
            let left = LIMIT.saturating_sub(start.elapsed());
            match self.lines.recv_timeout(left) {
                // The harness may have begun the line with the test's name.
                Ok(line) => {
                    if let Some((_, rest)) = line.split_once(word) {
                        return rest.trim().to_owned();
                    }
                }
                Err(error) => panic!("the process does not say {word}: {error}"),
            }
        }
    }

    /// Stops it as SIGSTOP does, and waits until it stands still. The signal goes to one of its
    /// threads, and until that one has run the others go on: on a busy machine for long enough to
    /// win a lock.
    pub fn freeze(&self) {
        self.signal("STOP");
        self.until_threads_are(&["T"]);
    }

    /// Kills it, and waits until none of it is left that could do anything.
    pub fn kill(&self) {
        self.signal("KILL");
        self.until_threads_are(&["Z", "X"]);
    }

    fn until_threads_are(&self, states: &[&str]) {
        let tasks = PathBuf::from(format!("/proc/{}/task", self.child.id()));
        let is_so = |task: fs::DirEntry| {
            // One that is gone by now does nothing either.
            let stat = fs::read_to_string(task.path().join("stat")).unwrap_or_default();
            // Behind the program's name, which may hold anything.
            let state = stat.rsplit(") ").next().unwrap_or_default().get(..1);
            state.is_none_or(|state| states.contains(&state))
        };
        let start = Instant::now();
        while !fs::read_dir(&tasks)
            .unwrap()
            .all(|task| is_so(task.unwrap()))
        {
            assert!(start.elapsed() < LIMIT, "the process does not stop");
            thread::sleep(Duration::from_millis(1));
        }
    }

    pub fn signal(&self, with: &str) {
        signal(with, self.child.id());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// What a child process was told: the server and the lease.
pub fn told() -> Option<(PostgresConfig, Duration)> {
    let url = env::var("TENURE_TEST_CHILD").ok()?;
    let lease = env::var("TENURE_TEST_LEASE").ok()?.parse().unwrap();
    let config = PostgresConfig::from_url(&url).unwrap();
    let config = config.connect_timeout(Duration::from_secs(20));
    Some((config, Duration::from_millis(lease)))
}

pub fn lock(name: &str) -> LockName {
    LockName::new(name).unwrap()
}

pub fn candidate(identity: &str, campaign: u64) -> Candidate {
    Candidate::new(Identity::new(identity).unwrap(), CampaignId::new(campaign))
}

pub fn held(acquired: Acquired) -> Grant {
    match acquired {
        Acquired::Held(grant) => grant,
        Acquired::Taken { holder, .. } => panic!("taken by {holder:?}"),
    }
}

pub fn taken(acquired: Acquired) -> Option<Holder> {
    match acquired {
        Acquired::Taken { holder, .. } => holder,
        Acquired::Held(grant) => panic!("held: {grant:?}"),
    }
}

pub fn renewed(renewal: Renewal) -> Grant {
    match renewal {
        Renewal::Renewed(grant) => grant,
        Renewal::Lost { holder } => panic!("lost to {holder:?}"),
    }
}

pub fn leader(occupancy: Occupancy) -> Holder {
    match occupancy {
        Occupancy::Led(holder) => holder,
        other => panic!("not led: {other:?}"),
    }
}

/// Tries until it is held.
pub async fn win(backend: &PostgresBackend, name: &LockName, who: &Candidate) -> Grant {
    win_for(backend, name, who, LONG).await
}

/// The same with another lease.
pub async fn win_for(
    backend: &PostgresBackend,
    name: &LockName,
    who: &Candidate,
    lease: Duration,
) -> Grant {
    let trying = async {
        loop {
            if let Ok(Acquired::Held(grant)) = backend.acquire(name, who, lease).await {
                return grant;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(LIMIT, trying).await.unwrap()
}

/// Asks the server until it says yes.
pub async fn until(client: &tokio_postgres::Client, question: &str) {
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
    assert!(
        tokio::time::timeout(LIMIT, asking).await.is_ok(),
        "never: {question}"
    );
}

/// Waits until the session has ended.
pub async fn until_closed(client: &tokio_postgres::Client) {
    let closing = async {
        while !client.is_closed() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(LIMIT, closing).await.unwrap();
}

/// Nobody holds or awaits any lock but the sessions' own.
pub const NO_LOCKS: &str = "SELECT count(*) = 0 FROM pg_locks WHERE locktype = 'advisory' \
                            AND NOT (objsubid = 2 AND classid = 1952804469)";

/// A way to the server that can be cut: what is sent then is lost, and no end is told.
pub struct Wire {
    pub port: u16,
    cut: tokio::sync::watch::Sender<bool>,
}

impl Wire {
    pub async fn to(server: &Server) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let cut = tokio::sync::watch::Sender::new(false);
        let (state, target) = (cut.subscribe(), server.port);
        tokio::spawn(async move {
            loop {
                let (near, _) = listener.accept().await.unwrap();
                let mut state = state.clone();
                tokio::spawn(async move {
                    let far = tokio::net::TcpStream::connect(("127.0.0.1", target)).await;
                    let (mut near, mut far) = (near, far.unwrap());
                    let is_cut = async { state.wait_for(|cut| *cut).await.is_ok() };
                    let over = tokio::select! {
                        biased;
                        cut = is_cut => !cut,
                        _ = tokio::io::copy_bidirectional(&mut near, &mut far) => true,
                    };
                    if !over {
                        // Both sockets stay open, and nobody reads from them.
                        std::future::pending::<()>().await;
                    }
                });
            }
        });
        Self { port, cut }
    }

    pub fn cut(&self) {
        self.cut.send_replace(true);
    }

    pub async fn connect(&self) -> PostgresBackend {
        let url = format!(
            "postgres://app:{PASSWORD}@127.0.0.1:{}/postgres?sslmode=disable&connect_timeout=20\
             &quarantine=off",
            self.port
        );
        PostgresBackend::connect(PostgresConfig::from_url(&url).unwrap())
            .await
            .unwrap()
    }
}
