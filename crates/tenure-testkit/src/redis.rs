//! Private Redis servers on loopback ports: one server, a pair, sentinels, a cluster. Valkey takes
//! the place of Redis where `TENURE_TEST_REDIS_SERVER` names its program.

use std::env;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use redis::{RedisResult, Value};
use tempfile::TempDir;
use tenure_core::FencingToken;

use crate::environment;
use crate::port::{BUS_OFFSET, free_port};
use crate::process::Process;
use crate::wait::{LIMIT, until, until_seen, wait_until};

/// The program of another server than the `redis-server` on PATH: Valkey's.
pub const PROGRAM: &str = "TENURE_TEST_REDIS_SERVER";

/// The name under which sentinels know their master.
pub const WATCHED: &str = "main";

/// Whether the servers are Valkey's.
pub fn is_valkey() -> bool {
    let program = env::var_os(PROGRAM).map(PathBuf::from);
    program.is_some_and(|program| program.ends_with("valkey-server"))
}

/// The server's program; `None`, and a line that says so, where there is none.
fn program() -> Option<PathBuf> {
    let named = env::var_os(PROGRAM).map(PathBuf::from);
    named.or_else(|| environment::program("redis-server"))
}

/// A running server; killed on drop.
#[derive(Debug)]
pub struct Server {
    /// Where it listens.
    pub port: u16,
    /// Its working directory.
    pub dir: TempDir,
    environment: Vec<(String, String)>,
    arguments: Vec<String>,
    password: Option<String>,
    process: Process,
}

/// Starts a server with these arguments. `None`: left out.
pub fn start(arguments: &[&str]) -> Option<Server> {
    launch(&[], arguments, None)
}

/// The same; the password is for the questions that the test asks by [`Server::command`].
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
    let arguments: Vec<String> = arguments.iter().map(|&text| text.to_owned()).collect();
    let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    let environment: Vec<(String, String)> = environment.iter().map(owned).collect();
    // Another process may take the port between the look and the start.
    for _ in 0..20 {
        let (port, dir) = (free_port(), tempfile::tempdir().unwrap());
        let mut server = Server {
            port,
            process: spawn(port, &dir, &environment, &arguments),
            dir,
            environment: environment.clone(),
            arguments: arguments.clone(),
            password: password.map(str::to_owned),
        };
        if server.is_up() {
            return Some(server);
        }
    }
    panic!("redis-server does not start with {arguments:?}");
}

fn spawn(
    port: u16,
    dir: &TempDir,
    environment: &[(String, String)],
    arguments: &[String],
) -> Process {
    // A sentinel's arguments begin with its configuration file.
    let (file, arguments) = match arguments.split_first() {
        Some((first, rest)) if first.starts_with('/') => (Some(first), rest),
        _ => (None, arguments),
    };
    let mut command = Command::new(program().unwrap());
    command
        .current_dir(dir.path())
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .args(file)
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1"])
        .args(["--daemonize", "no", "--loglevel", "warning", "--save", ""])
        // A replica that comes back is not to wait for others that might.
        .args(["--repl-diskless-sync-delay", "0"])
        .args(arguments);
    Process::start(&mut command)
}

impl Server {
    /// Waits until it answers; false when it has ended.
    fn is_up(&mut self) -> bool {
        let mut up = false;
        wait_until("the server answers", || {
            if self.process.has_ended() {
                return true;
            }
            up = match self.try_command(&["PING"]) {
                Ok(_) => true,
                // As the test asked for.
                Err(error) => error.code() == Some("LOADING") && self.loads_slowly(),
            };
            up
        });
        up
    }

    fn loads_slowly(&self) -> bool {
        self.arguments.iter().any(|text| text == "--key-load-delay")
    }

    /// `127.0.0.1:12345`
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The number of its process.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Sends a command on a connection of its own.
    pub fn try_command(&self, command: &[&str]) -> RedisResult<Value> {
        let client = redis::Client::open(format!("redis://{}", self.address()))?;
        let mut connection = client.get_connection_with_timeout(Duration::from_secs(10))?;
        connection.set_read_timeout(Some(LIMIT))?;
        if let Some(password) = &self.password {
            let mut login = redis::cmd("AUTH");
            login.arg("default").arg(password);
            login.query::<()>(&mut connection)?;
        }
        redis::cmd(command[0])
            .arg(&command[1..])
            .query(&mut connection)
    }

