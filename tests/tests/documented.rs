//! What the pages say of each store is what its `Capabilities` say: the embedded ones, and the
//! servers whose URLs `TENURE_TEST_STORES` lists, or else those of the variables that
//! `cargo xtask test` gives each test.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use tenure::{Capabilities, Expiry, Order, Policy, Rises, Wakeup};

/// The stores, and where each has its page.
const PAGES: [(&str, &str); 7] = [
    ("memory", "docs/reference/backends/memory.md"),
    ("file", "docs/reference/backends/file.md"),
    ("etcd", "docs/reference/backends/etcd.md"),
    ("redis", "docs/reference/backends/redis.md"),
    ("postgres", "docs/reference/backends/postgres.md"),
    ("kube-lease", "docs/reference/backends/kubernetes.md"),
    ("kube-configmap", "docs/reference/backends/kubernetes.md"),
];

fn read(page: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(page);
    std::fs::read_to_string(path).unwrap()
}

fn expiry(capabilities: &Capabilities) -> &'static str {
    match capabilities.expiry {
        Expiry::Store => "the store, by its clock",
        Expiry::Observation => "each candidate, by its own clock",
        Expiry::Session => "the store, with the holder's session",
        _ => panic!("tell here what it is"),
    }
}

fn wakeup(capabilities: &Capabilities) -> &'static str {
    match capabilities.wakeup {
        Wakeup::Push => "by the store",
        Wakeup::Poll => "they ask",
        _ => panic!("tell here what it is"),
    }
}

fn order(capabilities: &Capabilities) -> &'static str {
    match capabilities.order {
        Order::Fifo => "first come, first served",
        Order::Race => "the first that asks",
        _ => panic!("tell here what it is"),
    }
}

fn lag(capabilities: &Capabilities) -> String {
    if capabilities.expiry_lag.is_zero() {
        "none".to_owned()
    } else {
        format!("{:?}", capabilities.expiry_lag)
    }
}

fn rises(rises: Rises) -> String {
    match rises {
        Rises::Always => "yes".to_owned(),
        Rises::If(condition) => format!("if {condition}"),
        Rises::Never => "no".to_owned(),
        Rises::NotApplicable => "cannot happen".to_owned(),
        _ => panic!("tell here what it is"),
    }
}

/// What a store's own page has in place of a table: each fact stands once.
const TABLES: &str = "Its [leases](../guarantees.md#leases) and [tokens](../guarantees.md#with-fencing) \
                      stand beside those of the other stores.";

/// A row of a table over all stores.
struct Row {
    page: &'static str,
    heading: &'static str,
    begin: String,
    end: String,
}

impl Row {
    fn is_there(&self) -> bool {
        let page = read(self.page);
        let Some((_, rest)) = page.split_once(&format!("\n## {}\n", self.heading)) else {
            return false;
        };
        let section = rest.split("\n## ").next().unwrap_or_default();
        let rows: Vec<&str> = section
            .lines()
            .filter(|line| line.starts_with(&self.begin))
            .collect();
        matches!(rows[..], [row] if row.ends_with(&self.end))
    }
}

fn rows(capabilities: &Capabilities) -> [Row; 3] {
    let begin = format!("| {} |", capabilities.store);
    let fencing = capabilities.fencing;
    let over = [
        fencing.over_crash,
        fencing.over_failover,
        fencing.over_deletion,
        fencing.over_restore,
    ];
    let short = over.map(|over| match over {
        Rises::Always => "yes",
        Rises::If(_) => "if",
        Rises::Never => "no",
        _ => "-",
    });
    let leases = Row {
        page: "docs/reference/guarantees.md",
        heading: "Leases",
        begin: begin.clone(),
        end: format!(
            " {} | {} | {:?} | {:?} | {} | {} |",
            expiry(capabilities),
            lag(capabilities),
            capabilities.min_lease,
            capabilities.lease_granularity,
            wakeup(capabilities),
            order(capabilities),
        ),
    };
    let tokens = Row {
        page: "docs/reference/guarantees.md",
        heading: "With fencing",
        begin,
        end: format!(" {} |", over.map(rises).join(" | ")),
    };
    let readme = Row {
        page: "README.md",
        heading: "Stores",
        begin: format!("| [`{}`](", capabilities.store),
        end: format!(" {} |", short.join(" | ")),
    };
    [leases, tokens, readme]
}

