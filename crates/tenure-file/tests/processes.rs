//! The file backend between processes that are really stopped and killed.
//!
//! A child is this test binary again, running [`child_process`] in the role that an environment
//! variable names. It answers commands, line by line.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use futures_util::StreamExt as _;
use rustix::process::{Pid, Signal, kill_process};
use tenure_core::record::{Record, RecordHolder, RecordStore as _, Step, Written};
use tenure_core::{
    Acquired, BootClock, CampaignId, Candidate, Clock as _, ErrorKind, Grant, Hint, Identity,
    LockBackend as _, LockName, Occupancy, Renewal, Time, random_u64,
};
use tenure_file::{FileBackend, FileConfig, connect};

const ROLE: &str = "TENURE_FILE_TEST_ROLE";
const DIR: &str = "TENURE_FILE_TEST_DIR";
/// Marks the lines that are meant for the parent.
const MARK: &str = "@ ";

/// Far longer than any test takes: what becomes free, does so for another reason.
const LONG: Duration = Duration::from_secs(3000);

/// Only so that a test that hangs ends.
const LIMIT: Duration = Duration::from_secs(120);

// What a child does.

#[test]
fn child_process() {
    let Ok(role) = env::var(ROLE) else {
        return;
    };
    let dir = PathBuf::from(env::var_os(DIR).unwrap());
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        say(&format!("pid {}", std::process::id()));
        match role.as_str() {
            "serve" => serve(&dir).await,
            "count" => count(&dir).await,
            "lead" => lead(&dir).await,
            "full" => full(&dir).await,
            "unwatched" => unwatched(&dir).await,
            "starved" => starved(&dir).await,
            _ => panic!("no role {role}"),
        }
    });
}

fn say(line: &str) {
    // Past the test harness, which would keep it until the end.
    let mut out = std::io::stdout().lock();
    writeln!(out, "{MARK}{line}").unwrap();
    out.flush().unwrap();
}

fn next_command() -> Option<String> {
    let mut line = String::new();
    let read = std::io::stdin().lock().read_line(&mut line).unwrap();
    (read > 0).then(|| line.trim().to_owned())
}

fn lock() -> LockName {
    LockName::new("team.job").unwrap()
}

fn candidate(name: &str, campaign: u64) -> Candidate {
    Candidate::new(Identity::new(name).unwrap(), CampaignId::new(campaign))
}

fn own_candidate() -> Candidate {
    let identity = format!("child-{}", std::process::id());
    candidate(&identity, random_u64().unwrap())
}

async fn backend(dir: &Path) -> FileBackend {
    connect(FileConfig::new(dir).unwrap()).await.unwrap()
}

/// Does what it is told and says what came of it.
async fn serve(dir: &Path) {
    let mut opened: Option<FileBackend> = None;
    let mut held: Option<Grant> = None;
    while let Some(command) = next_command() {
        let (command, argument) = command.split_once(' ').unwrap_or((&command, ""));
        let outcome = match (command, &opened, &held) {
            ("open", ..) => {
                let mut config = FileConfig::new(dir).unwrap();
                if !argument.is_empty() {
                    config = config.group(argument).unwrap();
                }
                match connect(config).await {
                    Ok(backend) => {
                        opened = Some(backend);
                        "opened".to_owned()
                    }
                    Err(error) => format!("{:?} {}", error.kind(), error.message()),
                }
            }
            ("acquire", Some(backend), _) => {
                let lease = Duration::from_millis(argument.parse().unwrap());
                match backend.acquire(&lock(), &own_candidate(), lease).await {
                    Ok(Acquired::Held(grant)) => {
                        let said = format!("held {} {}", grant.token, grant.proven_at.as_nanos());
                        held = Some(grant);
                        said
                    }
                    Ok(_) => "taken".to_owned(),
                    Err(error) => format!("{:?} {}", error.kind(), error.message()),
                }
            }
            ("renew", Some(backend), Some(grant)) => {
                match backend.renew(grant, Time::ZERO).await.unwrap() {
                    Renewal::Renewed(grant) => {
                        held = Some(grant);
                        "renewed".to_owned()
                    }
                    _ => "lost".to_owned(),
                }
            }
            ("release", Some(backend), Some(grant)) => {
                backend.release(grant).await.unwrap();
                "released".to_owned()
            }
            ("holder", Some(backend), _) => match backend.holder(&lock()).await {
                Ok(Occupancy::Led(holder) | Occupancy::Unknown(holder)) => {
                    format!("holder {}", holder.identity)
                }
                Ok(_) => "free".to_owned(),
                Err(error) => format!("{:?} {}", error.kind(), error.message()),
            },
            other => panic!("{other:?}"),
        };
        say(&outcome);
    }
}

