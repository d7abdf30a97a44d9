//! The file backend within one process: records as others left them, faults, notifications.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::StreamExt as _;
use tenure_core::record::MAX_LEASE;
use tenure_core::{
    Acquired, BootClock, CampaignId, Candidate, Clock as _, ErrorKind, Grant, Hint, Identity,
    LockBackend as _, LockName, Occupancy, Renewal, Time,
};
use tenure_file::{FileBackend, FileConfig, connect};

/// Far longer than any test takes: what becomes free, does so for another reason.
const LONG: Duration = Duration::from_secs(3000);

/// Only so that a test that hangs ends.
const LIMIT: Duration = Duration::from_secs(120);

struct Scene {
    dir: tempfile::TempDir,
    backend: FileBackend,
    /// The same directory, opened apart: to it the first one's writes are those of others.
    other: FileBackend,
    lock: LockName,
}

impl Scene {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = FileConfig::new(dir.path()).unwrap();
        let backend = connect(config.clone()).await.unwrap();
        let other = connect(config).await.unwrap();
        let lock = LockName::new("team.job").unwrap();
        Self {
            dir,
            backend,
            other,
            lock,
        }
    }

    async fn acquire(&self, campaign: u64, lease: Duration) -> Acquired {
        let candidate = candidate(campaign);
        self.backend
            .acquire(&self.lock, &candidate, lease)
            .await
            .unwrap()
    }

    async fn win(&self, campaign: u64, lease: Duration) -> Grant {
        match self.acquire(campaign, lease).await {
            Acquired::Held(grant) => grant,
            other => panic!("not granted: {other:?}"),
        }
    }

    async fn free_in(&self, campaign: u64) -> Duration {
        match self.acquire(campaign, LONG).await {
            Acquired::Taken { free_in, .. } => free_in.unwrap(),
            other => panic!("not taken: {other:?}"),
        }
    }

    fn lock_dir(&self) -> PathBuf {
        self.dir.path().join(self.lock.as_str())
    }

    /// The highest record.
    fn record(&self) -> PathBuf {
        let mut records: Vec<PathBuf> = fs::read_dir(self.lock_dir())
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| name_of(path).starts_with("record-"))
            .collect();
        records.sort();
        records.pop().unwrap()
    }

    /// Changes the highest record as somebody outside would.
    fn tamper(&self, change: impl Fn(&str) -> String) {
        let path = self.record();
        let text = fs::read_to_string(&path).unwrap();
        let changed = change(&text);
        assert_ne!(changed, text, "nothing to change");
        fs::write(&path, changed).unwrap();
    }
}

fn candidate(campaign: u64) -> Candidate {
    let identity = Identity::new(format!("candidate-{campaign}")).unwrap();
    Candidate::new(identity, CampaignId::new(campaign))
}

fn name_of(path: &Path) -> &str {
    path.file_name().unwrap().to_str().unwrap()
}

fn boot_id() -> String {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    id.trim().to_owned()
}

#[tokio::test]
async fn a_term_from_beginning_to_end() {
    let scene = Scene::new().await;
    assert_eq!(
        scene.other.holder(&scene.lock).await.unwrap(),
        Occupancy::Free
    );
    let grant = scene.win(1, LONG).await;
    assert!(scene.free_in(2).await <= LONG);
    let Renewal::Renewed(renewed) = scene.backend.renew(&grant, Time::ZERO).await.unwrap() else {
        panic!("lost");
    };
    assert_eq!(renewed.token, grant.token);
    assert!(renewed.proven_at >= grant.proven_at);
    let Occupancy::Led(holder) = scene.other.holder(&scene.lock).await.unwrap() else {
        panic!("led by candidate 1");
    };
    assert_eq!(holder.identity, "candidate-1");
    assert_eq!(holder.token, Some(grant.token));
    scene.backend.release(&renewed).await.unwrap();
    // Safe to repeat, also after a successor has come.
    scene.backend.release(&renewed).await.unwrap();
    let next = scene.win(2, LONG).await;
    scene.backend.release(&renewed).await.unwrap();
    assert!(next.token > grant.token);
    assert!(matches!(
        scene.backend.renew(&renewed, Time::ZERO).await.unwrap(),
        Renewal::Lost { .. }
    ));
    let left: Vec<String> = fs::read_dir(scene.lock_dir())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    let count = |prefix: &str| left.iter().filter(|name| name.starts_with(prefix)).count();
    assert_eq!(
        (count("record-"), count("alive-"), left.len()),
        (2, 1, 3),
        "{left:?}"
    );
}

