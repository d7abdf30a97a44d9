//! Starts the processes of each case, and judges what they say.

use std::collections::HashSet;
use std::fs::File;
use std::io::{BufRead as _, BufReader, PipeReader, PipeWriter, Write as _, pipe};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
use tempfile::TempDir;

use crate::worker::Stage;

/// No case takes so long unless something never comes.
const LIMIT: Duration = Duration::from_secs(120);

/// How many heartbeats in a row show that a term goes on.
const HEARTBEATS: usize = 3;

/// How many cases run at a time: they wait most of the time.
const AT_A_TIME: usize = 10;

#[derive(Clone)]
struct Store {
    name: &'static str,
    url: String,
}

impl Store {
    /// Whether other processes see its locks.
    fn is_shared(&self) -> bool {
        self.name != "memory"
    }
}

type Case = (String, Box<dyn FnOnce() + Send>);

pub(crate) fn run_all(arguments: &[String]) -> ExitCode {
    // Of a killed parent the children come here, to be waited for.
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let stores = match stores(&directory) {
        Ok(stores) => stores,
        Err(missing) => {
            println!("FAILED: {missing} is not set, and TENURE_TEST_STRICT is");
            return ExitCode::FAILURE;
        }
    };
    let filters: Vec<&String> = arguments.iter().filter(|a| !a.starts_with('-')).collect();
    let mut cases = cases(&stores);
    cases.retain(|(name, _)| filters.is_empty() || filters.iter().any(|f| name.contains(*f)));
    let total = cases.len();
    // The ones that take longest stand last.
    let waiting = Arc::new(Mutex::new(cases));
    let lanes: Vec<_> = (0..AT_A_TIME)
        .map(|_| {
            let waiting = waiting.clone();
            thread::spawn(move || {
                let mut failed = Vec::new();
                while let Some((name, case)) = next(&waiting) {
                    let begin = Instant::now();
                    let passed = thread::spawn(case).join().is_ok();
                    let outcome = if passed { "ok" } else { "FAILED" };
                    println!("{name}: {outcome} ({:.1?})", begin.elapsed());
                    if !passed {
                        failed.push(name);
                    }
                }
                failed
            })
        })
        .collect();
    let failed: Vec<String> = lanes
        .into_iter()
        .flat_map(|lane| lane.join().unwrap())
        .collect();
    println!("{} of {total} cases passed", total - failed.len());
    if failed.is_empty() {
        ExitCode::SUCCESS
    } else {
        println!("FAILED: {}", failed.join(", "));
        ExitCode::FAILURE
    }
}

fn next(waiting: &Mutex<Vec<Case>>) -> Option<Case> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner).pop()
}

/// Every store, or the variable that is missing where all are demanded.
fn stores(directory: &TempDir) -> Result<Vec<Store>, &'static str> {
    let mut stores = vec![
        Store {
            name: "memory",
            url: "memory:".to_owned(),
        },
        Store {
            name: "file",
            url: format!("file://{}", directory.path().display()),
        },
    ];
    let strict = std::env::var_os("TENURE_TEST_STRICT").is_some();
    for (name, variable) in [
        ("kube-lease", "TENURE_TEST_KUBECONFIG"),
        ("kube-configmap", "TENURE_TEST_KUBECONFIG"),
        ("etcd", "TENURE_TEST_ETCD_URL"),
        ("redis", "TENURE_TEST_REDIS_URL"),
        ("postgres", "TENURE_TEST_POSTGRES_URL"),
    ] {
        match std::env::var(variable) {
            Ok(config) if name.starts_with("kube") => stores.push(Store {
                name,
                url: format!("{name}://default?kubeconfig={config}"),
            }),
            Ok(url) if name == "postgres" => stores.push(Store {
                name,
                // Nobody led before the server was started, which may be a short time ago.
                url: format!("{url}?quarantine=off"),
            }),
            Ok(url) => stores.push(Store { name, url }),
            Err(_) if strict => return Err(variable),
            Err(_) => println!("LEFT OUT: {name}, since {variable} is not set"),
        }
    }
    Ok(stores)
}

fn cases(stores: &[Store]) -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    let mut add = |name: &str, store: &Store, case: fn(&Store)| {
        let name = format!("{name}::{}", store.name);
        let store = store.clone();
        cases.push((name, Box::new(move || case(&store))));
    };
    for store in stores.iter().filter(|store| store.is_shared()) {
        add("before_connecting", store, |store| before(store, "before"));
    }
    for store in stores.iter().filter(|store| store.is_shared()) {
        add("before_connecting_by_default", store, |store| {
            before(store, "before-default");
        });
    }
    for store in stores.iter().filter(|store| store.is_shared()) {
        add("after_connecting", store, after);
    }
    for store in stores {
        add("child_drops_all", store, child_drops_all);
    }
    for store in stores.iter().filter(|store| store.is_shared()) {
        add("child_outlives_parent", store, child_outlives_parent);
    }
    cases
}

