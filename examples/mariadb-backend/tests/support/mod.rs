//! A private `MariaDB` server on loopback, from Debian's package mariadb-server-core.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// The password of the user `app`.
pub(crate) const PASSWORD: &str = "correct-horse";

const PROGRAMS: [&str; 3] = [
    "/usr/sbin/mariadbd",
    "/usr/local/sbin/mariadbd",
    "/usr/bin/mariadbd",
];

/// A running server; killed on drop.
pub(crate) struct Server {
    port: u16,
    folder: TempDir,
    program: PathBuf,
    process: Child,
}

impl Server {
    /// `None`, and a line that says so, where none is installed. In a strict run that is a failure.
    pub(crate) fn start() -> Option<Self> {
        let program = PROGRAMS.iter().map(PathBuf::from).find(|it| it.is_file());
        let Some(program) = program else {
            let is_strict = std::env::var_os("TENURE_TEST_STRICT").is_some();
            assert!(
                !is_strict,
                "mariadbd is missing: apt-get install mariadb-server-core"
            );
            eprintln!("LEFT OUT: no mariadbd");
            return None;
        };
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("data")).unwrap();
        make_database(&program, folder.path());
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let process = spawn(&program, folder.path(), port);
        let mut server = Self {
            port,
            folder,
            program,
            process,
        };
        server.await_up();
        Some(server)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// Kills it and starts it again on its data.
    pub(crate) fn restart(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        self.process = spawn(&self.program, self.folder.path(), self.port);
        self.await_up();
    }

    fn await_up(&mut self) {
        let begin = Instant::now();
        while TcpStream::connect(self.address()).is_err() {
            let log = || fs::read_to_string(self.folder.path().join("log")).unwrap();
            assert!(self.process.try_wait().unwrap().is_none(), "{}", log());
            assert!(begin.elapsed() < Duration::from_secs(120), "{}", log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _gone = self.process.kill();
        let _reaped = self.process.wait();
    }
}

/// The URL of a server or proxy.
pub(crate) fn url(at: SocketAddr) -> String {
    format!("mariadb://app:{PASSWORD}@{at}/locks?request_timeout=60s")
}

fn server(program: &Path, folder: &Path) -> Command {
    let mut command = Command::new(program);
    command.arg("--no-defaults");
    command.arg(format!("--datadir={}", folder.join("data").display()));
    command.args(["--innodb-log-file-size=8M", "--innodb-buffer-pool-size=16M"]);
    let mut id = Command::new("id");
    if id.arg("-u").output().unwrap().stdout == b"0\n" {
        command.arg("--user=root");
    }
    command
}

/// The system's tables, the user and its database.
fn make_database(program: &Path, folder: &Path) {
    let mut script = "CREATE DATABASE mysql;\nUSE mysql;\n".to_owned();
    for part in ["system_tables", "system_tables_data"] {
        let of = |name: &str| fs::read_to_string(format!("/usr/share/mysql/{name}_{part}.sql"));
        script += &of("mariadb").or_else(|_| of("mysql")).unwrap();
    }
    let user = format!(
        "\nFLUSH PRIVILEGES;\nCREATE DATABASE locks;\nCREATE USER app IDENTIFIED BY '{PASSWORD}';\n\
         GRANT CREATE, SELECT, INSERT, UPDATE, DELETE ON locks.* TO app;\n"
    );
    script += &user;
    let file = folder.join("script.sql");
    fs::write(&file, script).unwrap();
    let output = server(program, folder)
        .args(["--bootstrap", "--skip-networking"])
        .stdin(File::open(file).unwrap())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
}

fn spawn(program: &Path, folder: &Path, port: u16) -> Child {
    let log = File::options()
        .create(true)
        .append(true)
        .open(folder.join("log"));
    server(program, folder)
        .args(["--bind-address=127.0.0.1", &format!("--port={port}")])
        .arg(format!("--socket={}", folder.join("socket").display()))
        .args([
            "--max-connections=1500",
            "--back-log=1000",
            "--skip-name-resolve",
        ])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log.unwrap())
        .spawn()
        .unwrap()
}
