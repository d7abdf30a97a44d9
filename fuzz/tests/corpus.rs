//! Each target takes every file of its corpus: what was found once is never found again.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::fs;
use std::path::{Path, PathBuf};

use tenure_fuzz::plant;
use tenure_fuzz::target::TARGETS;

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus")
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries =
        fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

/// A file that reached the planted panic would make it no proof that a run finds one.
#[test]
fn each_target_takes_its_whole_corpus_and_none_of_it_reaches_the_planted_panic() {
    for target in TARGETS {
        let files = files(&corpus().join(target.name));
        assert!(files.len() >= 4, "{}: {} files", target.name, files.len());
        for file in files {
            eprintln!("{}", file.display());
            (target.run)(&fs::read(&file).unwrap());
            assert!(!plant::was_reached(), "{}", file.display());
        }
    }
}

#[test]
fn each_folder_of_the_corpus_belongs_to_a_target() {
    for folder in files(&corpus()) {
        let name = folder.file_name().unwrap().to_str().unwrap();
        assert!(
            TARGETS.iter().any(|target| target.name == name),
            "no target is called {name}"
        );
    }
}

#[test]
fn no_target_panics_at_bytes_that_are_no_text() {
    for target in TARGETS {
        for input in [&b""[..], b"\0", b"\xff\xfe\0\n", &[0; 64], &[0xff; 64]] {
            (target.run)(input);
        }
    }
}