/// Counts up in the record's value, as often as it is told.
async fn count(dir: &Path) {
    let backend = backend(dir).await;
    let store = backend.store();
    let own = std::process::id().to_string();
    let times: u64 = next_command().unwrap().parse().unwrap();
    for number in 1..=times {
        loop {
            let found = store.get(&lock()).await.unwrap().unwrap();
            let mut counts = counts_of(&found.record);
            let count = counts.get(&own).copied().unwrap_or(0);
            // An earlier attempt may have been applied although a successor was quicker than
            // the answer.
            if count == number {
                break;
            }
            assert_eq!(count, number - 1, "lost: {counts:?}");
            counts.insert(own.clone(), number);
            let record = record_of(&counts);
            let written = store.replace(&lock(), &record, Step::Renew, &found).await;
            if let Written::Applied(_) = written.unwrap() {
                break;
            }
        }
        say("counted");
    }
    say("done");
}

fn counts_of(record: &Record) -> BTreeMap<String, u64> {
    let value = record
        .holder
        .as_ref()
        .and_then(|holder| holder.value.clone());
    value
        .unwrap_or_default()
        .split_whitespace()
        .filter_map(|entry| entry.split_once('='))
        .map(|(name, count)| (name.to_owned(), count.parse().unwrap()))
        .collect()
}

fn record_of(counts: &BTreeMap<String, u64>) -> Record {
    let value: Vec<String> = counts
        .iter()
        .map(|(name, count)| format!("{name}={count}"))
        .collect();
    Record::new(
        Some(RecordHolder::new("count".to_owned()).with_value(Some(value.join(" ")))),
        LONG,
    )
}

/// Leads again and again, and says when and with which token.
async fn lead(dir: &Path) {
    let backend = backend(dir).await;
    let mut changes = backend.changes(&lock());
    loop {
        let grant = match backend.acquire(&lock(), &own_candidate(), LONG).await {
            Ok(Acquired::Held(grant)) => grant,
            Ok(_) => {
                while changes.next().await.unwrap() != Hint::MayBeFree {}
                continue;
            }
            // The others are just as fast.
            Err(error) if error.kind() == ErrorKind::Conflict => continue,
            Err(error) => panic!("{error}"),
        };
        say(&format!(
            "from {} {}",
            grant.token,
            BootClock.now().as_nanos()
        ));
        for _ in 0..fastrand::u8(..3) {
            tokio::task::yield_now().await;
        }
        say(&format!(
            "to {} {}",
            grant.token,
            BootClock.now().as_nanos()
        ));
        backend.release(&grant).await.unwrap();
    }
}

/// Leads on a small file system that becomes full.
async fn full(dir: &Path) {
    let size = "size=256k";
    let mount = Command::new("mount")
        .args(["-t", "tmpfs", "-o", size, "tmpfs"])
        .arg(dir)
        .output();
    if !mount.is_ok_and(|output| output.status.success()) {
        say("not permitted");
        return;
    }
    let backend = backend(dir).await;
    let Acquired::Held(grant) = backend
        .acquire(&lock(), &own_candidate(), LONG)
        .await
        .unwrap()
    else {
        panic!("nobody else is there");
    };
    let ballast = dir.join("ballast");
    let filled = fs::write(&ballast, vec![1; 1 << 20]).unwrap_err();
    assert_eq!(filled.kind(), std::io::ErrorKind::StorageFull);

    let error = backend.renew(&grant, Time::ZERO).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(error.is_retryable());
    assert!(error.message().contains("free some space"), "{error}");
    let error = backend.release(&grant).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    // Nobody is misled meanwhile, and nothing is left lying about.
    assert!(matches!(
        backend.holder(&lock()).await.unwrap(),
        Occupancy::Led(_)
    ));
    let left = fs::read_dir(dir.join("team.job")).unwrap().filter(|entry| {
        let name = entry.as_ref().unwrap().file_name();
        name.to_string_lossy().starts_with("tmp-")
    });
    assert_eq!(left.count(), 0);
    // The dead leader's successor cannot be elected either: an error, not a wait.
    fs::remove_file(&ballast).unwrap();
    let renewal = backend.renew(&grant, Time::ZERO).await.unwrap();
    assert!(matches!(renewal, Renewal::Renewed(_)), "{renewal:?}");
    say("done");
}