#[tokio::test]
async fn a_second_attempt_of_one_campaign_adopts_the_first() {
    let scene = Scene::new().await;
    let first = scene.win(1, LONG).await;
    let second = scene.win(1, LONG).await;
    assert!(second.token > first.token);
    // Nobody was to keep the answer of the first one, but if so it must not renew the second.
    assert!(matches!(
        scene.backend.renew(&first, Time::ZERO).await.unwrap(),
        Renewal::Lost { .. }
    ));
    drop(first);
    assert!(scene.free_in(2).await > Duration::ZERO);
    scene
        .backend
        .withdraw(&scene.lock, &candidate(1))
        .await
        .unwrap();
    scene.win(2, LONG).await;
}

#[tokio::test]
async fn a_dropped_attempt_keeps_nobody_waiting() {
    let scene = Scene::new().await;
    let mut rng = fastrand::Rng::with_seed(7);
    for round in 0..60 {
        let patience = Duration::from_micros(rng.u64(0..3000));
        let candidate = candidate(round);
        let attempt = scene.backend.acquire(&scene.lock, &candidate, LONG);
        // Either way nobody has the grant afterwards.
        drop(tokio::time::timeout(patience, attempt).await);
        let others = async {
            loop {
                if let Acquired::Held(grant) = scene.acquire(1000 + round, LONG).await {
                    return grant;
                }
            }
        };
        let grant = tokio::time::timeout(LIMIT, others).await.unwrap();
        scene.backend.release(&grant).await.unwrap();
    }
}

#[tokio::test]
async fn a_silent_holder_loses_the_lock_at_the_end_of_its_lease_and_not_before() {
    let scene = Scene::new().await;
    let lease = Duration::from_millis(300);
    let silent = scene.win(1, lease).await;
    let next = loop {
        match scene.acquire(2, lease).await {
            Acquired::Held(grant) => break grant,
            Acquired::Taken { free_in, .. } => assert!(free_in.unwrap() <= lease),
            other => panic!("{other:?}"),
        }
    };
    assert!(next.proven_at >= silent.proven_at + lease);
    assert!(matches!(
        scene.backend.renew(&silent, Time::ZERO).await.unwrap(),
        Renewal::Lost { .. }
    ));
}

#[tokio::test]
async fn after_a_reboot_the_lock_is_free_at_once() {
    let scene = Scene::new().await;
    let before = scene.win(1, LONG).await;
    let token = before.token;
    // A reboot closes every file, and starts the boot clock anew.
    drop(before);
    scene.tamper(|text| text.replace(&boot_id(), "00000000-0000-4000-8000-000000000000"));
    assert!(scene.win(2, LONG).await.token > token);
}

#[tokio::test]
async fn a_live_holder_with_another_boot_identifier_is_no_victim() {
    let scene = Scene::new().await;
    let lease = Duration::from_millis(300);
    // Some containers have a boot identifier of their own under the same kernel.
    let alive = scene.win(1, lease).await;
    scene.tamper(|text| text.replace(&boot_id(), "00000000-0000-4000-8000-000000000000"));
    assert!(matches!(
        scene.other.holder(&scene.lock).await.unwrap(),
        Occupancy::Unknown(_)
    ));
    let seen = BootClock.now();
    let next = win_in_time(&scene, 2, lease).await;
    // It is not judged by a clock that may differ, but by how long the record stays as it is.
    assert!(next.proven_at >= alive.proven_at + lease);
    assert!(next.proven_at.since(seen) > Duration::ZERO);
}

async fn win_in_time(scene: &Scene, campaign: u64, lease: Duration) -> Grant {
    let attempts = async {
        loop {
            if let Acquired::Held(grant) = scene.acquire(campaign, lease).await {
                return grant;
            }
        }
    };
    tokio::time::timeout(LIMIT, attempts).await.unwrap()
}

#[tokio::test]
async fn a_holder_in_another_time_namespace_is_judged_by_observation() {
    let scene = Scene::new().await;
    let mut holder = scene.win(1, LONG).await;
    scene.tamper(|text| text.replace("time:[", "time:[9"));
    assert!(matches!(
        scene.other.holder(&scene.lock).await.unwrap(),
        Occupancy::Unknown(_)
    ));
    scene.free_in(2).await;
    match scene.backend.renew(&holder, Time::ZERO).await.unwrap() {
        Renewal::Renewed(renewed) => holder = renewed,
        other => panic!("not renewed: {other:?}"),
    }
    assert!(matches!(
        scene.other.holder(&scene.lock).await.unwrap(),
        Occupancy::Led(_)
    ));
    drop(holder);
    // Its death is seen in any namespace.
    scene.win(2, LONG).await;
}

