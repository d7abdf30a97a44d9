//! `records.md`: what client-go and tenure make of records that others write.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod support;

use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use serde_json::{Value, json};
use support::Connects as _;
use tenure_core::{Acquired, CampaignId, Candidate, ErrorKind, Identity, LockBackend, Verdict};
use tenure_kube::{ElectionRecord, Form};
use tenure_kube_configmap::{ConfigMapForm, LEADER_ANNOTATION};
use tenure_kube_lease::LeaseForm;
use tenure_testkit::kube::Server;
use tenure_testkit::kube::client_go::{self, old_program, program};
use tenure_testkit::lock;

const TABLE: &str = include_str!("records.md");

/// Longer than any that a record states by mistake.
const LEASE: Duration = Duration::from_secs(600);

/// So many requests are under way at a time.
const AT_ONCE: usize = 8;

/// A line of the table.
#[derive(Debug)]
struct Row {
    name: String,
    what: &'static str,
    text: String,
    on_config_map: (&'static str, &'static str),
    on_lease: (&'static str, &'static str),
}

fn rows() -> Vec<Row> {
    let lines = TABLE.lines().filter(|line| line.starts_with("| "));
    let rows = lines.skip(1).enumerate().map(|(number, line)| {
        let cells: Vec<_> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        let [what, text, client_go, ours, lease_client_go, lease_ours] = cells[..] else {
            panic!("{line}");
        };
        Row {
            name: format!("record-{number}"),
            what,
            text: expanded(text.trim_matches('`')),
            on_config_map: (client_go.trim_matches('`'), ours),
            on_lease: (lease_client_go.trim_matches('`'), lease_ours),
        }
    });
    rows.collect()
}

/// The text that a cell stands for.
fn expanded(cell: &str) -> String {
    let mut text = String::new();
    let mut rest = cell;
    while let Some((before, after)) = rest.split_once('<') {
        let (sign, after) = after.split_once('>').unwrap();
        text.push_str(before);
        rest = after;
        if let Some(code) = sign.strip_prefix("U+") {
            text.push(char::from_u32(u32::from_str_radix(code, 16).unwrap()).unwrap());
        } else if let Some((times, part)) = sign.split_once(" x ") {
            text.push_str(&part.repeat(times.parse().unwrap()));
        } else {
            assert_eq!(sign, "nothing");
        }
    }
    text + rest
}

/// A record as the table shows it.
fn shown(record: &ElectionRecord) -> String {
    // Without the decimals that a Lease has.
    let time = |time: &Option<String>| match time {
        Some(text) => text.replace(".000000Z", "Z").replace(".123456Z", "Z"),
        None => "null".to_owned(),
    };
    let holder = record.holder.chars().map(|character| match character {
        ' '..='~' if character != '"' && character != '\\' => character.to_string(),
        _ => {
            let units = &mut [0; 2];
            let units = character.encode_utf16(units).iter();
            let units: Vec<_> = units.map(|unit| format!("\\u{unit:04x}")).collect();
            units.concat()
        }
    });
    format!(
        "\"{}\" {} {} {} {}",
        holder.collect::<String>(),
        record.lease_seconds,
        time(&record.acquired),
        time(&record.renewed),
        record.transitions
    )
}

/// What client-go says, as the table shows it.
fn of_client_go(said: &str) -> String {
    if said == "refused" {
        return said.to_owned();
    }
    let said: Value = serde_json::from_str(said).unwrap();
    let time = |name: &str| {
        // As it stands: Go writes years that it does not read, such as 10000.
        let text = said[name].as_str();
        text.unwrap_or("null").to_owned()
    };
    let number = |name: &str| said[name].as_i64().unwrap();
    let holder = said["holderIdentity"].as_str().unwrap();
    let record = ElectionRecord::new(holder, number("leaseDurationSeconds"))
        .with_transitions(number("leaderTransitions"));
    let times = format!(" {} {} ", time("acquireTime"), time("renewTime"));
    shown(&record).replacen(" null null ", &times, 1)
}

fn as_on_a_lease(text: &str) -> String {
    text.replace("leaderTransitions", "leaseTransitions")
        .replace("2021-12-07T15:38:32Z", "2021-12-07T15:38:32.000000Z")
}

/// What the table says of us: whether we read the same, and what we do then.
async fn of_us<F: Form>(
    backend: &dyn LockBackend,
    object: &Value,
    name: &str,
    client_go: &str,
) -> String {
    let read = F::read(object).map(|record| match record {
        Some(record) => shown(&record),
        None => "no record".to_owned(),
    });
    let read = read.unwrap_or_else(|_| "refused".to_owned());
    let us = Candidate::new(Identity::new("us").unwrap(), CampaignId::new(1));
    let does = match backend.acquire(&lock(name), &us, LEASE).await {
        Ok(Acquired::Held(_)) => "takes it".to_owned(),
        Ok(Acquired::Taken { free_in, .. }) => format!("waits {} s", free_in.unwrap().as_secs()),
        Ok(other) => panic!("{other:?}"),
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Corrupted, "{error}");
            "refuses".to_owned()
        }
    };
    let comparison = if read == client_go { "equal" } else { &read };
    format!("{comparison}, {does}")
}

