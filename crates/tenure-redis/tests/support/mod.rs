//! Private Redis servers on loopback ports, for one test each.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "each test binary uses a part; a failed unwrap is a failed test"
)]

use std::env;
use std::fs;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tenure_core::{
    Acquired, CampaignId, Candidate, FencingToken, Grant, Identity, LockName, Renewal,
};
use tenure_redis::{RedisBackend, RedisConfig};

/// How long anything may take before the test has failed.
pub const LIMIT: Duration = Duration::from_secs(60);

/// A lease that no test outlives.
pub const LONG: Duration = Duration::from_secs(600);

/// The program of another server than the `redis-server` on PATH: Valkey's.
const PROGRAM: &str = "TENURE_TEST_REDIS_SERVER";

pub fn is_valkey() -> bool {
    let program = env::var_os(PROGRAM).map(PathBuf::from);
    program.is_some_and(|program| program.ends_with("valkey-server"))
}

/// The server's program; `None`, and a line that says so, where there is none.
fn program() -> Option<PathBuf> {
    if let Some(program) = env::var_os(PROGRAM) {
        return Some(program.into());
    }
    let found = env::var_os("PATH").and_then(|path| {
        env::split_paths(&path)
            .map(|dir| dir.join("redis-server"))
            .find(|file| file.is_file())
    });
    if found.is_none() {
        let left_out = "LEFT OUT: no redis-server on PATH";
        assert!(env::var_os("TENURE_TEST_STRICT").is_none(), "{left_out}");
        eprintln!("{left_out}");
    }
    found
}

/// A running server; killed on drop.
pub struct Server {
    pub port: u16,
    pub dir: TempDir,
    arguments: Vec<String>,
    password: Option<String>,
    child: Child,
}

pub fn free_port() -> u16 {
    // Below 55536, because a cluster's nodes also use the port 10,000 above.
    loop {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        if port < 55_536 {
            return port;
        }
    }
}

/// Starts a server with these arguments. `None`: left out.
pub fn start(arguments: &[&str]) -> Option<Server> {
    launch(&[], arguments, None)
}

pub fn start_with_password(arguments: &[&str], password: Option<&str>) -> Option<Server> {
    launch(&[], arguments, password)
}

/// Starts a server with more in its environment.
pub fn start_under(environment: &[(&str, &str)], arguments: &[&str]) -> Option<Server> {
    launch(environment, arguments, None)
}

fn launch(
    environment: &[(&str, &str)],
    arguments: &[&str],
    password: Option<&str>,
) -> Option<Server> {
    program()?;
    let dir = tempfile::tempdir().unwrap();
    let arguments: Vec<String> = arguments.iter().map(|&text| text.to_owned()).collect();
    // Somebody else may take the port between the look and the start.
    for _ in 0..20 {
        let port = free_port();
        let mut server = Server {
            port,
            child: spawn(port, &dir, environment, &arguments),
            dir: tempfile::tempdir().unwrap(),
            arguments: arguments.clone(),
            password: password.map(str::to_owned),
        };
        if server.is_up() {
            server.dir = dir;
            return Some(server);
        }
    }
    panic!("redis-server does not start with {arguments:?}");
}

