//! `tenure bench`: what it measures, what it tells, and what it leaves.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod support;

use std::fs;
use std::process::Stdio;

use rustix::process::Signal;
use serde_json::Value;
use support::{Place, Running, stderr, stdout, tenure, until};
#[cfg(feature = "redis")]
use tenure_testkit::redis;

const MEASURES: [&str; 5] = [
    "acquire when free",
    "acquire when taken",
    "renew",
    "release",
    "hand-over, 2 candidates",
];

/// What was told, and that it is all of it.
fn measured(url: &str, more: &[&str]) -> Value {
    let mut bench = tenure();
    bench.args(["bench", "--json", "--backend", url]).args(more);
    // What a store's own settings are worth is no matter here.
    let output = bench.env("TENURE_LOG", "error").output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(stderr(&output), "", "{output:?}");
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    let measures = told["measures"].as_array().unwrap();
    let names: Vec<&str> = measures
        .iter()
        .map(|measure| measure["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, MEASURES, "{told}");
    for measure in measures {
        let number = |name: &str| measure[name].as_f64().unwrap();
        assert!(number("samples") >= 1.0, "{measure}");
        assert!(number("p10_us") > 0.0, "{measure}");
        assert!(number("p10_us") <= number("median_us"), "{measure}");
        assert!(number("median_us") <= number("p90_us"), "{measure}");
        assert!(number("p90_us") <= number("max_us"), "{measure}");
    }
    told
}

fn state_of(url: &str, lock: &str) -> Value {
    let mut status = tenure();
    status.args(["status", "--json", "--backend", url, "--lock", lock]);
    let output = status.env("TENURE_LOG", "error").output().unwrap();
    serde_json::from_slice::<Value>(&output.stdout).unwrap()["state"].clone()
}

#[test]
fn nobody_is_asked_about_memory_and_the_table_is_for_people() {
    assert_eq!(measured("memory:", &[])["store"], "memory");
    let mut bench = tenure();
    let output = bench.args(["bench", "--backend", "memory:"]).output();
    let output = output.unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let table = stdout(&output);
    for word in MEASURES.iter().chain(&["median", "p90", "samples"]) {
        assert!(table.contains(word), "{word}: {table}");
    }
}

#[test]
fn a_file_store_has_its_lock_free_again_and_others_untouched() {
    let place = Place::new();
    let mut other = place.start(&["--lease", support::ENDLESS, "--id", "eve"], "sleep 600");
    place.until_led_by("eve");
    let told = measured(&place.url(), &[]);
    let lock = told["lock"].as_str().unwrap();
    assert!(lock.starts_with("tenure-bench-"), "{told}");
    assert_eq!(state_of(&place.url(), lock), "free");
    assert!(told["left_behind"].as_str().unwrap().contains(lock));
    // Each run has a lock of its own.
    assert_ne!(measured(&place.url(), &[])["lock"], told["lock"]);
    place.until_led_by("eve");
    other.signal(Signal::TERM);
    other.code();
}

#[test]
fn a_signal_ends_it_and_the_lock_is_free() {
    let mut left = vec![Signal::INT, Signal::TERM];
    while let Some(signal) = left.last().copied() {
        let place = Place::new();
        let mut bench = tenure();
        bench.args(["bench", "--backend", &place.url()]);
        bench.stdout(Stdio::null());
        let mut bench = Running::start(&mut bench);
        let lock = || {
            let mut found = fs::read_dir(place.path("store")).ok()?;
            let name = found.find_map(|entry| entry.ok()?.file_name().into_string().ok());
            name.filter(|name| name.starts_with("tenure-bench-"))
        };
        until("it has begun", || lock().is_some());
        bench.signal(signal);
        let code = bench.code();
        if code == 0 {
            // It was over before this test came to the signal.
            continue;
        }
        left.pop();
        assert_eq!(code, 128 + signal.as_raw());
        let state = state_of(&place.url(), &lock().unwrap());
        assert_eq!(state, "free", "after {signal:?}");
    }
}

#[test]
fn a_shared_store_is_not_loaded_without_a_yes() {
    // Nothing listens there: it would say so if it had tried.
    let url = "redis://user:hunter2@127.0.0.1:1";
    let mut bench = tenure();
    // That others see the password is a matter of its own.
    bench.env("TENURE_LOG", "error");
    let output = bench.args(["bench", "--backend", url]).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let complaint = stderr(&output);
    assert!(complaint.contains("--yes"), "{complaint}");
    assert_eq!(complaint.lines().count(), 1, "{complaint}");
    assert!(!complaint.contains("hunter2"), "{complaint}");

    let mut bench = tenure();
    let output = bench.args(["bench", "--yes", "--backend", url]).output();
    let output = output.unwrap();
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(!stderr(&output).contains("--yes"), "{output:?}");
    assert!(!stderr(&output).contains("hunter2"), "{output:?}");
    assert_eq!(stdout(&output), "");
}

#[cfg(feature = "redis")]
#[test]
fn redis_keeps_a_counter_and_nothing_else() {
    let Some(server) = redis::start(&[]) else {
        return;
    };
    let told = measured(&format!("redis://{}", server.address()), &["--yes"]);
    let lock = told["lock"].as_str().unwrap();
    let left = server.text(&["KEYS", "*"]);
    assert_eq!(left.lines().count(), 1, "{left}");
    assert!(left.ends_with(&format!("{{{lock}}}:fence")), "{left}");
    assert!(told["left_behind"].as_str().unwrap().contains(":fence"));
}

#[cfg(feature = "redis")]
mod at_a_terminal {
    use std::fs::File;
    use std::io::{Read as _, Write as _};
    use std::process::{Child, Stdio};
    use std::thread;

    use rustix::pty::{self, OpenptFlags};

    use super::{redis, stdout, tenure};

    /// Starts it at a new terminal; and the person's end of that.
    fn start(url: &str) -> (Child, File) {
        let person = pty::openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        pty::grantpt(&person).unwrap();
        pty::unlockpt(&person).unwrap();
        let name = pty::ptsname(&person, Vec::new()).unwrap();
        let mut options = File::options();
        let program = options.read(true).write(true);
        let program = program.open(name.to_str().unwrap()).unwrap();
        let mut bench = tenure();
        bench.args(["bench", "--json", "--backend", url]);
        bench.env("TENURE_LOG", "error").stdout(Stdio::piped());
        bench.stdin(program.try_clone().unwrap()).stderr(program);
        (bench.spawn().unwrap(), person.into())
    }

    #[test]
    fn a_person_is_asked_first() {
        let Some(server) = redis::start(&[]) else {
            return;
        };
        let url = format!("redis://{}", server.address());
        for (answer, code) in [("n\n", 2), ("\n", 2), ("y\n", 0)] {
            let (bench, mut person) = start(&url);
            let mut shown = String::new();
            while !shown.contains("[y/N]") {
                let mut part = [0; 4096];
                let length = person.read(&mut part).unwrap();
                shown.push_str(&String::from_utf8_lossy(&part[..length]));
            }
            assert!(shown.contains("tenure-bench-"), "{shown}");
            assert_eq!(server.text(&["DBSIZE"]), "0", "{shown}");
            person.write_all(answer.as_bytes()).unwrap();
            // What it says from here on, or its bar would wait for somebody to read it. It ends
            // with an error, when the program's end is closed.
            let reading = thread::spawn(move || person.read_to_end(&mut Vec::new()));
            let output = bench.wait_with_output().unwrap();
            let _ended = reading.join().unwrap();
            assert_eq!(output.status.code(), Some(code), "{answer:?}: {output:?}");
            assert_eq!(stdout(&output).is_empty(), code != 0, "{output:?}");
        }
    }
}