#[tokio::test]
async fn a_renewal_in_the_future_does_not_keep_the_lock_for_ever() {
    let scene = Scene::new().await;
    let lease = Duration::from_millis(300);
    let _holder = scene.win(1, lease).await;
    scene.tamper(|text| text.replace("\"renewed\":", "\"renewed\":9"));
    win_in_time(&scene, 2, lease).await;
}

#[tokio::test]
async fn a_lease_of_68_years_is_believed_for_an_hour() {
    let scene = Scene::new().await;
    let holder = scene.win(1, LONG).await;
    let (lease, years) = (format!(":{},", LONG.as_millis()), ":2145916800000,");
    scene.tamper(|text| text.replace(&lease, years));
    assert!(scene.free_in(2).await <= MAX_LEASE);
    scene.tamper(|text| text.replace(years, &format!(":{},", u64::MAX)));
    assert!(scene.free_in(2).await <= MAX_LEASE);
    // Its death is noticed all the same.
    drop(holder);
    scene.win(2, LONG).await;
}

type Damage = Box<dyn Fn(&str) -> String>;

/// Ways to damage a record.
fn damages() -> Vec<Damage> {
    let lease = format!(":{},", LONG.as_millis());
    let negative = lease.clone();
    vec![
        Box::new(|_| String::new()),
        Box::new(|_| "\0\0\0\0\0\0\0\0".to_owned()),
        Box::new(|_| "<html>no record</html>".to_owned()),
        Box::new(|text| text[..text.len() / 2].to_owned()),
        Box::new(|_| "x".repeat(1 << 20)),
        Box::new(move |text| text.replace(&lease, ":0,")),
        Box::new(move |text| text.replace(&negative, ":-1,")),
        Box::new(|text| text.replace("\"token\":1", "\"token\":-1")),
    ]
}

#[tokio::test]
async fn an_unreadable_record_is_mended_by_a_live_leader() {
    for damage in damages() {
        let scene = Scene::new().await;
        let leader = scene.win(1, LONG).await;
        scene.tamper(damage);
        // Nobody may take it: the leader may believe in its lease.
        assert!(scene.free_in(2).await <= LONG);
        let occupancy = scene.other.holder(&scene.lock).await.unwrap();
        assert!(matches!(occupancy, Occupancy::Unknown(_)), "{occupancy:?}");
        let renewal = scene.backend.renew(&leader, Time::ZERO).await.unwrap();
        assert!(matches!(renewal, Renewal::Renewed(_)), "{renewal:?}");
        let occupancy = scene.other.holder(&scene.lock).await.unwrap();
        assert!(matches!(occupancy, Occupancy::Led(_)), "{occupancy:?}");
    }
}

#[tokio::test]
async fn an_unreadable_record_replaced_by_a_new_file_is_mended_too() {
    let scene = Scene::new().await;
    let leader = scene.win(1, LONG).await;
    let record = scene.record();
    let other = scene.lock_dir().join("edited");
    fs::write(&other, "garbage").unwrap();
    fs::rename(&other, &record).unwrap();
    let renewal = scene.backend.renew(&leader, Time::ZERO).await.unwrap();
    assert!(matches!(renewal, Renewal::Renewed(_)), "{renewal:?}");
}

#[tokio::test]
async fn an_unreadable_record_of_a_dead_leader_is_free_at_once() {
    for damage in damages() {
        let scene = Scene::new().await;
        let dead = scene.win(1, LONG).await;
        let token = dead.token;
        drop(dead);
        scene.tamper(damage);
        assert!(scene.win(2, LONG).await.token > token);
    }
}

#[tokio::test]
async fn an_unreadable_record_of_a_hanging_leader_is_free_after_its_lease() {
    for damage in damages() {
        let scene = Scene::new().await;
        let lease = Duration::from_millis(200);
        let hanging = scene.win(1, lease).await;
        // Some damages look for the usual lease.
        scene.tamper(|text| text.replace(":200,", &format!(":{},", LONG.as_millis())));
        scene.tamper(damage);
        let next = win_in_time(&scene, 2, lease).await;
        assert!(next.proven_at >= hanging.proven_at + lease);
        assert!(next.token > hanging.token);
    }
}