fn spawn(port: u16, dir: &TempDir, environment: &[(&str, &str)], arguments: &[String]) -> Child {
    // A sentinel's arguments begin with its configuration file.
    let (file, arguments) = match arguments.split_first() {
        Some((first, rest)) if first.starts_with('/') => (Some(first), rest),
        _ => (None, arguments),
    };
    Command::new(program().unwrap())
        .current_dir(dir.path())
        .envs(environment.iter().copied())
        .args(file)
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1"])
        .args(["--daemonize", "no", "--loglevel", "warning", "--save", ""])
        // A replica that comes back is not to wait for others that might.
        .args(["--repl-diskless-sync-delay", "0"])
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

impl Server {
    fn is_up(&mut self) -> bool {
        let start = Instant::now();
        while start.elapsed() < LIMIT {
            if self.child.try_wait().unwrap().is_some() {
                return false;
            }
            match self.try_command(&["PING"]) {
                Ok(_) => return true,
                // As asked for.
                Err(error) if error.code() == Some("LOADING") && self.loads_slowly() => {
                    return true;
                }
                Err(_) => {}
            }
            thread::sleep(Duration::from_millis(5));
        }
        panic!("the server on port {} does not answer", self.port);
    }

    fn loads_slowly(&self) -> bool {
        self.arguments.iter().any(|text| text == "--key-load-delay")
    }

    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub fn config(&self) -> RedisConfig {
        RedisConfig::server(&self.address()).unwrap()
    }

    pub async fn connect(&self) -> RedisBackend {
        RedisBackend::connect(self.config()).await.unwrap()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a command on a connection of its own.
    pub fn try_command(&self, command: &[&str]) -> redis::RedisResult<redis::Value> {
        let client = redis::Client::open(format!("redis://{}", self.address()))?;
        let mut connection = client.get_connection_with_timeout(Duration::from_secs(10))?;
        connection.set_read_timeout(Some(LIMIT))?;
        if let Some(password) = &self.password {
            redis::cmd("AUTH")
                .arg("default")
                .arg(password)
                .query::<()>(&mut connection)?;
        }
        redis::cmd(command[0])
            .arg(&command[1..])
            .query(&mut connection)
    }

    pub fn command(&self, command: &[&str]) -> redis::Value {
        self.try_command(command)
            .unwrap_or_else(|error| panic!("{command:?}: {error}"))
    }

    /// The answer as text; empty for nil.
    pub fn text(&self, command: &[&str]) -> String {
        text(&self.command(command))
    }

    pub fn number(&self, command: &[&str]) -> i64 {
        match self.command(command) {
            redis::Value::Int(number) => number,
            other => panic!("{command:?} answers {other:?}"),
        }
    }

    /// Waits until its clock is past a token.
    pub async fn clock_is_past(&self, token: FencingToken) {
        until("the clock is past the token", async || {
            let time = self.text(&["TIME"]);
            let (seconds, micros) = time.split_once(' ').unwrap();
            let micros = micros.parse::<u64>().unwrap();
            seconds.parse::<u64>().unwrap() * 10_000 + micros / 100 > token.as_u64()
        })
        .await;
    }

    /// Kills it as a crash would.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts it again on the same port and directory.
    pub fn restart(&mut self) {
        self.child = spawn(self.port, &self.dir, &[], &self.arguments);
        assert!(self.is_up(), "the server does not start again");
    }

    /// The same with another set of arguments.
    pub fn restart_with(&mut self, arguments: &[&str]) {
        self.arguments = arguments.iter().map(|&text| text.to_owned()).collect();
        self.restart();
    }

    /// Stops the process: connections stay open, and nothing answers.
    pub fn freeze(&self) {
        signal("-STOP", self.pid());
    }

    pub fn thaw(&self) {
        signal("-CONT", self.pid());
    }
}

fn signal(signal: &str, pid: u32) {
    let status = Command::new("kill")
        .args([signal, &pid.to_string()])
        .status();
    assert!(status.unwrap().success());
}

impl Drop for Server {
    fn drop(&mut self) {
        // May have been killed by the test.
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

pub fn text(value: &redis::Value) -> String {
    match value {
        redis::Value::BulkString(bytes) => String::from_utf8(bytes.clone()).unwrap(),
        redis::Value::SimpleString(text) | redis::Value::VerbatimString { text, .. } => {
            text.clone()
        }
        redis::Value::Int(number) => number.to_string(),
        redis::Value::Okay => "OK".to_owned(),
        redis::Value::Nil => String::new(),
        redis::Value::Array(parts) => parts.iter().map(text).collect::<Vec<_>>().join(" "),
        other => panic!("no text: {other:?}"),
    }
}

/// Waits until a condition holds.
pub async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !holds().await {
        assert!(start.elapsed() < LIMIT, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The same for what needs no await; its future can be sent to another thread.
pub async fn until_seen(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < LIMIT, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub async fn within_limit<T>(what: &str, future: impl Future<Output = T>) -> T {
    let outcome = tokio::time::timeout(LIMIT, future).await;
    outcome.unwrap_or_else(|_| panic!("waited in vain for {what}"))
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
        Acquired::Taken { holder, free_in } => panic!("taken by {holder:?} for {free_in:?}"),
    }
}

pub fn is_taken(acquired: &Acquired) -> bool {
    matches!(acquired, Acquired::Taken { .. })
}

pub fn renewed(renewal: Renewal) -> Grant {
    match renewal {
        Renewal::Renewed(grant) => grant,
        Renewal::Lost { holder } => panic!("lost to {holder:?}"),
    }
}

pub fn is_lost(renewal: &Renewal) -> bool {
    matches!(renewal, Renewal::Lost { .. })
}

/// A replica and its master, linked.
pub fn start_pair(more: &[&str]) -> Option<(Server, Server)> {
    let master = start(more)?;
    let port = master.port.to_string();
    let mut arguments = vec!["--replicaof", "127.0.0.1", &port];
    arguments.extend(more);
    let replica = start(&arguments)?;
    wait_for_link(&replica);
    Some((master, replica))
}

pub fn wait_for_link(replica: &Server) {
    let start = Instant::now();
    while !replica
        .text(&["INFO", "replication"])
        .contains("master_link_status:up")
    {
        assert!(start.elapsed() < LIMIT, "the replica is not linked");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Three sentinels that watch this master under the name `main`, and are quicker than usual.
pub fn start_sentinels(master: &Server) -> Vec<Server> {
    let sentinels = start_usual_sentinels(master);
    for sentinel in &sentinels {
        // Or it takes them 8 s to set right a replica that says it is a master, and 10 s to
        // see that one is back. Redis 6 has no such command.
        let quicker = [
            "SENTINEL",
            "DEBUG",
            "PING-PERIOD",
            "200",
            "PUBLISH-PERIOD",
            "500",
            "INFO-PERIOD",
            "500",
        ];
        let _as_it_is = sentinel.try_command(&quicker);
    }
    sentinels
}

/// The same with the periods that sentinels have.
pub fn start_usual_sentinels(master: &Server) -> Vec<Server> {
    (0..3)
        .map(|_| {
            let dir = tempfile::tempdir().unwrap();
            let file = dir.path().join("sentinel.conf");
            let text = format!(
                "sentinel monitor main 127.0.0.1 {} 2\n\
                 sentinel down-after-milliseconds main 1000\n\
                 sentinel failover-timeout main 3000\n",
                master.port
            );
            fs::write(&file, text).unwrap();
            let file = file.to_str().unwrap().to_owned();
            let mut server = start(&[&file, "--sentinel"]).unwrap();
            server.dir = dir;
            server
        })
        .collect()
}

pub fn sentinel_config(sentinels: &[Server]) -> RedisConfig {
    let addresses: Vec<String> = sentinels.iter().map(Server::address).collect();
    RedisConfig::sentinel(addresses.iter().map(String::as_str), "main").unwrap()
}

/// Waits until all sentinels know each other and could promote each of the replicas.
pub async fn wait_for_sentinels(sentinels: &[Server], replicas: usize) {
    until_seen("all sentinels know the replicas and each other", || {
        sentinels
            .iter()
            .all(|sentinel| is_ready(sentinel, sentinels.len(), replicas))
    })
    .await;
}

fn is_ready(sentinel: &Server, sentinels: usize, replicas: usize) -> bool {
    let state = sentinel.text(&["INFO", "sentinel"]);
    let known = sentinel.text(&["SENTINEL", "REPLICAS", "main"]);
    let count = |text| known.matches(text).count();
    sentinel
        .try_command(&["SENTINEL", "CKQUORUM", "main"])
        .is_ok()
        && state.contains("status=ok")
        && state.contains(&format!("slaves={replicas},sentinels={sentinels}"))
        && count(" flags slave ") == replicas
        && count(" master-link-status ok ") == replicas
}

/// The port of the master that this sentinel names.
pub fn master_of(sentinel: &Server) -> Option<u16> {
    let address = sentinel.text(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", "main"]);
    address.split_once(' ')?.1.parse().ok()
}

/// The nodes of a cluster, not yet joined.
pub fn start_nodes(count: usize) -> Option<Vec<Server>> {
    let arguments = ["--cluster-enabled", "yes", "--cluster-node-timeout", "2000"];
    (0..count).map(|_| start(&arguments)).collect()
}

/// Joins nodes to a cluster, the first three as masters of a third of the slots each, the others
/// as replicas of these in turn.
pub async fn join_cluster(nodes: &[Server]) {
    for (index, (first, last)) in [(0, 5460), (5461, 10922), (10923, 16383)]
        .iter()
        .enumerate()
    {
        let (first, last) = (first.to_string(), last.to_string());
        nodes[index].command(&["CLUSTER", "ADDSLOTSRANGE", &first, &last]);
        let epoch = (index + 1).to_string();
        nodes[index].command(&["CLUSTER", "SET-CONFIG-EPOCH", &epoch]);
    }
    for node in &nodes[1..] {
        let (port, bus) = (node.port.to_string(), (node.port + 10_000).to_string());
        nodes[0].command(&["CLUSTER", "MEET", "127.0.0.1", &port, &bus]);
    }
    wait_for_cluster(nodes).await;
    for (index, replica) in nodes.iter().enumerate().skip(3) {
        let master = nodes[index % 3].text(&["CLUSTER", "MYID"]);
        replica.command(&["CLUSTER", "REPLICATE", &master]);
        wait_for_link(replica);
    }
}

/// Waits until all nodes of a cluster know each other and see all slots served.
pub async fn wait_for_cluster(nodes: &[Server]) {
    let known = format!("cluster_known_nodes:{}\r", nodes.len());
    until_seen("the cluster is whole", || {
        nodes.iter().all(|node| {
            let state = node.text(&["CLUSTER", "INFO"]);
            state.contains("cluster_state:ok") && state.contains(&known)
        })
    })
    .await;
}
