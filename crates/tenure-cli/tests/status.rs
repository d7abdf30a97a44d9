//! `tenure status` and `tenure watch`.

mod support;

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use rustix::process::Signal;
use serde_json::Value;
use support::{ENDLESS, Place, Running, stderr, stdout, until};

#[test]
fn status_tells_the_leader_by_text_json_and_exit_code() {
    let place = Place::new();
    place.make_store();
    let output = place.tenure("status").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(stdout(&output), "nobody leads job\n");
    let output = place.tenure("status").arg("--json").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let free: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(free["lock"], "job");
    assert_eq!(free["state"], "free");
    assert_eq!(free["leader"], Value::Null);
    assert_eq!(free["token"], Value::Null);

    let options = ["--id", "alice", "--lease", ENDLESS];
    let script = "echo $TENURE_TOKEN > token; exec sleep 1000";
    let _alice = place.start(&options, script);
    let token: u64 = place.line("token").parse().unwrap();
    let output = place.tenure("status").output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    let text = stdout(&output);
    let expected = format!("alice leads job, token {token}, ");
    assert!(text.starts_with(&expected), "{text}");
    let output = place.tenure("status").arg("--json").output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(stdout(&output).lines().count(), 1);
    let led: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(led["state"], "led");
    assert_eq!(led["leader"], "alice");
    assert_eq!(led["token"], token);
    assert!(led["expires_in_ms"].as_u64().is_some());
}

/// A mistyped path would read as a free lock.
#[test]
fn a_directory_that_is_not_there_is_told_and_not_made() {
    for command in ["status", "watch"] {
        let place = Place::new();
        let output = place.tenure(command).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        assert!(stderr(&output).contains("does not exist"), "{output:?}");
        assert!(!place.path("store").exists());
    }
}

#[test]
fn watch_tells_each_change_until_interrupted() {
    for signal in [Signal::INT, Signal::TERM] {
        let place = Place::new();
        place.make_store();
        let mut watch = place.tenure("watch");
        let mut watch = Running::start(watch.arg("--json").stdout(Stdio::piped()));
        let mut lines = BufReader::new(watch.0.stdout.take().unwrap()).lines();
        let mut next =
            || -> Value { serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap() };
        assert_eq!(next()["state"], "free");
        let script = "until [ -e end ]; do sleep 0.01; done";
        let mut alice = place.start(&["--id", "alice"], script);
        let led = next();
        assert_eq!(led["state"], "led");
        assert_eq!(led["leader"], "alice");
        assert!(led["token"].as_u64().is_some() && led["time"].is_string());
        std::fs::write(place.path("end"), "").unwrap();
        assert_eq!(alice.code(), 0);
        assert_eq!(next()["state"], "free");
        watch.signal(signal);
        assert_eq!(watch.code(), 0);
    }
}

#[test]
fn watch_ends_quietly_when_nobody_reads_any_more() {
    let place = Place::new();
    place.make_store();
    let mut watch = place.tenure("watch");
    let watch = watch.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut watch = Running::start(watch);
    let mut line = String::new();
    let mut out = BufReader::new(watch.0.stdout.take().unwrap());
    out.read_line(&mut line).unwrap();
    assert!(line.contains("nobody leads job"), "{line}");
    drop(out);
    // Until it has something to tell it cannot notice.
    let mut exited = false;
    until("watch has ended", || {
        assert_eq!(place.run(&[], "exit 0").status().unwrap().code(), Some(0));
        exited = watch.0.try_wait().unwrap().is_some();
        exited
    });
    assert_eq!(watch.code(), 0);
    let mut complaint = String::new();
    let mut errors = BufReader::new(watch.0.stderr.take().unwrap());
    errors.read_line(&mut complaint).unwrap();
    assert_eq!(complaint, "");
}

/// Answers nothing but the question for its version, with which a connection begins.
#[cfg(feature = "kube-lease")]
#[allow(clippy::unwrap_used, reason = "helpers of tests are tests")]
mod silent_store {
    use std::io::{BufRead as _, BufReader, Write as _};
    use std::net::{TcpListener, TcpStream};
    use std::sync::mpsc::{Receiver, Sender, channel};
    use std::thread;

    /// Its URL, and what tells of each question that is not answered.
    pub(crate) fn start() -> (String, Receiver<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (asked, asks) = channel();
        thread::spawn(move || {
            for connection in listener.incoming() {
                let asked = asked.clone();
                thread::spawn(move || serve(&connection.unwrap(), &asked));
            }
        });
        let url = format!("kube-lease://default?server=http://{address}");
        (url, asks)
    }

    fn serve(mut connection: &TcpStream, asked: &Sender<()>) {
        let mut lines = BufReader::new(connection).lines();
        while let Some(Ok(line)) = lines.next() {
            if line.starts_with("GET /version ") {
                let nothing = b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n";
                connection.write_all(nothing).unwrap();
            } else if line.starts_with("GET ") {
                let _nobody_waits = asked.send(());
            }
        }
    }
}

#[cfg(feature = "kube-lease")]
#[test]
fn watch_of_a_store_that_does_not_answer_is_interrupted_all_the_same() {
    for signal in [Signal::INT, Signal::TERM] {
        let (url, asks) = silent_store::start();
        let place = Place::on(&url);
        // It began to wait earlier, so it stops to wait before the other one does by itself.
        let mut status = place.tenure("status");
        let mut status = Running::start(status.stderr(Stdio::null()));
        asks.recv_timeout(tenure_testkit::LIMIT).unwrap();
        let mut watch = Running::start(&mut place.tenure("watch"));
        asks.recv_timeout(tenure_testkit::LIMIT).unwrap();
        watch.signal(signal);
        assert_eq!(watch.code(), 0);
        assert_eq!(status.0.try_wait().unwrap(), None);
    }
}
