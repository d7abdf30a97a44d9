//! The page of documentation, the rules, the dashboard and a scrape name the same metrics.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::collections::BTreeSet;
use std::sync::Arc;

use tenure::testing::TestBackend;
use tenure::{Election, ErrorKind, LockName, Policy};
use tenure_example_observability::recorder;
use tokio::time::sleep;

const PAGE: &str = include_str!("../../../docs/reference/observability.md");
const RULES: &str = include_str!("../../../observe/tenure.rules.yml");
const DASHBOARD: &str = include_str!("../../../observe/tenure.dashboard.json");

/// The first words of the rows below a heading.
fn rows(heading: &str) -> BTreeSet<&'static str> {
    let (_, rest) = PAGE.split_once(&format!("\n## {heading}\n")).unwrap();
    let section = rest.split("\n## ").next().unwrap();
    let rows = section.lines().filter_map(|line| line.strip_prefix("| `"));
    rows.filter_map(|row| row.split('`').next()).collect()
}

/// The metrics that a text names.
fn named(text: &str) -> BTreeSet<&str> {
    let words = text.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
    let metrics = words.filter(|word| word.starts_with("tenure_"));
    let parts = ["_sum", "_count"];
    metrics
        .map(|metric| {
            let found = parts.iter().find_map(|part| metric.strip_suffix(part));
            found.unwrap_or(metric)
        })
        .collect()
}

/// A heartbeat, a failure and the end of a term.
async fn everything() {
    let backend = TestBackend::new();
    let policy = Policy::fast();
    let election = Election::builder(Arc::new(backend.clone()), LockName::new("job").unwrap())
        .policy(policy.clone())
        .build()
        .unwrap();
    let leadership = election.campaign().await.unwrap();
    sleep(policy.heartbeat() * 2).await;
    backend.fail_with(Some(ErrorKind::Unavailable));
    sleep(policy.heartbeat()).await;
    backend.fail_with(None);
    leadership.resign().await.unwrap();
}

#[test]
fn each_metric_of_the_page_is_scraped_with_a_help_text_and_nothing_else_is() {
    let recorder = recorder();
    let handle = recorder.handle();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    metrics::with_local_recorder(&recorder, || runtime.block_on(everything()));
    let scrape = handle.render();
    let helped = scrape
        .lines()
        .filter_map(|line| line.strip_prefix("# HELP "));
    let helped: BTreeSet<&str> = helped.filter_map(|line| line.split(' ').next()).collect();
    assert_eq!(helped, rows("Metrics"), "{scrape}");
    let series = scrape.lines().filter(|line| line.starts_with("tenure_"));
    let series: BTreeSet<&str> = series.filter_map(|line| line.split('{').next()).collect();
    assert_eq!(
        named(&series.into_iter().collect::<Vec<_>>().join(" ")),
        rows("Metrics")
    );
}

#[test]
fn rules_and_dashboard_name_metrics_of_the_page_and_the_page_each_alert() {
    let metrics = rows("Metrics");
    for text in [RULES, DASHBOARD] {
        let named = named(text);
        assert!(!named.is_empty() && named.is_subset(&metrics), "{named:?}");
    }
    let alerts = RULES
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- alert: "));
    assert_eq!(alerts.collect::<BTreeSet<_>>(), rows("Prometheus"));
    let board: serde_json::Value = serde_json::from_str(DASHBOARD).unwrap();
    assert!(
        board["panels"]
            .as_array()
            .is_some_and(|panels| !panels.is_empty())
    );
}
