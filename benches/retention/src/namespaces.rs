//! Three network namespaces in a row: clients, a router, servers. The router can lose all packets.
//!
//! A process of its own, the guard, ends what runs in them and removes them when this one ends,
//! whatever way that happens.

use std::ffi::OsStr;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, ensure};

/// Where the clients are.
pub(crate) const CLIENTS: Ipv4Addr = Ipv4Addr::new(10, 83, 1, 1);

/// Where the servers listen.
pub(crate) const SERVERS: Ipv4Addr = Ipv4Addr::new(10, 83, 2, 1);

/// How the names of all namespaces begin; the number of the process that made them follows.
const PREFIX: &str = "tenure-retention-";

/// Reads until its input ends, and then removes everything that has the name. `QUIT` comes first,
/// because a database that is killed leaves shared memory behind.
const GUARD: &str = r#"
trap '' INT TERM HUP
cat >/dev/null
for signal in QUIT KILL; do
  for part in clients router servers; do
    ip netns pids "$1-$part" 2>/dev/null | xargs -r kill -$signal 2>/dev/null
  done
  [ $signal = QUIT ] && sleep 1
done
for part in clients router servers; do
  ip netns del "$1-$part" 2>/dev/null
done
rm -rf "$2"
"#;

/// The namespaces of one run.
#[derive(Debug)]
pub(crate) struct Namespaces {
    /// How their names begin.
    pub(crate) name: String,
    /// For the servers' files.
    pub(crate) folder: PathBuf,
    guard: Child,
}

impl Namespaces {
    /// Removes what a killed run has left behind, and makes new ones.
    pub(crate) fn create() -> Result<Self> {
        for name in left_behind()? {
            eprintln!("removes {name}, whose run was killed");
            guard(&name)?.wait()?;
        }
        let name = format!("{PREFIX}{}", std::process::id());
        let folder = folder_of(&name);
        std::fs::create_dir_all(&folder)?;
        let own = Self {
            guard: guard(&name)?,
            folder,
            name,
        };
        let [clients, router, servers] =
            ["clients", "router", "servers"].map(|part| format!("{}-{part}", own.name));
        for namespace in [&clients, &router, &servers] {
            ip(["netns", "add", namespace])?;
            ip(["-n", namespace, "link", "set", "lo", "up"])?;
        }
        for (end, name, address) in [(&clients, "left", CLIENTS), (&servers, "right", SERVERS)] {
            let [a, b, c, d] = address.octets();
            let (near, gate) = (format!("{address}/24"), format!("{a}.{b}.{c}.{}", d + 1));
            let [own, gates] = [1, 2].map(|end| format!("02:00:00:00:{c:02x}:{end:02x}"));
            let veth = [
                "-n", end, "link", "add", "net0", "address", &own, "type", "veth",
            ];
            let peer = ["peer", "name", name, "address", &gates, "netns", &router];
            ip(veth.iter().chain(&peer))?;
            ip(["-n", end, "address", "add", &near, "dev", "net0"])?;
            let far = format!("{gate}/24");
            ip(["-n", &router, "address", "add", &far, "dev", name])?;
            ip(["-n", end, "link", "set", "net0", "up"])?;
            ip(["-n", &router, "link", "set", name, "up"])?;
            // For good: a router without a route to us answers no question for its own address.
            let host = address.to_string();
            for (at, whose, mac, dev) in
                [(end, &gate, &gates, "net0"), (&router, &host, &own, name)]
            {
                let known = ["lladdr", mac, "dev", dev, "nud", "permanent"];
                ip(["-n", at, "neighbor", "add", whose].iter().chain(&known))?;
            }
            ip(["-n", end, "route", "add", "default", "via", &gate])?;
        }
        let forward = "echo 1 > /proc/sys/net/ipv4/ip_forward";
        ip(["netns", "exec", &router, "sh", "-c", forward])?;
        Ok(own)
    }

    /// Ends what runs in them, and removes them.
    pub(crate) fn remove(mut self) -> Result<()> {
        drop(self.guard.stdin.take());
        self.guard.wait()?;
        Ok(())
    }
}

/// From now on the router loses all packets, or loses none.
pub(crate) fn lose_packets(name: &str, lose: bool) -> Result<()> {
    let what = if lose { "add" } else { "del" };
    let mut child = Command::new("ip")
        .args(["-n", &format!("{name}-router"), "-batch", "-"])
        .stdin(Stdio::piped())
        .spawn()
        .context("ip cannot be run")?;
    if let Some(mut input) = child.stdin.take() {
        for address in [CLIENTS, SERVERS] {
            writeln!(input, "route {what} blackhole {address}/32")?;
        }
    }
    ensure!(child.wait()?.success(), "ip cannot {what} the routes");
    Ok(())
}

/// The beginning of a command that runs inside one of them.
pub(crate) fn inside(name: &str, part: &str) -> [String; 4] {
    let namespace = format!("{name}-{part}");
    ["ip".into(), "netns".into(), "exec".into(), namespace]
}

fn folder_of(name: &str) -> PathBuf {
    std::env::temp_dir().join(name)
}

fn guard(name: &str) -> Result<Child> {
    // In a group of its own, because Ctrl-C ends the group of the command.
    Command::new("sh")
        .args(["-c", GUARD, "guard", name])
        .arg(folder_of(name))
        .stdin(Stdio::piped())
        .process_group(0)
        .spawn()
        .context("sh cannot be run")
}

/// The runs whose process is gone and whose namespaces are not.
fn left_behind() -> Result<Vec<String>> {
    let output = Command::new("ip").args(["netns", "list"]).output();
    let output = output.context("ip cannot be run: install iproute2")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let mut names: Vec<String> = text
        .split_whitespace()
        .filter_map(|name| {
            let number = name.strip_prefix(PREFIX)?.split('-').next()?;
            let is_gone = !Path::new("/proc").join(number).exists();
            is_gone.then(|| format!("{PREFIX}{number}"))
        })
        .collect();
    names.sort();
    names.dedup();
    Ok(names)
}

fn ip<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>) -> Result<()> {
    let mut command = Command::new("ip");
    let output = command
        .args(arguments)
        .output()
        .context("ip cannot be run")?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {}", errors.trim());
    Ok(())
}