/// Waits for changes where the system grants no more watchers.
async fn unwatched(dir: &Path) {
    let flags = rustix::fs::inotify::CreateFlags::CLOEXEC;
    let mut taken = Vec::new();
    while let Ok(instance) = rustix::fs::inotify::init(flags) {
        taken.push(instance);
    }
    let backend = backend(dir).await;
    assert!(backend.changes(&lock()).next().await.is_none());
    // The next one ends as quietly, and everything else works.
    assert!(backend.changes(&lock()).next().await.is_none());
    backend.holder(&lock()).await.unwrap();
    say("done");
}

/// Works where the system gives no thread and no descriptor more.
async fn starved(dir: &Path) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

    let backend = backend(dir).await;
    let grant = backend.acquire(&lock(), &own_candidate(), LONG).await;
    let Ok(Acquired::Held(grant)) = grant else {
        panic!("nobody else is there");
    };
    let mut changes = backend.changes(&lock());
    changes.next().await.unwrap();
    for (resource, advice) in [
        (Resource::Nproc, "ulimit -u"),
        (Resource::Nofile, "ulimit -n"),
    ] {
        let before = getrlimit(resource);
        let nothing = Rlimit {
            current: Some(0),
            ..before
        };
        setrlimit(resource, nothing).unwrap();
        let error = backend.renew(&grant, Time::ZERO).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        assert!(error.message().contains(advice), "{error}");
        // A watch that cannot be had, and one that is given up.
        let _hint = backend.changes(&lock()).next().await;
        let other = FileConfig::new(dir.join("other")).unwrap();
        connect(other).await.unwrap_err();
        setrlimit(resource, before).unwrap();
    }
    let renewal = backend.renew(&grant, Time::ZERO).await.unwrap();
    assert!(matches!(renewal, Renewal::Renewed(_)), "{renewal:?}");
    let nothing = Rlimit {
        current: Some(0),
        ..getrlimit(Resource::Nofile)
    };
    setrlimit(Resource::Nofile, nothing).unwrap();
    drop(changes);
    drop(backend);
    say("done");
}

// How a parent handles one.

struct Kid {
    process: Child,
    input: ChildStdin,
    lines: Receiver<String>,
    /// Its own, also when another program stands between.
    pid: Pid,
}

impl Kid {
    fn start(role: &str, dir: &Path) -> Self {
        Self::start_with(&[], role, dir).expect("the test binary starts")
    }

    /// Starts a child by way of a program that runs another; `None` if it does not.
    fn start_with(wrapper: &[&str], role: &str, dir: &Path) -> Option<Self> {
        let own = env::current_exe().unwrap();
        Self::start_binary(&own, wrapper, role, dir)
    }

    fn start_binary(binary: &Path, wrapper: &[&str], role: &str, dir: &Path) -> Option<Self> {
        let mut command = match wrapper.split_first() {
            Some((program, arguments)) => {
                let mut command = Command::new(program);
                command.args(arguments).arg(binary);
                command
            }
            None => Command::new(binary),
        };
        let mut process = command
            .args(["--exact", "child_process", "--nocapture"])
            .env(ROLE, role)
            .env(DIR, dir)
            .env_remove("TMPDIR")
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .ok()?;
        let input = process.stdin.take()?;
        let output = BufReader::new(process.stdout.take()?);
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                // The harness may have begun the line.
                if let Some((_, said)) = line.split_once(MARK)
                    && sender.send(said.to_owned()).is_err()
                {
                    return;
                }
            }
        });
        let mut kid = Self {
            process,
            input,
            lines,
            pid: Pid::INIT,
        };
        let Ok(said) = kid.lines.recv_timeout(LIMIT) else {
            let _ended = kid.process.kill();
            return None;
        };
        let pid = said.strip_prefix("pid ").unwrap().parse().unwrap();
        kid.pid = Pid::from_raw(pid).unwrap();
        Some(kid)
    }

    fn hear(&self) -> String {
        self.lines.recv_timeout(LIMIT).expect("the child answers")
    }

    fn tell(&mut self, command: &str) {
        writeln!(self.input, "{command}").unwrap();
    }

    fn ask(&mut self, command: &str) -> String {
        self.tell(command);
        self.hear()
    }

    /// Its token and its proof.
    fn acquire(&mut self, lease: Duration) -> (u64, Time) {
        assert_eq!(self.ask("open"), "opened");
        let said = self.ask(&format!("acquire {}", lease.as_millis()));
        let words: Vec<&str> = said.split(' ').collect();
        assert_eq!(words[0], "held", "{said}");
        let proven_at = Time::from_nanos(words[2].parse().unwrap());
        (words[1].parse().unwrap(), proven_at)
    }

    fn signal(&self, signal: Signal) {
        kill_process(self.pid, signal).unwrap();
    }

    /// Stops it, and returns when it stands still.
    fn stop(&self) {
        self.signal(Signal::STOP);
        let tasks = format!("/proc/{}/task", self.pid);
        while fs::read_dir(&tasks).unwrap().any(|task| {
            let stat = fs::read_to_string(task.unwrap().path().join("stat")).unwrap_or_default();
            // The state follows the name in parentheses.
            stat.rsplit_once(") ")
                .is_some_and(|(_, rest)| !rest.starts_with('T'))
        }) {
            std::thread::yield_now();
        }
    }

    fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.process.wait().unwrap();
    }
}

