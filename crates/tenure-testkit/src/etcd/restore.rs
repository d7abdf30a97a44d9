//! A member restored from a snapshot of its own.

use std::fs;

use crate::etcd::{Cluster, Member};
use crate::process::run;

impl Cluster {
    /// Ends the only member, restores it from a snapshot so that all later revisions are above this
    /// one, and starts it again on its port. Watches from an older revision are told that it is
    /// compacted. The programs have to be of a release with `etcdutl snapshot restore`, 3.6 or
    /// newer.
    pub fn restore_with_revisions_above(&mut self, revision: u64) {
        assert_eq!(self.members.len(), 1);
        let file = self.dir.path().join("snapshot.db");
        let snapshot = file.to_string_lossy().into_owned();
        self.ctl(&["snapshot", "save", &snapshot]);
        let Member { arguments, .. } = &self.members[0];
        // All of these flags mean the same to the member and to the restore.
        let kept = [
            "name",
            "data-dir",
            "initial-cluster",
            "initial-advertise-peer-urls",
        ];
        let kept = kept.map(|flag| format!("--{flag}="));
        let same = arguments
            .iter()
            .filter(|argument| kept.iter().any(|flag| argument.starts_with(flag)));
        let mut restore = self.programs.command("etcdutl");
        restore
            .args(["snapshot", "restore", &snapshot, "--mark-compacted"])
            .arg(format!("--bump-revision={revision}"))
            .args(same);
        self.members[0].kill();
        fs::remove_dir_all(self.dir.path().join("m0")).unwrap();
        run(&mut restore);
        fs::remove_file(file).unwrap();
        self.members[0].restart();
        self.wait();
    }

    /// The revision of the store, as the first member knows it.
    pub fn revision(&self) -> u64 {
        let text = self.ctl(&["endpoint", "status", "-w", "json"]);
        let status: serde_json::Value = serde_json::from_str(&text).unwrap();
        status[0]["Status"]["header"]["revision"].as_u64().unwrap()
    }
}

#[cfg(test)]
mod tests {
    use crate::etcd::start_newer_at;

    #[test]
    fn revisions_of_a_restored_member_begin_where_it_was_told() {
        const BEGIN: u64 = 1_753_647_547_040_000_000;
        let Some(cluster) = start_newer_at(BEGIN) else {
            return;
        };
        let before = cluster.revision();
        assert!(before > BEGIN, "{before}");
        cluster.ctl(&["put", "a", "b"]);
        assert_eq!(cluster.revision(), before + 1);
    }
}
