//! `run`, `status` and `watch` on one store after the other: a directory, and the servers whose
//! URLs `TENURE_TEST_STORES` lists, as `cargo xtask test` sets it.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod support;

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;
use std::thread;

use rustix::process::Signal;
use serde_json::Value;
use support::{Place, Running, stdout, until, until_dead};

#[test]
fn one_command_runs_and_is_handed_over_and_taken_over_on_each_store() {
    let mut places = vec![Place::new()];
    match std::env::var("TENURE_TEST_STORES") {
        Ok(urls) => places.extend(urls.split_whitespace().map(|url| Place::on(&patient(url)))),
        Err(_) => println!("LEFT OUT: TENURE_TEST_STORES is not set, so no server takes part"),
    }
    let stores: Vec<_> = places
        .into_iter()
        .map(|place| thread::spawn(move || elect(&place)))
        .collect();
    for store in stores {
        store.join().unwrap();
    }
}

/// A busy machine is no reason to give up connecting.
fn patient(url: &str) -> String {
    let scheme = url.split(':').next().unwrap();
    if !matches!(scheme, "etcd" | "redis" | "postgres") {
        return url.to_owned();
    }
    let and = if url.contains('?') { '&' } else { '?' };
    format!("{url}{and}connect_timeout=60s")
}

fn elect(place: &Place) {
    place.make_store();
    let scheme = place.url();
    let (scheme, _) = scheme.split_once(':').unwrap();
    let status = || place.tenure("status").output().unwrap();
    let output = status();
    assert_eq!(output.status.code(), Some(1), "{scheme}: {output:?}");
    let mut watch = place.tenure("watch");
    let mut watch = Running::start(watch.arg("--json").stdout(Stdio::piped()));
    let mut lines = BufReader::new(watch.0.stdout.take().unwrap()).lines();
    let mut seen = |wanted: &str| {
        // Who looks on may see nobody, or not know, between two leaders.
        loop {
            let line: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
            assert_eq!(line["lock"], place.lock(), "{scheme}: {line}");
            let leads = line["leader"] == wanted && line["state"] == "led";
            // On some stores it is the first heartbeat that tells the token.
            if let (true, Some(token)) = (leads, line["token"].as_u64()) {
                return token;
            }
        }
    };
    let token = |name: &str| -> u64 { place.line(&format!("token-{name}")).parse().unwrap() };
    // Fails if it ever sees another one at work.
    let script = "exec 9> working; flock -n 9 || exit 99
        trap 'exit 5' TERM
        echo $$ > pid-$TENURE_IDENTITY
        echo $TENURE_TOKEN > token-$TENURE_IDENTITY
        while :; do sleep 0.01 9>&-; done";
    let start = |name: &str| place.start(&["--id", name, "--policy", "fast"], script);

    let mut alice = start("alice");
    let first = token("alice");
    assert_eq!(seen("alice"), first, "{scheme}");
    let output = status();
    assert_eq!(output.status.code(), Some(0), "{scheme}: {output:?}");
    // Where each candidate judges by itself, one look cannot tell that the leader lives.
    let text = stdout(&output);
    let told = text.contains("alice") && text.contains(&format!("token {first}"));
    assert!(told, "{scheme}: {text}");

    // The signal is passed on, the command's code comes back, and the next one runs.
    let mut bob = start("bob");
    alice.signal(Signal::TERM);
    assert_eq!(alice.code(), 5, "{scheme}");
    let second = token("bob");
    assert!(second > first, "{scheme}: {second} after {first}");
    assert_eq!(seen("bob"), second, "{scheme}");

    // Its command does not outlive it, and the next one runs after that.
    let mut carol = start("carol");
    bob.signal(Signal::KILL);
    assert_eq!(bob.code(), 137, "{scheme}");
    until_dead(place.pid("pid-bob"));
    let third = token("carol");
    assert!(third > second, "{scheme}: {third} after {second}");
    assert_eq!(seen("carol"), third, "{scheme}");

    carol.signal(Signal::TERM);
    assert_eq!(carol.code(), 5, "{scheme}");
    until("nobody leads", || status().status.code() == Some(1));
    watch.signal(Signal::TERM);
    assert_eq!(watch.code(), 0, "{scheme}");
    println!("{scheme}: tokens {first}, {second}, {third}");
}
