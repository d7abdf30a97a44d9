//! A network namespace for each candidate, and the link that leads out of it.
//!
//! A candidate reaches its proxies over a pair of interfaces. When the host's end is taken down, the
//! candidate's end has no carrier, as with a cable that is pulled: the kernel loses what it sends.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// What the namespaces' names begin with; the process that made them and a number follow.
const NAME: &str = "tenure-chaos-";

/// Where `ip` keeps namespaces.
const FOLDER: &str = "/run/netns";

/// The candidate's end.
const INSIDE: &str = "link0";

/// How long a connection out of a namespace may take.
const CONNECTS: Duration = Duration::from_millis(500);

/// One for each candidate; removed on drop.
#[derive(Debug)]
pub struct Links(Vec<Link>);

#[derive(Debug)]
struct Link {
    namespace: String,
    outside: String,
    host: Ipv4Addr,
}

impl Links {
    /// So many links. An error where this user may not make them.
    pub fn make(count: usize) -> Result<Self> {
        remove_those_of_dead_processes();
        let mut links = Self(Vec::new());
        for number in 0..count {
            let link = Link::new(std::process::id(), u32::try_from(number)?);
            // One that is made in part is removed as well.
            links.0.push(link);
            links.0[number].make()?;
        }
        Ok(links)
    }

    /// The host's address on the link of a candidate.
    pub fn host(&self, number: usize) -> Ipv4Addr {
        self.0[number].host
    }

    /// A command that becomes this program in the namespace of a candidate.
    pub fn command(&self, number: usize, program: &Path) -> Command {
        let mut command = Command::new("nsenter");
        let namespace = self.0[number].path();
        command.arg(format!("--net={}", namespace.display()));
        command.arg(program);
        command
    }

    /// Takes the host's end of a link down.
    pub fn take_down(&self, number: usize) -> Result<()> {
        ip(&["link", "set", &self.0[number].outside, "down"]).map(drop)
    }

    /// Brings the host's end of a link up.
    pub fn bring_up(&self, number: usize) -> Result<()> {
        ip(&["link", "set", &self.0[number].outside, "up"]).map(drop)
    }

    /// Whether the candidate's end has a carrier.
    pub fn has_carrier(&self, number: usize) -> Result<bool> {
        let namespace = &self.0[number].namespace;
        let shown = ip(&["-n", namespace, "-o", "link", "show", "dev", INSIDE])?;
        ensure!(shown.contains(INSIDE), "ip shows {shown:?}");
        Ok(!shown.contains("NO-CARRIER"))
    }

    /// Whether this address takes a connection from the namespace of a candidate.
    pub fn reaches(&self, number: usize, address: SocketAddr) -> Result<bool> {
        self.0[number].inside(|| Ok(TcpStream::connect_timeout(&address, CONNECTS).is_ok()))
    }

    /// How many TCP segments a candidate's namespace has sent again, because there was no answer.
    pub fn sent_again(&self, number: usize) -> Result<u64> {
        self.0[number].inside(|| {
            let counters = fs::read_to_string("/proc/thread-self/net/snmp")?;
            retransmitted(&counters).context("/proc/net/snmp has no RetransSegs")
        })
    }
}

impl Drop for Links {
    fn drop(&mut self) {
        self.0.iter().for_each(Link::remove);
    }
}

impl Link {
    /// The networks are those for benchmarks (RFC 2544), of two addresses each. Runs that go on at
    /// the same time have others.
    fn new(process: u32, number: u32) -> Self {
        let network = Ipv4Addr::new(198, 18, 0, 0).to_bits();
        let place = (process.wrapping_mul(8) + number) % 0x8000;
        Self {
            namespace: format!("{NAME}{process}-{number}"),
            outside: format!("tc{process}x{number}"),
            host: Ipv4Addr::from_bits(network + place * 4 + 1),
        }
    }

    /// A namespace lasts as long as a connection of a killed process in it. So the link goes first.
    fn remove(&self) {
        let _gone = ip(&["link", "del", &self.outside]);
        let _gone = ip(&["netns", "del", &self.namespace]);
    }

    fn path(&self) -> PathBuf {
        Path::new(FOLDER).join(&self.namespace)
    }

    fn make(&self) -> Result<()> {
        let (namespace, outside) = (self.namespace.as_str(), self.outside.as_str());
        let candidate = Ipv4Addr::from_bits(self.host.to_bits() + 1);
        let (host, candidate) = (format!("{}/30", self.host), format!("{candidate}/30"));
        ip(&["netns", "add", namespace])?;
        ip(&[
            "link", "add", outside, "type", "veth", "peer", "name", INSIDE, "netns", namespace,
        ])?;
        ip(&["addr", "add", &host, "dev", outside])?;
        ip(&["-n", namespace, "addr", "add", &candidate, "dev", INSIDE])?;
        ip(&["link", "set", outside, "up"])?;
        for interface in ["lo", INSIDE] {
            ip(&["-n", namespace, "link", "set", interface, "up"])?;
        }
        Ok(())
    }

    /// Looks at something from inside, on a thread that ends with it.
    fn inside<T: Send>(&self, look: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let namespace = fs::File::open(self.path())?;
        let enter_and_look = || {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
            look()
        };
        let looked = thread::scope(|scope| scope.spawn(enter_and_look).join());
        looked.map_err(|_| anyhow!("a look from inside panicked"))?
    }
}

/// A process that was killed has left its namespaces.
fn remove_those_of_dead_processes() {
    let entries = fs::read_dir(FOLDER).into_iter().flatten().flatten();
    for entry in entries {
        let name = entry.file_name().to_string_lossy().into_owned();
        let numbers: Option<(u32, u32)> = name.strip_prefix(NAME).and_then(|rest| {
            let (process, number) = rest.split_once('-')?;
            Some((process.parse().ok()?, number.parse().ok()?))
        });
        let Some((process, number)) = numbers else {
            continue;
        };
        if !Path::new("/proc").join(process.to_string()).exists() {
            Link::new(process, number).remove();
        }
    }
}

/// Runs `ip`; what it prints.
fn ip(arguments: &[&str]) -> Result<String> {
    let output = Command::new("ip").args(arguments).output();
    let output = output.context("ip (package iproute2)")?;
    let errors = String::from_utf8_lossy(&output.stderr);
    let command = arguments.join(" ");
    ensure!(output.status.success(), "ip {command}: {}", errors.trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// `RetransSegs` of the kernel's table: a line with names, and one with numbers.
fn retransmitted(counters: &str) -> Option<u64> {
    let mut lines = counters.lines().filter(|line| line.starts_with("Tcp:"));
    let mut names = lines.next()?.split_whitespace();
    let place = names.position(|name| name == "RetransSegs")?;
    lines.next()?.split_whitespace().nth(place)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_count_of_segments_is_found_by_its_name() {
        let counters =
            "Ip: Forwarding\nIp: 2\nTcp: InSegs OutSegs RetransSegs InErrs\nTcp: 6 7 3 0\n";
        assert_eq!(retransmitted(counters), Some(3));
        assert_eq!(retransmitted("Tcp: InSegs\nTcp: 6\n"), None);
    }

    #[test]
    fn two_processes_in_a_row_have_networks_of_their_own() {
        let hosts: Vec<Ipv4Addr> = [(7, 4), (8, 0), (8, 4)]
            .map(|(p, n)| Link::new(p, n).host)
            .into();
        let networks: Vec<u32> = hosts.iter().map(|host| host.to_bits() / 4).collect();
        assert!(networks.is_sorted_by(|one, next| one < next), "{hosts:?}");
    }
}
