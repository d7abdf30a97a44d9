//! The alert rules of `observe/`, evaluated by a real Prometheus that scrapes real processes.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;
use tenure_testkit::environment::program;
use tenure_testkit::port::free_ports;
use tenure_testkit::process::{self, Process};
use tenure_testkit::wait::wait_until;

const NOBODY: &str = "TenureNobodyLeads";

fn rules() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../observe")
}

/// A candidate that leads while its file exists.
struct Candidate {
    process: Process,
    well: PathBuf,
}

impl Candidate {
    fn start(folder: &Path, name: &str, port: u16) -> Self {
        let well = folder.join(name);
        let store = folder.join("store");
        let mut command = Command::new(env!("CARGO_BIN_EXE_observed"));
        command
            .env("METRICS", format!("127.0.0.1:{port}"))
            .env("LEADS_WHILE", &well)
            .env("TENURE_BACKEND", format!("file://{}", store.display()))
            .env("TENURE_LOCK", "job")
            .env("TENURE_IDENTITY", name)
            .env("TENURE_POLICY", "fast");
        let process = Process::start(&mut command);
        Self { process, well }
    }

    fn is_well(&self) {
        fs::write(&self.well, "").unwrap();
    }
}

struct Prometheus {
    port: u16,
    _process: Process,
}

impl Prometheus {
    /// Scrapes and evaluates five times a second. The rules wait for a lease of the default policy
    /// and a scrape interval; here both are shorter.
    fn start(program: &Path, folder: &Path, port: u16, targets: &[u16]) -> Self {
        let text = fs::read_to_string(rules().join("tenure.rules.yml")).unwrap();
        assert!(text.contains("for: 2m"));
        fs::write(folder.join("rules.yml"), text.replace("for: 2m", "for: 2s")).unwrap();
        let targets: Vec<String> = targets
            .iter()
            .map(|port| format!("'127.0.0.1:{port}'"))
            .collect();
        let targets = targets.join(", ");
        let configuration = format!(
            "global: {{scrape_interval: 200ms, scrape_timeout: 200ms, evaluation_interval: 200ms}}\n\
             rule_files: [rules.yml]\n\
             scrape_configs:\n  - job_name: app\n    static_configs: [{{targets: [{targets}]}}]\n"
        );
        let file = folder.join("prometheus.yml");
        fs::write(&file, configuration).unwrap();
        let mut command = Command::new(program);
        command
            .arg(format!("--config.file={}", file.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                folder.join("data").display()
            ))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"));
        let process = Process::start(&mut command);
        Self {
            port,
            _process: process,
        }
    }

    /// Nothing while it does not answer.
    fn ask(&self, path: &str) -> Option<Value> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).ok()?;
        write!(stream, "GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let (_, body) = answer.split_once("\r\n\r\n")?;
        serde_json::from_str(body).ok()
    }

    /// The sum of a query's values.
    fn value(&self, query: &str) -> Option<f64> {
        let answer = self.ask(&format!("/api/v1/query?query={query}"))?;
        let found = answer["data"]["result"].as_array()?;
        let values = found
            .iter()
            .map(|one| one["value"][1].as_str()?.parse::<f64>().ok());
        (!found.is_empty())
            .then(|| values.sum::<Option<f64>>())
            .flatten()
    }

    fn fires(&self, alert: &str) -> Option<bool> {
        let answer = self.ask("/api/v1/alerts")?;
        let alerts = answer["data"]["alerts"].as_array()?;
        Some(
            alerts
                .iter()
                .any(|one| one["labels"]["alertname"] == alert && one["state"] == "firing"),
        )
    }

    fn leads(&self, how_many: f64) {
        wait_until("as many lead", || {
            self.value("tenure_is_leader") == Some(how_many)
        });
    }
}

#[test]
fn the_rules_fire_and_clear_through_a_leaders_death_and_a_rollout_that_elects_nobody() {
    let Some(program) = program("prometheus") else {
        return;
    };
    let folder = TempDir::new().unwrap();
    let ports = free_ports::<4>();
    let [one, two, three, own] = ports;
    let mut leader = Candidate::start(folder.path(), "one", one);
    leader.is_well();
    let prometheus = Prometheus::start(&program, folder.path(), own, &[one, two, three]);
    prometheus.leads(1.0);
    let follower = Candidate::start(folder.path(), "two", two);
    // It never led, and is counted.
    wait_until("the follower is scraped", || {
        prometheus.value("count(tenure_is_leader)") == Some(2.0)
    });
    assert_eq!(prometheus.fires(NOBODY), Some(false));

    // The leader dies, and the other one is unwell.
    leader.process.kill();
    wait_until("the alert fires", || prometheus.fires(NOBODY) == Some(true));
    follower.is_well();
    wait_until("the alert clears", || {
        prometheus.fires(NOBODY) == Some(false)
    });
    prometheus.leads(1.0);

    // The new version is unwell wherever it runs, and takes the place of the old one.
    let newcomer = Candidate::start(folder.path(), "three", three);
    wait_until("the newcomer is scraped", || {
        prometheus.value("count(tenure_is_leader)") == Some(2.0)
    });
    follower.process.signal("TERM");
    process::until_dead(follower.process.pid());
    wait_until("the alert fires again", || {
        prometheus.fires(NOBODY) == Some(true)
    });
    newcomer.is_well();
    wait_until("the alert clears again", || {
        prometheus.fires(NOBODY) == Some(false)
    });
    for alert in ["TenureSeveralLead", "TenureWorkOverruns"] {
        assert_eq!(prometheus.fires(alert), Some(false), "{alert}");
    }
}

#[test]
fn the_rules_hold_in_promtools_tests() {
    let Some(promtool) = program("promtool") else {
        return;
    };
    let mut command = Command::new(&promtool);
    process::run(
        command
            .current_dir(rules())
            .args(["check", "rules", "tenure.rules.yml"]),
    );
    let mut command = Command::new(&promtool);
    process::run(
        command
            .current_dir(rules())
            .args(["test", "rules", "tenure.rules.test.yml"]),
    );
}