/// Three workers that were forked before they have connected: one leads at a time.
fn before(store: &Store, role: &str) {
    let mut play = Play::new(store);
    let parent = play.start(role);
    let workers = play.who_say("is a worker", 3);
    // Each has been elected, or has seen that another is: `hear` finds two leaders.
    for worker in &workers {
        play.until_one_of(*worker, &["leads", "sees"]);
    }
    let mut led = HashSet::new();
    loop {
        let leader = play.leader.expect("one of them leads");
        assert!(led.insert(leader), "each leads once");
        play.goes_on();
        play.order(leader, "resign");
        play.until(leader, "resigned");
        if led == workers {
            break;
        }
        while play.leader.is_none() {
            play.hear();
        }
    }
    play.order(parent, "end");
}

/// A child that was forked after the connection is refused with it, and leads by one of its own;
/// the parent goes on with what it has.
fn after(store: &Store) {
    let mut play = Play::new(store);
    let parent = play.start("after");
    play.until(parent, "is the parent");
    let child = play.who_says("is the child");
    play.until(child, "was refused");
    play.until(child, "leads");
    play.order(parent, "campaign");
    play.until(parent, "sees child");
    play.goes_on();
    play.order(child, "resign");
    play.until(parent, "leads");
    play.goes_on();
    play.order(parent, "resign");
    play.until(parent, "has its other lock still");
}

/// A child drops everything that it has inherited in mid-term, and the term goes on.
fn child_drops_all(store: &Store) {
    let mut play = Play::new(store);
    let parent = play.start("midterm");
    play.until(parent, "leads");
    let child = play.who_says("is the child");
    let rival = store.is_shared().then(|| {
        let rival = play.start("rival");
        play.until(rival, "sees parent");
        rival
    });
    play.until(child, "was refused");
    play.goes_on();
    play.order(child, "drop");
    play.until(child, "has dropped");
    play.goes_on();
    play.order(child, "shut-down");
    play.until(child, "has shut down");
    play.goes_on();
    let Some(rival) = rival else {
        return;
    };
    play.order(child, "campaign");
    play.until(child, "sees parent");
    play.order(parent, "resign");
    // One after the other, in whichever order.
    for _ in 0..2 {
        while play.leader.is_none_or(|leader| leader == parent) {
            play.hear();
        }
        let leader = play.leader.unwrap();
        assert!(leader == rival || leader == child);
        play.goes_on();
        play.order(leader, "resign");
        play.until(leader, "resigned");
    }
}

/// A parent is killed in mid-term, and a new leader comes although a child still holds all that
/// it has inherited.
fn child_outlives_parent(store: &Store) {
    let mut play = Play::new(store);
    let parent = play.start("midterm");
    play.until(parent, "leads");
    let child = play.who_says("is the child");
    let rival = play.start("rival");
    play.until(rival, "sees parent");
    play.until(child, "was refused");
    play.goes_on();
    let killed = Instant::now();
    play.kill(parent);
    play.until(rival, "leads");
    println!(
        "{}: a new leader after {:.1?}",
        store.name,
        killed.elapsed()
    );
    play.goes_on();
    // It is there still, and has held all until now.
    play.order(child, "drop");
    play.until(child, "has dropped");
    play.goes_on();
}

/// A line by one of a case's processes.
#[derive(Clone)]
struct Said {
    who: Pid,
    what: String,
}

/// The processes of a case.
struct Play {
    store: Store,
    lock: String,
    begun: Instant,
    orders: TempDir,
    started: Vec<Child>,
    /// One pipe for all: with one each, the line of a new leader can be read before the line by
    /// which the one before it has resigned.
    output: PipeWriter,
    said: Receiver<Said>,
    heard: Vec<Said>,
    leader: Option<Pid>,
    last_token: u64,
}

impl Play {
    fn new(store: &Store) -> Self {
        let (lines, output) = pipe().unwrap();
        let (sender, said) = mpsc::channel();
        thread::spawn(move || read(lines, &sender));
        let orders = tempfile::tempdir().unwrap();
        // The directory's name is no other case's, so the lock's is not either.
        let unique = orders.path().file_name().unwrap().to_string_lossy();
        let unique = unique
            .bytes()
            .fold(0_u128, |all, byte| all << 8 | u128::from(byte));
        Self {
            store: store.clone(),
            lock: format!("fork-{}-{unique:x}", std::process::id()),
            begun: Instant::now(),
            orders,
            started: Vec::new(),
            output,
            said,
            heard: Vec::new(),
            leader: None,
            last_token: 0,
        }
    }

    fn start(&mut self, role: &str) -> Pid {
        let orders = self.orders.path().to_str().unwrap();
        let process = Command::new(std::env::current_exe().unwrap())
            .args(Stage::arguments(role, &self.store.url, &self.lock, orders))
            .stdin(Stdio::null())
            .stdout(self.output.try_clone().unwrap())
            .spawn()
            .unwrap();
        let pid = Pid::from_child(&process);
        self.started.push(process);
        pid
    }