/// A holder that nobody can read may be at work: no program takes its lock, and no error or check
/// advises to delete it before it has stopped. Without it the election goes on.
#[tokio::test]
async fn a_record_that_nobody_can_read_is_removed_only_after_its_holder_has_stopped() {
    let Some(server) = Server::start().await else {
        return;
    };
    let python = rows()
        .into_iter()
        .find(|row| row.what == "the Python client's");
    let python = python.unwrap();
    made(&server, &python).await;
    let backend = tenure_kube_configmap::connect(server.config())
        .await
        .unwrap();
    let us = Candidate::new(Identity::new("us").unwrap(), CampaignId::new(1));
    let name = lock(&python.name);
    let error = backend.acquire(&name, &us, LEASE).await.unwrap_err();
    let checks = backend.checks(&name, LEASE).await;
    let check = checks
        .iter()
        .find(|check| check.name == "holder's lease")
        .unwrap();
    assert_eq!(check.verdict, Verdict::Unusable);
    let remedy = check.remedy.as_deref().unwrap();
    let removal = format!(
        "kubectl annotate configmap {} --namespace {} {LEADER_ANNOTATION}-",
        python.name, server.namespace
    );
    for text in [error.message(), remedy] {
        let (before, after) = text.split_once(&removal).unwrap();
        assert!(
            before.contains("stop all programs that use it first"),
            "{text}"
        );
        assert_eq!(after, "");
        assert!(!text.contains("delete"), "{text}");
    }
    let named = "has \"15\" as its leaseDurationSeconds";
    for text in [error.message(), &check.reason] {
        assert!(text.contains(named), "{text}");
        assert!(text.contains("holder \"a\""), "{text}");
    }
    // What that command does.
    let nothing = json!({ "metadata": { "annotations": { LEADER_ANNOTATION: null } } });
    let path = server.config_map_path(&python.name);
    let (status, answer) = server.send("PATCH", &path, Some(&nothing)).await;
    assert_eq!(status, 200, "{answer}");
    let outcome = backend.acquire(&name, &us, LEASE).await;
    assert!(matches!(outcome, Ok(Acquired::Held(_))), "{outcome:?}");
}

#[tokio::test]
async fn client_go_and_tenure_read_each_record_as_the_table_says() {
    let Some(server) = Server::start().await else {
        return;
    };
    let (Some(new), Some(old)) = (program(), old_program()) else {
        return;
    };
    let rows = rows();
    assert!(rows.len() >= 80);
    let maps: Vec<_> = rows.iter().map(|row| row.name.clone()).collect();
    let making = stream::iter(&rows).map(|row| made(&server, row));
    let stored: Vec<_> = making.buffered(AT_ONCE).collect().await;
    let leases: Vec<_> = stored.into_iter().flatten().collect();
    let in_maps = client_go::read(&old, &server, &maps).await;
    let in_leases = client_go::read(&new, &server, &leases).await;
    assert_eq!(in_maps.len(), maps.len());
    assert_eq!(in_leases.len(), leases.len());

    let on_maps = tenure_kube_configmap::connect(server.config())
        .await
        .unwrap();
    let on_leases = tenure_kube_lease::connect(server.config()).await.unwrap();
    let looking = stream::iter(rows.iter().zip(&in_maps)).map(async |(row, client_go)| {
        let on_map = {
            let path = server.config_map_path(&row.name);
            let (_, object) = server.send("GET", &path, None).await;
            let client_go = of_client_go(client_go);
            let ours = of_us::<ConfigMapForm>(&on_maps, &object, &row.name, &client_go).await;
            (client_go, ours)
        };
        let on_lease = match leases.iter().position(|name| *name == row.name) {
            None => ("not stored".to_owned(), String::new()),
            Some(place) => {
                let object = server.lease(&row.name).await;
                let client_go = of_client_go(&in_leases[place]);
                let ours = of_us::<LeaseForm>(&on_leases, &object, &row.name, &client_go).await;
                (client_go, ours)
            }
        };
        [(row.on_config_map, on_map), (row.on_lease, on_lease)]
    });
    let found: Vec<_> = looking.buffered(AT_ONCE).collect().await;
    let mut differing = Vec::new();
    for (row, found) in rows.iter().zip(found) {
        for (table, (client_go, ours)) in found {
            if table != (&*client_go, &*ours) {
                differing.push(format!("{}: {table:?} but {client_go}, {ours}", row.what));
            }
        }
    }
    assert!(differing.is_empty(), "{differing:#?}");
}

/// Makes both objects. The name of the Lease if the API server stores it.
async fn made(server: &Server, row: &Row) -> Option<String> {
    let annotations = json!({ LEADER_ANNOTATION: row.text });
    let map = json!({ "metadata": { "name": row.name, "annotations": annotations } });
    let path = server.config_map_path("");
    let sent = server.send("POST", path.trim_end_matches('/'), Some(&map));
    let (status, answer) = sent.await;
    assert_eq!(status, 201, "{}: {answer}", row.what);
    let lease = format!(
        "{{\"apiVersion\":\"coordination.k8s.io/v1\",\"kind\":\"Lease\",\
         \"metadata\":{{\"name\":\"{}\"}},\"spec\":{}}}",
        row.name,
        as_on_a_lease(&row.text)
    );
    let (path, kind) = (server.lease_path(""), "application/json");
    let sent = server.send_as("POST", path.trim_end_matches('/'), kind, lease.into_bytes());
    match sent.await.0 {
        201 => Some(row.name.clone()),
        400 | 422 => None,
        other => panic!("{}: {other}", row.what),
    }
}