#[tokio::test]
async fn a_removed_alive_file_makes_nobody_dead() {
    let scene = Scene::new().await;
    let leader = scene.win(1, LONG).await;
    for entry in fs::read_dir(scene.lock_dir()).unwrap() {
        let path = entry.unwrap().path();
        if name_of(&path).starts_with("alive-") {
            fs::remove_file(path).unwrap();
        }
    }
    scene.free_in(2).await;
    let renewal = scene.backend.renew(&leader, Time::ZERO).await.unwrap();
    assert!(matches!(renewal, Renewal::Renewed(_)));
}

#[tokio::test]
async fn a_newer_format_is_unsupported() {
    let scene = Scene::new().await;
    scene.win(1, LONG).await;
    scene.tamper(|text| text.replace("\"format\":1", "\"format\":2"));
    let error = scene
        .backend
        .acquire(&scene.lock, &candidate(2), LONG)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.message().contains("update"), "{error}");
}

#[tokio::test]
async fn a_version_beyond_the_tokens_names_the_file_to_remove() {
    for version in [1 << 48, u64::MAX] {
        let scene = Scene::new().await;
        let grant = scene.win(1, LONG).await;
        scene.backend.release(&grant).await.unwrap();
        let name = format!("record-{version:020}.json");
        let huge = scene.lock_dir().join(&name);
        fs::copy(scene.record(), &huge).unwrap();
        let error = scene
            .backend
            .acquire(&scene.lock, &candidate(2), LONG)
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupted);
        assert!(error.message().contains(&name), "{error}");
        fs::remove_file(huge).unwrap();
        assert!(scene.win(2, LONG).await.token > grant.token);
    }
}

#[tokio::test]
async fn a_removed_lock_is_lost_and_starts_anew() {
    let scene = Scene::new().await;
    let leader = scene.win(1, LONG).await;
    fs::remove_dir_all(scene.lock_dir()).unwrap();
    assert!(matches!(
        scene.backend.renew(&leader, Time::ZERO).await.unwrap(),
        Renewal::Lost { holder: None, .. }
    ));
    scene.backend.release(&leader).await.unwrap();
    assert_eq!(scene.win(2, LONG).await.token.as_u64(), 1);
}

#[tokio::test]
async fn what_is_no_directory_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    let error = connect(FileConfig::new(&file).unwrap()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Misconfigured, "{error}");
    let below = FileConfig::new(file.join("locks")).unwrap();
    let error = connect(below).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Misconfigured, "{error}");

    let missing = FileConfig::new(dir.path().join("a/b")).unwrap();
    let error = connect(missing.clone().create(false)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Misconfigured, "{error}");
    connect(missing).await.unwrap();

    // A link in the place of a lock's directory: nothing is written or removed where it leads.
    let elsewhere = tempfile::tempdir().unwrap();
    let record = elsewhere.path().join("record-00000000000000000001.json");
    fs::write(&record, "kept").unwrap();
    std::os::unix::fs::symlink(elsewhere.path(), dir.path().join("link")).unwrap();
    let backend = connect(FileConfig::new(dir.path()).unwrap()).await.unwrap();
    let link = LockName::new("link").unwrap();
    let attempt = backend.acquire(&link, &candidate(1), LONG).await;
    assert_eq!(attempt.unwrap_err().kind(), ErrorKind::Misconfigured);
    assert_eq!(fs::read_dir(elsewhere.path()).unwrap().count(), 1);

    // A file in the place of a lock's directory.
    let lock = LockName::new("file").unwrap();
    let attempt = backend.acquire(&lock, &candidate(1), LONG).await;
    assert_eq!(attempt.unwrap_err().kind(), ErrorKind::Misconfigured);
}

/// Waits until the lock may be free.
async fn may_be_free(changes: &mut tenure_core::Changes) {
    let wait = async {
        while let Some(hint) = changes.next().await {
            if hint == Hint::MayBeFree {
                return;
            }
        }
        panic!("the hints have ended");
    };
    tokio::time::timeout(LIMIT, wait).await.unwrap();
}

/// Waits until the lock is known to be held.
async fn held(changes: &mut tenure_core::Changes) {
    let wait = async {
        while let Some(hint) = changes.next().await {
            if matches!(hint, Hint::HeldFor(_)) {
                return;
            }
        }
        panic!("the hints have ended");
    };
    tokio::time::timeout(LIMIT, wait).await.unwrap();
}

