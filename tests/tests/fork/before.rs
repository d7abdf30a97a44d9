//! A fork before anything is connected.

use crate::worker::{Stage, compete_as, say};

/// A parent that has used the generator in memory, as `tempfile` does, forks three workers. What
/// they draw from a copy of that generator would be the same in each.
pub(crate) fn play(stage: &Stage, with_identities: bool) {
    let used = tempfile::NamedTempFile::new().unwrap();
    for number in 1..=3 {
        if safe_fork::fork().unwrap().is_none() {
            let identity = format!("worker-{number}");
            say("is a worker");
            compete_as(stage, with_identities.then_some(&identity));
            std::process::exit(0);
        }
    }
    // Their ids stay taken until the director has ended them: nobody waits for them here.
    stage.wait_for("end");
    drop(used);
}
