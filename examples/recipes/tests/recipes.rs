//! Each recipe does what it says: several instances, in one process, on one store.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tenure::testing::TestBackend;
use tenure::{
    Election, ElectionState, FencingToken, LockBackend, LockName, MemoryBackend, Observer, Policy,
};
use tenure_recipes::{cron, drain, fenced, gap, web};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

/// Nothing takes so long unless it never comes.
const LIMIT: Duration = Duration::from_secs(120);

fn store() -> Arc<dyn LockBackend> {
    Arc::new(MemoryBackend::private())
}

fn election(store: &Arc<dyn LockBackend>, name: &str) -> Election {
    publishing(store, name, name)
}

fn publishing(store: &Arc<dyn LockBackend>, name: &str, value: &str) -> Election {
    Election::builder(store.clone(), LockName::new("recipe").unwrap())
        .identity(name.parse().unwrap())
        .value(value.parse().unwrap())
        .policy(Policy::fast())
        .build()
        .unwrap()
}

async fn until(what: &str, mut done: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !done().await {
            sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(
        timeout(LIMIT, waiting).await.is_ok(),
        "waited in vain until {what}"
    );
}

async fn leads(election: &Election) {
    let mut state = election.state();
    let led = state.wait_for(|state| matches!(state, ElectionState::Leader { .. }));
    timeout(LIMIT, led).await.unwrap().unwrap();
}

/// Waits until this one knows of the leader, and so is a candidate that did not win.
async fn follows(election: &Election) {
    let mut state = election.state();
    let follows =
        |state: &ElectionState| matches!(state, ElectionState::Candidate { leader: Some(_) });
    timeout(LIMIT, state.wait_for(follows))
        .await
        .unwrap()
        .unwrap();
}

/// A shutdown that a test commands.
fn shutdown() -> (
    oneshot::Sender<()>,
    impl Future<Output = ()> + Send + 'static,
) {
    let (stop, told) = oneshot::channel();
    (stop, async move {
        // A test that has failed stops too.
        let _told = told.await;
    })
}

async fn ended<T>(task: JoinHandle<anyhow::Result<T>>) -> T {
    timeout(LIMIT, task).await.unwrap().unwrap().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn web_all_instances_serve_and_the_leader_works() {
    let store = store();
    let mut instances = Vec::new();
    for name in ["alice", "bob"] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let election = publishing(&store, name, &url);
        let (stop, told) = shutdown();
        let serving = tokio::spawn(web::serve(listener, election.clone(), told));
        if name == "alice" {
            leads(&election).await;
        } else {
            follows(&election).await;
        }
        instances.push((url, stop, serving));
    }
    let bob = instances.pop().unwrap();
    let alice = instances.pop().unwrap();
    let http = reqwest::Client::new();
    let get = async |url: &str, path: &str| {
        let answer = http.get(format!("{url}{path}")).send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    };
    let order = async |url: &str| http.post(format!("{url}/orders")).send().await.unwrap();

    for (url, ..) in [&alice, &bob] {
        assert_eq!(get(url, "/livez").await.0, 200);
        assert_eq!(get(url, "/readyz").await.0, 200);
    }
    assert_eq!(get(&alice.0, "/leader").await.0, 200);
    let expected = (503, "alice leads".to_owned());
    assert_eq!(get(&bob.0, "/leader").await, expected);
    assert_eq!(order(&alice.0).await.status(), 200);
    let refused = order(&bob.0).await;
    assert_eq!(refused.status(), 503);
    assert_eq!(refused.headers()["x-leader"], alice.0.as_str());
    assert_eq!(refused.headers()["retry-after"], "1");

    // The leader leaves, and the other one works.
    alice.1.send(()).unwrap();
    ended(alice.2).await;
    until("bob takes orders", async || {
        order(&bob.0).await.status() == 200
    })
    .await;
    until("bob says so", async || {
        get(&bob.0, "/leader").await.0 == 200
    })
    .await;
    bob.1.send(()).unwrap();
    ended(bob.2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cron_each_run_happens_once_although_the_leader_changes() {
    let store = store();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("ledger");
    let runs = Arc::new(Mutex::new(Vec::new()));
    let period = Duration::from_millis(20);
    let count = |runs: &Mutex<Vec<i64>>| runs.lock().unwrap().len();
    for term in 1..=4 {
        let election = election(&store, "alice");
        let ledger = cron::Ledger::open(&file).unwrap();
        let (stop, told) = shutdown();
        let mine = runs.clone();
        let running = tokio::spawn(async move {
            cron::run(&election, ledger, period, told, |run| {
                mine.lock().unwrap().push(run);
                async { Ok(()) }
            })
            .await
        });
        // Each leader after the first begins within the period in which the last one worked.
        until("it runs", async || count(&runs) >= 5 * term).await;
        stop.send(()).unwrap();
        ended(running).await;
    }
    let runs = runs.lock().unwrap();
    assert!(runs.windows(2).all(|two| two[0] < two[1]), "{runs:?}");
}

#[test]
fn cron_the_ledger_refuses_what_was_done_and_who_is_past() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("ledger");
    let token = |counter| FencingToken::from_counter(counter).unwrap();
    let (alice, bob) = (
        cron::Ledger::open(&file).unwrap(),
        cron::Ledger::open(&file).unwrap(),
    );
    assert!(alice.begin("job", 10, token(1)).unwrap());
    assert!(!alice.begin("job", 10, token(1)).unwrap());
    assert!(!bob.begin("job", 10, token(2)).unwrap());
    assert!(bob.begin("job", 11, token(2)).unwrap());
    // It was paused since it led, and its clock is ahead.
    assert!(!alice.begin("job", 12, token(1)).unwrap());
    assert!(alice.begin("other", 1, token(1)).unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn drain_the_order_at_hand_is_finished_before_another_one_leads() {
    let store = store();
    let started = Arc::new(AtomicU64::new(0));
    let finished = Arc::new(AtomicBool::new(false));
    let finish = Arc::new(tokio::sync::Notify::new());

    let alice = election(&store, "alice");
    let (stop, told) = shutdown();
    let first = {
        let (alice, started) = (alice.clone(), started.clone());
        let (finished, finish) = (finished.clone(), finish.clone());
        tokio::spawn(async move {
            drain::run(&alice, told, |_token| async {
                started.fetch_add(1, Ordering::SeqCst);
                finish.notified().await;
                finished.store(true, Ordering::SeqCst);
                Ok(())
            })
            .await
        })
    };
    until("alice works", async || started.load(Ordering::SeqCst) == 1).await;

    let bob = election(&store, "bob");
    let (stop_bob, told) = shutdown();
    let (works, worked) = oneshot::channel();
    let second = {
        let (bob, finished) = (bob.clone(), finished.clone());
        let works = Mutex::new(Some(works));
        tokio::spawn(async move {
            drain::run(&bob, told, |_token| async {
                let before = finished.load(Ordering::SeqCst);
                if let Some(works) = works.lock().unwrap().take() {
                    works.send(before).unwrap();
                }
                sleep(Duration::from_millis(1)).await;
                Ok(())
            })
            .await
        })
    };
    follows(&bob).await;

    stop.send(()).unwrap();
    let mut state = alice.state();
    let told = state.wait_for(|state| matches!(state, ElectionState::SteppingDown { .. }));
    timeout(LIMIT, told).await.unwrap().unwrap();
    finish.notify_one();
    ended(first).await;
    assert_eq!(started.load(Ordering::SeqCst), 1, "a new order was taken");
    let finished_before = timeout(LIMIT, worked).await.unwrap().unwrap();
    assert!(finished_before, "two at a time");
    stop_bob.send(()).unwrap();
    ended(second).await;
}

#[tokio::test(start_paused = true)]
async fn drain_an_order_is_broken_off_when_the_lock_is_lost() {
    let backend = TestBackend::new();
    let store: Arc<dyn LockBackend> = Arc::new(backend.clone());
    let alice = election(&store, "alice");
    let (stop, told) = shutdown();
    let started = Arc::new(AtomicU64::new(0));
    let counted = started.clone();
    let candidate = alice.clone();
    let working = tokio::spawn(async move {
        drain::run(&candidate, told, |_token| async {
            counted.fetch_add(1, Ordering::SeqCst);
            std::future::pending().await
        })
        .await
    });
    until("it works", async || started.load(Ordering::SeqCst) == 1).await;
    backend.lose(alice.lock());
    // It campaigns again, and works in a new term.
    until("it works again", async || {
        started.load(Ordering::SeqCst) == 2
    })
    .await;
    // Nothing ends this order but the drain limit.
    stop.send(()).unwrap();
    ended(working).await;
}

#[tokio::test(start_paused = true)]
async fn gap_who_needs_the_leader_waits_for_the_next_or_is_told() {
    let backend = TestBackend::new();
    let store: Arc<dyn LockBackend> = Arc::new(backend.clone());
    let patience = Duration::from_secs(1);
    let lock = LockName::new("recipe").unwrap();
    let observer = Observer::new(store.clone(), lock, Policy::fast());
    let directory = Arc::new(gap::Directory::new(&observer));
    let nobody = Err(gap::NoLeader {
        retry_after: patience,
    });
    assert_eq!(directory.leader(patience).await, nobody);

    let alice = publishing(&store, "alice", "http://alice:80");
    let leadership = alice.campaign().await.unwrap();
    let found = directory.leader(LIMIT).await.unwrap();
    assert_eq!(found, "http://alice:80");

    // In the gap it is not the one of before; and whoever waits gets the next.
    leadership.resign().await.unwrap();
    until("the gap is noticed", async || {
        directory.leader(Duration::ZERO).await.is_err()
    })
    .await;
    let waiting = directory.clone();
    let waiting = tokio::spawn(async move { waiting.leader(LIMIT).await });
    let bob = publishing(&store, "bob", "http://bob:80");
    let _leadership = bob.campaign().await.unwrap();
    assert_eq!(waiting.await.unwrap().unwrap(), "http://bob:80");

    // A silent store is a gap too.
    backend.freeze();
    until("the silence is noticed", async || {
        directory.leader(Duration::ZERO).await.is_err()
    })
    .await;
}

#[tokio::test]
async fn fenced_what_a_leader_of_before_writes_late_is_refused() {
    let store = store();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("account");
    let (alice, bob) = (
        fenced::Account::open(&file).unwrap(),
        fenced::Account::open(&file).unwrap(),
    );

    let first = election(&store, "alice").campaign().await.unwrap();
    let old = first.token();
    assert_eq!(alice.enter(old).unwrap(), 0);
    alice.set_balance(5, old).unwrap();
    first.resign().await.unwrap();

    // Alice's last write is still on its way.
    let second = election(&store, "bob").campaign().await.unwrap();
    assert_eq!(bob.enter(second.token()).unwrap(), 5);
    let late = alice.set_balance(99, old);
    assert!(matches!(late, Err(fenced::Refused::Past)), "{late:?}");
    let late = alice.enter(old);
    assert!(matches!(late, Err(fenced::Refused::Past)), "{late:?}");
    bob.set_balance(6, second.token()).unwrap();
    assert_eq!(bob.enter(second.token()).unwrap(), 6);
}