#[tokio::test]
async fn hints_tell_of_release_death_and_renewal() {
    let scene = Scene::new().await;
    let mut changes = scene.backend.changes(&scene.lock);
    may_be_free(&mut changes).await;
    let leader = scene.win(1, LONG).await;
    held(&mut changes).await;
    scene.backend.release(&leader).await.unwrap();
    may_be_free(&mut changes).await;

    let leader = scene.win(2, LONG).await;
    held(&mut changes).await;
    // All that the death of its process does.
    drop(leader);
    may_be_free(&mut changes).await;

    let leader = scene.win(3, LONG).await;
    held(&mut changes).await;
    let Renewal::Renewed(_leader) = scene.backend.renew(&leader, Time::ZERO).await.unwrap() else {
        panic!("lost");
    };
    held(&mut changes).await;
}

#[tokio::test]
async fn hints_outlive_the_directory() {
    let scene = Scene::new().await;
    let mut changes = scene.backend.changes(&scene.lock);
    let leader = scene.win(1, LONG).await;
    held(&mut changes).await;
    fs::remove_dir_all(scene.lock_dir()).unwrap();
    may_be_free(&mut changes).await;
    drop(leader);
    let leader = scene.win(2, LONG).await;
    held(&mut changes).await;
    drop(leader);
    may_be_free(&mut changes).await;
}

#[tokio::test]
async fn each_of_many_waiting_candidates_is_woken() {
    let scene = Scene::new().await;
    let leader = scene.win(1, LONG).await;
    let mut waiting = Vec::new();
    for _ in 0..20 {
        let mut changes = scene.backend.changes(&scene.lock);
        held(&mut changes).await;
        waiting.push(changes);
    }
    // Some go before it happens.
    waiting.truncate(15);
    drop(leader);
    for mut changes in waiting {
        may_be_free(&mut changes).await;
    }
    // And with the last one the watch; a new one starts again.
    let leader = scene.win(2, LONG).await;
    let mut changes = scene.backend.changes(&scene.lock);
    held(&mut changes).await;
    drop(leader);
    may_be_free(&mut changes).await;
}

#[tokio::test]
async fn a_lazy_backend_touches_the_directory_with_its_first_call() {
    let dir = tempfile::tempdir().unwrap();
    let locks = dir.path().join("a/b");
    let backend = tenure_file::lazy(FileConfig::new(&locks).unwrap()).unwrap();
    assert!(!dir.path().join("a").exists());
    let lock = LockName::new("job").unwrap();
    let acquired = backend.acquire(&lock, &candidate(1), LONG).await.unwrap();
    assert!(matches!(acquired, Acquired::Held(_)), "{acquired:?}");
    assert!(locks.is_dir());
}

/// Its error names the call that failed, not an attempt to connect.
#[tokio::test]
async fn a_lazy_backend_fails_with_the_operation_that_ran() {
    let dir = tempfile::tempdir().unwrap();
    let missing = FileConfig::new(dir.path().join("a/b")).unwrap();
    let backend = tenure_file::lazy(missing.clone().create(false)).unwrap();
    let lock = LockName::new("job").unwrap();
    let error = backend
        .acquire(&lock, &candidate(1), LONG)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Misconfigured, "{error}");
    let error = backend.holder(&lock).await.unwrap_err();
    assert_eq!(error.operation(), tenure_core::Operation::Holder, "{error}");
    // It is looked for again with each call.
    fs::create_dir_all(missing.directory()).unwrap();
    backend.acquire(&lock, &candidate(1), LONG).await.unwrap();
}

/// Others cannot put files there, but a program of the same user may.
#[tokio::test]
async fn files_of_others_in_the_directory_wake_nobody() {
    let scene = Scene::new().await;
    let grant = scene.win(1, LONG).await;
    let mut changes = scene.other.changes(&scene.lock);
    held(&mut changes).await;
    for number in 0..5_000 {
        fs::write(scene.lock_dir().join(format!("other-{number}")), "x").unwrap();
    }
    let heard = async {
        let mut heard = 1;
        while changes.next().await.unwrap() != Hint::MayBeFree {
            heard += 1;
        }
        heard
    };
    let release = async {
        let renewal = scene.backend.renew(&grant, Time::ZERO).await.unwrap();
        assert!(matches!(renewal, Renewal::Renewed(_)), "{renewal:?}");
        scene.backend.release(&grant).await.unwrap();
    };
    let (heard, ()) = tokio::join!(heard, release);
    assert!(heard <= 10, "{heard} hints");
}
