//! Elections and their owners.

use std::sync::Arc;

use shuttle::future::block_on;
use shuttle::sync::atomic::{AtomicUsize, Ordering};
use shuttle::thread;
use tenure_threads::{
    Cause, Election, Error, Leadership, MemoryBackend, Policy, PublishedValue, Spawn, Task,
};

use super::{Hand, identity, join, lock};

/// Runs engines as shuttle's tasks.
#[derive(Debug)]
struct Tasks;

impl Spawn for Tasks {
    fn spawn(&self, task: Task) -> Result<(), Error> {
        drop(shuttle::future::spawn(task));
        Ok(())
    }
}

fn election(backend: &MemoryBackend, name: &str) -> Election {
    Election::builder(Arc::new(backend.clone()), lock())
        .identity(identity(name))
        .policy(Policy::default())
        .spawn_on(Tasks)
        .build()
        .unwrap_or_else(|error| panic!("{error}"))
}

fn elected(election: &Election) -> Leadership {
    block_on(election.campaign()).unwrap_or_else(|error| panic!("{error}"))
}

/// Three threads instruct one engine, and one of them ends it: each gets an answer.
pub(crate) fn instructions_to_one_engine() {
    let backend = MemoryBackend::with_clock(Hand::at(10));
    let election = election(&backend, "one");
    let leadership = Arc::new(elected(&election));
    let publishes = {
        let leadership = leadership.clone();
        thread::spawn(move || {
            let value = PublishedValue::new("here").ok();
            // The term may be over before, which is an answer too.
            let _answer = block_on(leadership.publish(value));
        })
    };
    let confirms = {
        let term = leadership.term();
        thread::spawn(move || {
            let _answer = block_on(term.confirm());
        })
    };
    let term = leadership.term();
    leadership.stop(Cause::Shutdown);
    block_on(term.cancelled());
    match Arc::try_unwrap(leadership) {
        Ok(leadership) => {
            block_on(leadership.resign()).unwrap_or_else(|error| panic!("{error}"));
        }
        // The last of the two gives it back.
        Err(shared) => drop(shared),
    }
    join(publishes);
    join(confirms);
    block_on(term.lost());
    // Whoever asks after the end gets an answer too.
    assert!(block_on(term.confirm()).is_err());
}

/// An engine is dropped by its runtime while somebody asks it.
pub(crate) fn asked_beside_the_end_of_the_engine() {
    let backend = MemoryBackend::with_clock(Hand::at(10));
    let election = election(&backend, "one");
    let leadership = elected(&election);
    let term = leadership.term();
    let asks = thread::spawn(move || {
        for _ in 0..3 {
            let _answer = block_on(term.confirm());
        }
    });
    block_on(leadership.resign()).unwrap_or_else(|error| panic!("{error}"));
    join(asks);
}

/// Two elections on one backend value lead one after the other, woken by a release alone: the
/// clock stands still.
pub(crate) fn two_elections_on_one_backend() {
    let backend = MemoryBackend::with_clock(Hand::at(10));
    let leading = Arc::new(AtomicUsize::new(0));
    let lead = |name: &'static str| {
        let election = election(&backend, name);
        let leading = leading.clone();
        thread::spawn(move || {
            let leadership = elected(&election);
            assert_eq!(leading.fetch_add(1, Ordering::SeqCst), 0, "two lead");
            assert!(leadership.is_valid());
            leading.fetch_sub(1, Ordering::SeqCst);
            block_on(leadership.resign()).unwrap_or_else(|error| panic!("{error}"));
        })
    };
    let (one, other) = (lead("one"), lead("other"));
    join(one);
    join(other);
}