    /// The same; panics when the server refuses it.
    pub fn command(&self, command: &[&str]) -> Value {
        self.try_command(command)
            .unwrap_or_else(|error| panic!("{command:?}: {error}"))
    }

    /// The answer as text; empty for nil.
    pub fn text(&self, command: &[&str]) -> String {
        text(&self.command(command))
    }

    /// The answer as a number.
    pub fn number(&self, command: &[&str]) -> i64 {
        match self.command(command) {
            Value::Int(number) => number,
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
        self.process.kill();
    }

    /// Starts it again on the same port and directory.
    pub fn restart(&mut self) {
        self.process = spawn(self.port, &self.dir, &self.environment, &self.arguments);
        assert!(self.is_up(), "the server does not start again");
    }

    /// The same with another set of arguments.
    pub fn restart_with(&mut self, arguments: &[&str]) {
        self.arguments = arguments.iter().map(|&text| text.to_owned()).collect();
        self.restart();
    }

    /// Stops the process: connections stay open, and nothing answers.
    pub fn freeze(&self) {
        self.process.freeze();
    }

    /// Lets it go on after [`freeze`](Self::freeze).
    pub fn thaw(&self) {
        self.process.thaw();
    }
}

/// An answer as text; empty for nil.
pub fn text(value: &Value) -> String {
    match value {
        Value::BulkString(bytes) => String::from_utf8(bytes.clone()).unwrap(),
        Value::SimpleString(text) | Value::VerbatimString { text, .. } => text.clone(),
        Value::Int(number) => number.to_string(),
        Value::Okay => "OK".to_owned(),
        Value::Nil => String::new(),
        Value::Array(parts) => parts.iter().map(text).collect::<Vec<_>>().join(" "),
        other => panic!("no text: {other:?}"),
    }
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

/// Waits until a replica is linked to its master.
pub fn wait_for_link(replica: &Server) {
    wait_until("the replica is linked", || {
        let state = replica.text(&["INFO", "replication"]);
        state.contains("master_link_status:up")
    });
}

/// Three sentinels that watch this master, and are quicker than usual.
pub fn start_sentinels(master: &Server) -> Vec<Server> {
    let sentinels = start_usual_sentinels(master);
    for sentinel in &sentinels {
        // Or it takes them 8 s to set right a replica that says it is a master, and 10 s to
        // see that one is back. Redis 6 has no such command.
        let periods = "PING-PERIOD 200 PUBLISH-PERIOD 500 INFO-PERIOD 500";
        let mut quicker = vec!["SENTINEL", "DEBUG"];
        quicker.extend(periods.split(' '));
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
                "sentinel monitor {WATCHED} 127.0.0.1 {} 2\n\
                 sentinel down-after-milliseconds {WATCHED} 1000\n\
                 sentinel failover-timeout {WATCHED} 3000\n",
                master.port
            );
            fs::write(&file, text).unwrap();
            let mut server = start(&[file.to_str().unwrap(), "--sentinel"]).unwrap();
            server.dir = dir;
            server
        })
        .collect()
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
    let known = sentinel.text(&["SENTINEL", "REPLICAS", WATCHED]);
    let count = |text| known.matches(text).count();
    sentinel
        .try_command(&["SENTINEL", "CKQUORUM", WATCHED])
        .is_ok()
        && state.contains("status=ok")
        && state.contains(&format!("slaves={replicas},sentinels={sentinels}"))
        && count(" flags slave ") == replicas
        && count(" master-link-status ok ") == replicas
}

/// The port of the master that this sentinel names.
pub fn master_of(sentinel: &Server) -> Option<u16> {
    let address = sentinel.text(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", WATCHED]);
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
        let (port, bus) = (node.port.to_string(), (node.port + BUS_OFFSET).to_string());
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