    /// The next line. Fails where a second one leads, a token does not rise, a term ends that
    /// nobody has ended, or a process fails.
    fn hear(&mut self) -> Said {
        let left = LIMIT.saturating_sub(self.begun.elapsed());
        let Ok(said) = self.said.recv_timeout(left) else {
            panic!("it never comes:\n{}", self.log());
        };
        self.heard.push(said.clone());
        let words: Vec<&str> = said.what.split(' ').collect();
        match words[..] {
            ["leads", token] => {
                let token = token.parse().unwrap();
                assert!(self.leader.is_none(), "two lead:\n{}", self.log());
                assert!(token > self.last_token, "no new token:\n{}", self.log());
                self.leader = Some(said.who);
                self.last_token = token;
            }
            ["resigns"] => self.leader = None,
            ["was", "killed"] => {
                assert_eq!(self.leader, Some(said.who), "who leads?\n{}", self.log());
                self.leader = None;
            }
            ["renewed", token] => {
                assert_eq!(self.leader, Some(said.who), "who leads?\n{}", self.log());
                assert_eq!(token.parse(), Ok(self.last_token), "{}", self.log());
            }
            ["lost", ..] => panic!("a term has ended:\n{}", self.log()),
            ["failed", ..] => panic!("a process has failed:\n{}", self.log()),
            _ => {}
        }
        said
    }

    fn log(&self) -> String {
        let lines = self.heard.iter().map(|said| {
            let what = &said.what;
            format!("{} {what}\n", said.who.as_raw_pid())
        });
        lines.collect()
    }

    /// Waits until that process has said something that begins so.
    fn until(&mut self, who: Pid, what: &str) {
        self.until_one_of(who, &[what]);
    }

    fn until_one_of(&mut self, who: Pid, what: &[&str]) {
        let is_it =
            |said: &Said| said.who == who && what.iter().any(|begin| said.what.starts_with(begin));
        if !self.heard.iter().any(is_it) {
            while !is_it(&self.hear()) {}
        }
    }

    /// The processes that say it, once there are so many.
    fn who_say(&mut self, what: &str, count: usize) -> HashSet<Pid> {
        loop {
            let who = self.heard.iter().filter(|said| said.what == what);
            let who: HashSet<Pid> = who.map(|said| said.who).collect();
            if who.len() == count {
                return who;
            }
            self.hear();
        }
    }

    fn who_says(&mut self, what: &str) -> Pid {
        self.who_say(what, 1).into_iter().next().unwrap()
    }

    /// Waits for some heartbeats of the leader.
    fn goes_on(&mut self) {
        let leader = self.leader.expect("one leads");
        let mut seen = 0;
        while seen < HEARTBEATS {
            let said = self.hear();
            seen += usize::from(said.who == leader && said.what.starts_with("renewed"));
        }
    }

    fn order(&self, who: Pid, order: &str) {
        let name = format!("{}-{order}", who.as_raw_pid());
        File::create(self.orders.path().join(name)).unwrap();
    }

    fn kill(&mut self, who: Pid) {
        let process = self
            .started
            .iter_mut()
            .find(|process| Pid::from_child(process) == who)
            .unwrap();
        process.kill().unwrap();
        process.wait().unwrap();
        // Behind all that it has said before it died.
        let line = format!("{} was killed\n", who.as_raw_pid());
        self.output.write_all(line.as_bytes()).unwrap();
        self.until(who, "was killed");
    }
}

/// Hands on what the processes of a case write, until none of them is left.
fn read(lines: PipeReader, said: &Sender<Said>) {
    for line in BufReader::new(lines).lines().map_while(Result::ok) {
        let Some((who, what)) = line.split_once(' ') else {
            continue;
        };
        let who = who.parse().ok().and_then(Pid::from_raw).unwrap();
        let what = what.to_owned();
        if said.send(Said { who, what }).is_err() {
            return;
        }
    }
}

impl Drop for Play {
    fn drop(&mut self) {
        self.heard.extend(self.said.try_iter());
        for said in &self.heard {
            if said.what.starts_with("missed") || said.what.starts_with("connects again") {
                println!("{}: {}", self.store.name, said.what);
            }
        }
        let own: HashSet<Pid> = self.started.iter().map(Pid::from_child).collect();
        let all: HashSet<Pid> = self.heard.iter().map(|said| said.who).collect();
        // Children first: until their parent has ended their ids are nobody else's.
        let children = &all - &own;
        for child in &children {
            let _gone = kill_process(*child, Signal::KILL);
        }
        for process in &mut self.started {
            let _gone = process.kill();
            let _ended = process.wait();
        }
        for child in &children {
            let _ended = waitpid(Some(*child), WaitOptions::empty());
        }
    }
}