impl Drop for Kid {
    fn drop(&mut self) {
        let _gone = kill_process(self.pid, Signal::KILL);
        let _gone = self.process.kill();
        let _ended = self.process.wait();
    }
}

/// Wins the lock as a waiting candidate does: looking when hinted, and not otherwise.
async fn win_when_hinted(backend: &FileBackend, changes: &mut tenure_core::Changes) -> Grant {
    let campaign = candidate("parent", random_u64().unwrap());
    let wait = async {
        loop {
            if let Acquired::Held(grant) = backend.acquire(&lock(), &campaign, LONG).await.unwrap()
            {
                return grant;
            }
            while changes.next().await.expect("hints go on") != Hint::MayBeFree {}
        }
    };
    tokio::time::timeout(LIMIT, wait).await.expect("in time")
}

async fn until_held(changes: &mut tenure_core::Changes) {
    let wait = async { while changes.next().await.expect("hints go on") == Hint::MayBeFree {} };
    tokio::time::timeout(LIMIT, wait).await.expect("in time");
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn left_out(what: &str, why: &str) {
    // To stderr itself: the harness would keep it from whoever should know.
    let line = format!("\n*** LEFT OUT: {what}: {why} ***\n");
    assert!(env::var_os("TENURE_TEST_STRICT").is_none(), "{line}");
    let _unheard = std::io::stderr().write_all(line.as_bytes());
}

// The tests.

#[tokio::test]
async fn a_killed_leader_is_noticed_though_its_lease_is_far_from_over() {
    let dir = tempfile::tempdir().unwrap();
    let backend = backend(dir.path()).await;
    let mut last = 0;
    for _ in 0..10 {
        let mut kid = Kid::start("serve", dir.path());
        let (token, _) = kid.acquire(LONG);
        assert!(token > last);
        let mut changes = backend.changes(&lock());
        until_held(&mut changes).await;
        let before = backend
            .acquire(&lock(), &candidate("parent", 1), LONG)
            .await
            .unwrap();
        assert!(matches!(before, Acquired::Taken { .. }));
        kid.kill();
        let grant = win_when_hinted(&backend, &mut changes).await;
        assert!(grant.token.as_u64() > token);
        last = grant.token.as_u64();
        backend.release(&grant).await.unwrap();
    }
}

#[tokio::test]
async fn a_release_wakes_a_waiting_candidate_of_another_process() {
    let dir = tempfile::tempdir().unwrap();
    let backend = backend(dir.path()).await;
    let mut kid = Kid::start("serve", dir.path());
    let (token, _) = kid.acquire(LONG);
    let mut changes = backend.changes(&lock());
    until_held(&mut changes).await;
    kid.tell("release");
    let grant = win_when_hinted(&backend, &mut changes).await;
    assert_eq!(kid.hear(), "released");
    assert!(grant.token.as_u64() > token);
    assert_eq!(kid.ask("renew"), "lost");
}

#[tokio::test]
async fn a_stopped_leader_loses_the_lock_when_its_lease_ends() {
    let dir = tempfile::tempdir().unwrap();
    let backend = backend(dir.path()).await;
    let lease = Duration::from_secs(1);
    let mut kid = Kid::start("serve", dir.path());
    let (token, proven_at) = kid.acquire(lease);
    kid.signal(Signal::STOP);
    let campaign = candidate("parent", 1);
    let attempts = async {
        loop {
            let attempt = backend.acquire(&lock(), &campaign, LONG).await;
            if let Acquired::Held(grant) = attempt.unwrap() {
                return grant;
            }
        }
    };
    let grant = tokio::time::timeout(LIMIT, attempts).await.unwrap();
    assert!(grant.proven_at >= proven_at + lease, "too early");
    assert!(grant.token.as_u64() > token);
    kid.signal(Signal::CONT);
    assert_eq!(kid.ask("renew"), "lost");
    // Nor does it give up what is not its own.
    assert_eq!(kid.ask("release"), "released");
    let renewal = backend.renew(&grant, Time::ZERO).await.unwrap();
    assert!(matches!(renewal, Renewal::Renewed(_)));
}

#[tokio::test]
async fn a_process_stopped_at_any_point_holds_nobody_up() {
    let dir = tempfile::tempdir().unwrap();
    let kids = start_counting(2, u64::from(u32::MAX), dir.path()).await;
    let mut rng = fastrand::Rng::with_seed(11);
    for round in 0..60 {
        let (stopped, other) = (round % 2, 1 - round % 2);
        kids[stopped].stop();
        while kids[other].lines.try_recv().is_ok() {}
        for _ in 0..5 {
            assert_eq!(kids[other].hear(), "counted");
        }
        kids[stopped].signal(Signal::CONT);
        while kids[stopped].lines.try_recv().is_ok() {}
        // Somewhere else in its loop each time.
        for _ in 0..rng.u8(1..5) {
            assert_eq!(kids[stopped].hear(), "counted");
        }
    }
}

#[tokio::test]
async fn terms_of_killed_processes_never_overlap_and_tokens_rise() {
    let dir = tempfile::tempdir().unwrap();
    let mut kids: Vec<Kid> = (0..3).map(|_| Kid::start("lead", dir.path())).collect();
    let mut terms: BTreeMap<u64, (u64, Option<u64>)> = BTreeMap::new();
    let mut note = |said: String| {
        let words: Vec<&str> = said.split(' ').collect();
        let (token, at) = (words[1].parse().unwrap(), words[2].parse().unwrap());
        if words[0] == "from" {
            assert!(
                terms.insert(token, (at, None)).is_none(),
                "token {token} twice"
            );
        } else {
            terms.get_mut(&token).unwrap().1 = Some(at);
        }
    };
    let mut rng = fastrand::Rng::with_seed(5);
    for round in 0..60 {
        // Each round somebody is elected, whomever death has struck.
        note(kids[round % 3].hear());
        for _ in 0..rng.u8(..10) {
            note(kids[rng.usize(..3)].hear());
        }
        let victim = rng.usize(..3);
        kids[victim].kill();
        let killed = std::mem::replace(&mut kids[victim], Kid::start("lead", dir.path()));
        for said in &killed.lines {
            note(said);
        }
    }
    for kid in &mut kids {
        kid.kill();
        for said in &kid.lines {
            note(said);
        }
    }
    // In the order of their tokens each begins after the one before has said its end.
    let mut last_end = 0;
    for (token, (from, to)) in &terms {
        assert!(*from > last_end, "term {token} overlaps the one before");
        last_end = to.unwrap_or(*from);
    }
    assert!(terms.len() >= 60, "{} terms", terms.len());
}

async fn start_counting(processes: u64, times: u64, dir: &Path) -> Vec<Kid> {
    let backend = backend(dir).await;
    let empty = record_of(&BTreeMap::new());
    backend.store().create(&lock(), &empty).await.unwrap();
    let mut kids: Vec<Kid> = (0..processes).map(|_| Kid::start("count", dir)).collect();
    for kid in &mut kids {
        kid.tell(&times.to_string());
    }
    kids
}

#[tokio::test]
async fn processes_that_count_lose_no_count() {
    const PROCESSES: u64 = 4;
    const TIMES: u64 = 150;
    let dir = tempfile::tempdir().unwrap();
    for kid in start_counting(PROCESSES, TIMES, dir.path()).await {
        while kid.hear() != "done" {}
    }
    let backend = backend(dir.path()).await;
    let store = backend.store();
    let found = store.get(&lock()).await.unwrap().unwrap();
    let counts = counts_of(&found.record);
    let total: u64 = counts.values().sum();
    assert_eq!(total, PROCESSES * TIMES, "{counts:?}");
    // Each count is one version.
    assert_eq!(found.version, 1 + PROCESSES * TIMES);
}

/// Starts a child whose boot clock is another one; `None`, loudly, where there cannot be one.
fn start_in_another_time(what: &str, dir: &Path) -> Option<Kid> {
    let wrapper = ["unshare", "-T", "-f", "--boottime", "100000"];
    let may = Command::new(wrapper[0])
        .args(&wrapper[1..])
        .arg("true")
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if !may {
        left_out(what, "unshare -T --boottime is not permitted here");
        return None;
    }
    let kid = Kid::start_with(&wrapper, "serve", dir).expect("the child starts");
    Some(kid)
}

#[tokio::test]
async fn a_leader_in_another_time_namespace_is_not_judged_by_our_clock() {
    let dir = tempfile::tempdir().unwrap();
    let what = "a leader in a real time namespace";
    let Some(mut kid) = start_in_another_time(what, dir.path()) else {
        return;
    };
    let (token, proven_at) = kid.acquire(LONG);
    assert!(proven_at > BootClock.now() + Duration::from_secs(50_000));
    let backend = backend(dir.path()).await;
    let occupancy = backend.holder(&lock()).await.unwrap();
    assert!(matches!(occupancy, Occupancy::Unknown(_)), "{occupancy:?}");
    let mut changes = backend.changes(&lock());
    until_held(&mut changes).await;
    kid.signal(Signal::KILL);
    let grant = win_when_hinted(&backend, &mut changes).await;
    assert!(grant.token.as_u64() > token);
}

/// The versions of a lock's record begin again when its directory was removed: another leader's
/// record can have the number that was seen before. Its lease has not run since then.
#[tokio::test]
async fn a_record_written_again_in_another_time_namespace_is_a_new_one() {
    let dir = tempfile::tempdir().unwrap();
    let what = "a record written again in a real time namespace";
    let Some(mut kid) = start_in_another_time(what, dir.path()) else {
        return;
    };
    let lease = Duration::from_secs(3);
    kid.acquire(lease);
    let backend = backend(dir.path()).await;
    let seen_at = BootClock.now();
    let look = || async {
        let found = backend.store().get(&lock()).await.unwrap().unwrap();
        let campaign = found.record.holder.and_then(|holder| holder.campaign);
        (found.version, campaign)
    };
    let occupancy = backend.holder(&lock()).await.unwrap();
    assert!(matches!(occupancy, Occupancy::Unknown(_)), "{occupancy:?}");
    let (version, campaign) = look().await;

    // The first one has ended its work well before the second one begins.
    assert_eq!(kid.ask("release"), "released");
    fs::remove_dir_all(dir.path().join(lock().as_str())).unwrap();
    while BootClock.now() < seen_at + lease + Duration::from_secs(1) {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    kid.acquire(lease);
    let (again, other) = look().await;
    assert_eq!(again, version, "the version repeats");
    assert_ne!(other, campaign, "and it is another campaign's");
    let attempt = backend
        .acquire(&lock(), &candidate("parent", 1), LONG)
        .await;
    let attempt = attempt.unwrap();
    assert!(matches!(attempt, Acquired::Taken { .. }), "{attempt:?}");
    assert_eq!(kid.ask("renew"), "renewed");
}

#[test]
fn a_full_disk_is_an_error_to_retry() {
    let dir = tempfile::tempdir().unwrap();
    // In a mount namespace of its own, so that nothing is left mounted.
    let kid = Kid::start_with(&["unshare", "-m"], "full", dir.path());
    match kid.map(|kid| kid.hear()).as_deref() {
        Some("done") => {}
        Some(other) => left_out("a full disk", other),
        None => left_out("a full disk", "unshare -m is not permitted here"),
    }
}

/// A child without any privilege; `None`, loudly, where there cannot be one.
fn start_unprivileged(what: &str, role: &str, dir: &Path, place: &Path) -> Option<Kid> {
    start_of_group(65534, what, role, dir, place)
}

fn start_of_group(group: u32, what: &str, role: &str, dir: &Path, place: &Path) -> Option<Kid> {
    start_as([65534, group], what, role, dir, place)
}

/// A child of this user and group.
fn start_as(ids: [u32; 2], what: &str, role: &str, dir: &Path, place: &Path) -> Option<Kid> {
    if !is_root() {
        left_out(what, "it takes root to start a process of another user");
        return None;
    }
    // Where the other user gets at it.
    let binary = place.join("child");
    fs::copy(env::current_exe().unwrap(), &binary).unwrap();
    set_mode(place, 0o755);
    let [user, group] = ids;
    let (user, group) = (format!("--reuid={user}"), format!("--regid={group}"));
    let wrapper = ["setpriv", &user, &group, "--clear-groups"];
    let kid = Kid::start_binary(&binary, &wrapper, role, dir);
    if kid.is_none() {
        left_out(what, "setpriv does not start a process of another user");
    }
    kid
}

fn set_mode(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[tokio::test]
async fn an_observer_needs_no_right_to_write_and_a_candidate_is_told_what_it_lacks() {
    let (dir, place) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    set_mode(dir.path(), 0o755);
    // As versions before made them: what is made now is its owner's alone.
    fs::create_dir(dir.path().join("team.job")).unwrap();
    set_mode(&dir.path().join("team.job"), 0o755);
    let backend = backend(dir.path()).await;
    let what = "a process without the permissions";
    let Some(mut kid) = start_unprivileged(what, "serve", dir.path(), place.path()) else {
        return;
    };
    assert_eq!(kid.ask("open"), "opened");
    assert_eq!(kid.ask("holder"), "free");
    let refused = kid.ask("acquire 1000");
    assert!(refused.starts_with("Forbidden"), "{refused}");
    assert!(refused.contains("?group=NAME"), "{refused}");

    let leader = candidate("parent", 1);
    let Acquired::Held(grant) = backend.acquire(&lock(), &leader, LONG).await.unwrap() else {
        panic!("nobody else can");
    };
    assert_eq!(kid.ask("holder"), "holder parent");
    let refused = kid.ask("acquire 1000");
    assert_eq!(refused, "taken");
    backend.release(&grant).await.unwrap();
    assert_eq!(kid.ask("holder"), "free");
    let refused = kid.ask("acquire 1000");
    assert!(refused.starts_with("Forbidden"), "{refused}");

    set_mode(dir.path(), 0o700);
    let refused = kid.ask("open");
    assert!(refused.starts_with("Forbidden"), "{refused}");
    assert!(refused.contains("?group=NAME"), "{refused}");
    // Listing alone does not do.
    set_mode(dir.path(), 0o744);
    let refused = kid.ask("open");
    assert!(refused.starts_with("Forbidden"), "{refused}");
    set_mode(dir.path(), 0o700);
    let refused = kid.ask("holder");
    assert!(refused.starts_with("Forbidden"), "{refused}");
}

#[test]
fn without_watchers_the_hints_end() {
    let (dir, place) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    set_mode(dir.path(), 0o777);
    let what = "a system without watchers";
    // Watchers are counted for each user, and this one takes all that its user may have.
    let ids = [65533, 65534];
    if let Some(kid) = start_as(ids, what, "unwatched", dir.path(), place.path()) {
        assert_eq!(kid.hear(), "done");
    }
}

#[test]
fn without_threads_or_descriptors_there_are_errors_and_no_panic() {
    let (dir, place) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let own = dir.path().join("locks");
    fs::create_dir(&own).unwrap();
    set_mode(dir.path(), 0o755);
    std::os::unix::fs::chown(&own, Some(65534), None).ok();
    let what = "a system without threads";
    if let Some(kid) = start_unprivileged(what, "starved", &own, place.path()) {
        assert_eq!(kid.hear(), "done");
    }
}

fn mode_of(path: &Path) -> u32 {
    use std::os::unix::fs::MetadataExt as _;
    fs::symlink_metadata(path).unwrap().mode() & 0o7777
}

/// The modes of all files of the lock, each once.
fn modes_of_files(dir: &Path) -> std::collections::BTreeSet<u32> {
    let files = fs::read_dir(dir.join("team.job")).unwrap();
    files.map(|file| mode_of(&file.unwrap().path())).collect()
}

#[test]
fn what_is_made_is_its_owners_alone_whatever_the_umask() {
    for umask in ["000", "022", "077"] {
        let dir = tempfile::tempdir().unwrap();
        let own = dir.path().join("parent").join("locks");
        let set = format!("umask {umask}; exec \"$@\"");
        let mut kid = Kid::start_with(&["sh", "-c", &set, "sh"], "serve", &own).unwrap();
        assert_eq!(kid.ask("open"), "opened");
        assert!(kid.ask("acquire 60000").starts_with("held"));
        assert_eq!(kid.ask("renew"), "renewed");
        let lock = own.join("team.job");
        assert_eq!((mode_of(&own), mode_of(&lock)), (0o700, 0o700), "{umask}");
        assert_eq!(Vec::from_iter(modes_of_files(&own)), [0o600], "{umask}");
    }
}

#[tokio::test]
async fn a_group_shares_locks_when_it_is_asked_for() {
    const GROUP: u32 = 54_321;
    let (dir, place) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    set_mode(dir.path(), 0o755);
    let own = dir.path().join("locks");
    let what = "a group of two users";
    let Some(mut member) = start_of_group(GROUP, what, "serve", &own, place.path()) else {
        return;
    };
    // Another user's directory is not trusted until the group is asked for, nor is another group.
    let open = format!("open {GROUP}");
    let config = || FileConfig::new(&own).unwrap();
    let shared = connect(config().group(GROUP.to_string()).unwrap())
        .await
        .unwrap();
    assert_eq!(mode_of(&own), 0o2770);
    let leader = candidate("parent", 1);
    let Acquired::Held(grant) = shared.acquire(&lock(), &leader, LONG).await.unwrap() else {
        panic!("nobody else is there");
    };
    assert_eq!(mode_of(&own.join("team.job")), 0o2770);
    assert_eq!(Vec::from_iter(modes_of_files(&own)), [0o660]);
    assert_eq!(member.ask(&open), "opened");
    assert_eq!(member.ask("holder"), "holder parent");
    assert_eq!(member.ask("acquire 60000"), "taken");
    shared.release(&grant).await.unwrap();
    assert!(member.ask("acquire 60000").starts_with("held"));
    assert_eq!(Vec::from_iter(modes_of_files(&own)), [0o660]);
    assert!(shared.holder(&lock()).await.unwrap() != Occupancy::Free);
    assert_eq!(member.ask("release"), "released");
    let refused = member.ask("open 65534");
    assert!(refused.starts_with("Misconfigured"), "{refused}");
    assert!(refused.contains("chgrp -R 65534"), "{refused}");
}

#[tokio::test]
async fn what_another_user_could_change_is_refused() {
    use std::os::unix::fs::{chown, lchown, symlink};

    if !is_root() {
        return left_out("another user's directory", "it takes root to give one away");
    }
    let place = tempfile::tempdir().unwrap();
    let at = |name: &str| place.path().join(name);
    let refused = async |path: &Path| {
        let backend = match connect(FileConfig::new(path).unwrap()).await {
            Err(error) => return error.message().to_owned(),
            Ok(backend) => backend,
        };
        let checks = backend.checks(&lock(), LONG).await;
        let check = checks.iter().find(|check| check.name == "sharing").unwrap();
        assert_eq!(check.verdict, tenure_core::Verdict::Unusable, "{check:?}");
        let error = backend
            .acquire(&lock(), &own_candidate(), LONG)
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Misconfigured, "{error}");
        assert!(backend.holder(&lock()).await.is_err());
        error.message().to_owned()
    };

    let base = at("base");
    fs::create_dir(&base).unwrap();
    chown(&base, Some(65534), None).unwrap();
    let message = refused(&base).await;
    assert!(message.contains("belongs to user 65534"), "{message}");
    assert!(
        message.contains("run this program as user 65534"),
        "{message}"
    );
    assert!(message.contains("chown -R 0"), "{message}");

    // A lock's directory: another user's, with the sticky bit, or a link.
    let own = at("own");
    fs::create_dir_all(own.join("team.job")).unwrap();
    chown(own.join("team.job"), Some(65534), None).unwrap();
    assert!(refused(&own).await.contains("chown -R 0"));
    chown(own.join("team.job"), Some(0), None).unwrap();
    set_mode(&own.join("team.job"), 0o1777);
    assert!(refused(&own).await.contains("chmod -t"));
    fs::remove_dir(own.join("team.job")).unwrap();
    let elsewhere = at("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    symlink(&elsewhere, own.join("team.job")).unwrap();
    let message = refused(&own).await;
    assert!(message.contains("team.job"), "{message}");
    assert!(message.contains("symbolic link"), "{message}");
    assert_eq!(fs::read_dir(&elsewhere).unwrap().count(), 0);

    // A link in the way, and one of root's, which only root can have put there.
    let link = at("link");
    symlink(&elsewhere, &link).unwrap();
    connect(FileConfig::new(link.join("locks")).unwrap())
        .await
        .unwrap();
    lchown(&link, Some(65534), None).unwrap();
    for below in ["more/locks", "", "."] {
        let message = refused(&link.join(below)).await;
        assert!(message.contains("symbolic link of user 65534"), "{message}");
    }
    assert!(!elsewhere.join("more").exists());
}