/// The servers' URLs, and whether all must be among them. A strict run fails where one is missing.
fn servers() -> (Vec<String>, bool) {
    if let Ok(listed) = std::env::var("TENURE_TEST_STORES") {
        let urls = listed.split_whitespace().map(str::to_owned);
        return (urls.collect(), true);
    }
    let strict = std::env::var_os("TENURE_TEST_STRICT").is_some();
    let mut urls = Vec::new();
    for (store, variable) in [
        ("etcd", "TENURE_TEST_ETCD_URL"),
        ("redis", "TENURE_TEST_REDIS_URL"),
        ("postgres", "TENURE_TEST_POSTGRES_URL"),
        ("kube-lease", "TENURE_TEST_KUBECONFIG"),
        ("kube-configmap", "TENURE_TEST_KUBECONFIG"),
    ] {
        match std::env::var(variable) {
            Ok(path) if store.starts_with("kube") => {
                urls.push(format!("{store}://default?kubeconfig={path}"));
            }
            Ok(url) => urls.push(url),
            Err(_) => {
                let line = format!("LEFT OUT: {store}: {variable} is not set");
                assert!(!strict, "{line}");
                println!("{line}");
            }
        }
    }
    (urls, strict)
}

#[tokio::test]
async fn the_pages_say_what_the_capabilities_say() {
    let directory = tempfile::tempdir().unwrap();
    let mut urls = vec![
        "memory:".to_owned(),
        format!("file://{}", directory.path().display()),
    ];
    let (servers, complete) = servers();
    urls.extend(servers);
    let mut wrong = Vec::new();
    let mut seen = BTreeSet::new();
    for url in urls {
        let capabilities = tenure::connect(&url).await.unwrap().capabilities();
        seen.insert(capabilities.store);
        let (_, page) = PAGES
            .iter()
            .find(|(store, _)| *store == capabilities.store)
            .unwrap();
        if read(page).matches(TABLES).count() != 1 {
            wrong.push(format!("{page} must have this once: {TABLES}"));
        }
        for row in rows(&capabilities) {
            if !row.is_there() {
                let Row {
                    page,
                    heading,
                    begin,
                    end,
                } = row;
                wrong.push(format!(
                    "{page}, {heading}: once this row:\n{begin}...{end}"
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
    if complete {
        let all: BTreeSet<&str> = PAGES.iter().map(|(store, _)| *store).collect();
        assert_eq!(seen, all, "some stores did not take part");
    }
}

fn seconds(duration: Duration) -> String {
    if duration < Duration::from_secs(1) {
        return format!("{} ms", duration.as_millis());
    }
    let text = format!("{:.2}", duration.as_secs_f64());
    let text = text.trim_end_matches('0').trim_end_matches('.');
    format!("{text} s")
}

/// The numbers of the policies stand in two pages, and are what the policies compute.
#[test]
fn the_table_of_policies_is_what_they_compute() {
    let policies = [
        Policy::default(),
        Policy::client_go(),
        Policy::fast(),
        Policy::patient(),
    ];
    let row = |label: &str, value: &dyn Fn(&Policy) -> String| {
        let values: Vec<String> = policies.iter().map(value).collect();
        format!("| {label} | {} |\n", values.join(" | "))
    };
    let rows = [
        row("lease L", &|it| seconds(it.lease())),
        row("heartbeat H", &|it| seconds(it.heartbeat())),
        row("request timeout R", &|it| seconds(it.request_timeout())),
        row("retry interval", &|it| seconds(it.retry_interval())),
        row("stop grace C", &|it| seconds(it.stop_grace())),
        row("validity V (derived)", &|it| seconds(it.validity())),
        row("work told to stop V - C", &|it| {
            seconds(it.validity().saturating_sub(it.stop_grace()))
        }),
        row("whole heartbeats that may be lost", &|it| {
            it.tolerance().lost_heartbeats.to_string()
        }),
        row("store outage survived at any moment", &|it| {
            seconds(it.tolerance().outage)
        }),
    ];
    let page = read("docs/reference/policy.md");
    let rows = rows.concat();
    assert!(page.contains(&rows), "docs/reference/policy.md:\n{rows}");
    let outage = Policy::patient().tolerance().outage.as_secs();
    let choice = format!("| to survive an outage of up to {outage} s | `patient` |");
    let page = read("docs/how-to/tune-the-policy.md");
    assert!(
        page.contains(&choice),
        "docs/how-to/tune-the-policy.md: {choice}"
    );
}
