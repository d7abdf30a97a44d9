//! The tutorial does what its pages say: their code is that of two programs, which run.
//! `tenure demo`, the second part, has its test in `tenure-cli`.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

fn read(file: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(folder.join(file)).unwrap()
}

#[test]
fn the_code_of_the_pages_is_the_code_of_the_programs() {
    for (page, file) in [
        ("first-leader.md", "first_leader.rs"),
        ("fence-a-write.md", "fenced_write.rs"),
    ] {
        let source = read(file);
        let code = source.split_once("\n\n").unwrap().1;
        let page = read(&format!("../docs/tutorial/{page}"));
        let block = format!("\n{code}```\n");
        assert!(page.contains(&block), "{file} is:\n{code}");
    }
}

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ended = self.0.kill();
        let _status = self.0.wait();
    }
}

fn candidate(url: &str) -> (Running, impl Iterator<Item = String>) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_first_leader"))
        .env("TENURE_BACKEND", url)
        .env("TENURE_LOCK", "tutorial")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    (Running(child), lines.map(Result::unwrap))
}

#[test]
fn the_second_instance_leads_after_the_first_is_killed() {
    let directory = tempfile::tempdir().unwrap();
    let url = format!("file://{}", directory.path().display());
    let (mut first, mut of_first) = candidate(&url);
    assert!(of_first.next().unwrap().ends_with(" waits"));
    let works = of_first.next().unwrap();
    assert!(works.starts_with("working under fencing token "), "{works}");
    let (_second, mut of_second) = candidate(&url);
    assert!(of_second.next().unwrap().ends_with(" waits"));
    first.0.kill().unwrap();
    let continues = of_second.next().unwrap();
    assert!(continues.starts_with("working under fencing token "));
    assert_ne!(works, continues);
}

#[test]
fn a_late_write_is_refused() {
    let output = Command::new(env!("CARGO_BIN_EXE_fenced_write"))
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let page = read("../docs/tutorial/fence-a-write.md");
    assert!(output.status.success(), "{text}");
    assert!(page.contains(&format!("```text\n{text}```\n")), "{text}");
}
