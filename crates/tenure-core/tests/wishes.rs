//! A leader that is asked to resign, on paused time.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::sync::Arc;
use std::time::Duration;

use tenure_core::testing::TestBackend;
use tenure_core::{
    Both, Cause, Election, ErrorKind, FencingToken, Generation, Identity, InGeneration,
    LockBackend, LockName, MemoryBackend, Next, Observation, Observer, Policy,
};

const SECOND: Duration = Duration::from_secs(1);

fn lock() -> LockName {
    LockName::new("test").unwrap()
}

fn election(store: &Arc<dyn LockBackend>, identity: &str) -> Election {
    Election::builder(store.clone(), lock())
        .identity(Identity::new(identity).unwrap())
        .build()
        .unwrap()
}

fn test_store() -> Arc<dyn LockBackend> {
    Arc::new(TestBackend::new())
}

async fn ask(store: &Arc<dyn LockBackend>, token: FencingToken, lasts: Duration) {
    store.ask_to_resign(&lock(), token, lasts).await.unwrap();
}

/// Longer than the leader takes to look.
async fn a_heartbeat() {
    let policy = Policy::default();
    tokio::time::sleep(policy.heartbeat() + policy.request_timeout()).await;
}

#[tokio::test(start_paused = true)]
async fn a_wish_for_its_term_ends_it_in_good_order_and_the_next_one_leads() {
    let store = test_store();
    let first = election(&store, "first").campaign().await.unwrap();
    let second = election(&store, "second");
    let waiting = tokio::spawn(async move { second.campaign().await });
    let observer = Observer::new(store.clone(), lock(), Policy::default());
    let Observation::Led {
        token: Some(token), ..
    } = observer.look().await.unwrap()
    else {
        panic!("it is led");
    };
    observer.ask_to_resign(token, 60 * SECOND).await.unwrap();
    let policy = Policy::default();
    let limit = policy.heartbeat() + policy.request_timeout();
    tokio::time::timeout(limit, first.cancelled())
        .await
        .unwrap();
    assert_eq!(first.cause(), Some(Cause::Asked));
    // The term is kept up for work that is stopping.
    tokio::time::sleep(policy.lease()).await;
    assert!(first.is_valid() && !waiting.is_finished());
    first.resign().await.unwrap();
    let second = waiting.await.unwrap().unwrap();
    assert!(second.token() > token);
    // The wish is over with the term that it names.
    a_heartbeat().await;
    assert!(second.is_valid() && !second.is_cancelled());
}

#[tokio::test(start_paused = true)]
async fn a_late_wish_never_deposes_the_next_leader_nor_the_same_one_in_its_next_term() {
    let store = test_store();
    let candidate = election(&store, "a");
    let old = candidate.campaign().await.unwrap();
    let token = old.token();
    old.resign().await.unwrap();
    let next = candidate.campaign().await.unwrap();
    let lasts = 60 * SECOND;
    ask(&store, token, lasts).await;
    a_heartbeat().await;
    assert!(next.is_valid() && !next.is_cancelled());
    // Nor one for a term that does not exist yet.
    let token = FencingToken::from_counter(next.token().as_u64() + 3).unwrap();
    ask(&store, token, lasts).await;
    next.resign().await.unwrap();
    let later = candidate.campaign().await.unwrap();
    assert_eq!(
        later.token(),
        token,
        "one write for each heartbeat, release and election"
    );
    a_heartbeat().await;
    assert!(later.is_valid() && !later.is_cancelled());
}

#[tokio::test(start_paused = true)]
async fn a_wish_that_is_over_is_not_heeded() {
    let store = test_store();
    let leadership = election(&store, "a").campaign().await.unwrap();
    let lasts = Duration::from_millis(1);
    ask(&store, leadership.token(), lasts).await;
    a_heartbeat().await;
    assert!(leadership.is_valid() && !leadership.is_cancelled());
}

#[tokio::test(start_paused = true)]
async fn who_was_asked_to_resign_lets_the_others_go_first() {
    let store = test_store();
    let (told, mut elected) = tokio::sync::mpsc::unbounded_channel();
    for identity in ["a", "b"] {
        let election = election(&store, identity);
        let told = told.clone();
        tokio::spawn(async move {
            let work = |term: tenure_core::Term| {
                let told = told.clone();
                async move {
                    told.send((identity, term.token())).unwrap();
                    term.cancelled().await;
                    Ok::<_, std::io::Error>(Next::Campaign)
                }
            };
            election.run_until(std::future::pending(), work).await
        });
    }
    let (mut leader, mut token) = elected.recv().await.unwrap();
    for _ in 0..10 {
        ask(&store, token, 60 * SECOND).await;
        let (next, next_token) = elected.recv().await.unwrap();
        assert_ne!(next, leader);
        (leader, token) = (next, next_token);
    }
}

/// Whoever calls `campaign` in a loop of its own as well, and by another clone.
#[tokio::test(start_paused = true)]
async fn the_next_campaign_of_who_was_asked_to_resign_lets_the_others_go_first() {
    let store = test_store();
    let (asked, other) = (election(&store, "a"), election(&store, "b"));
    let mut leadership = asked.campaign().await.unwrap();
    for resigns in [true, false] {
        ask(&store, leadership.token(), 60 * SECOND).await;
        leadership.cancelled().await;
        if resigns {
            leadership.resign().await.unwrap();
        } else {
            drop(leadership);
            asked.settled().await;
        }
        let clone = asked.clone();
        let mut again = std::pin::pin!(async move { clone.campaign().await });
        assert!(futures_util::poll!(again.as_mut()).is_pending());
        tokio::task::yield_now().await;
        // It begins later, and leads at once.
        let at_once = Policy::default().retry_interval() / 2;
        let elected = tokio::time::timeout(at_once, other.campaign()).await;
        leadership = elected.unwrap().unwrap();
        leadership.resign().await.unwrap();
        leadership = again.await.unwrap();
    }
    // Once, and not after a term that ended for another reason.
    leadership.resign().await.unwrap();
    let at_once = Policy::default().retry_interval() / 2;
    let elected = tokio::time::timeout(at_once, asked.campaign()).await;
    drop(elected.unwrap().unwrap());
}

#[tokio::test(start_paused = true)]
async fn a_wish_goes_through_generations_and_both_stores() {
    let memory = || -> Arc<dyn LockBackend> { Arc::new(MemoryBackend::private()) };
    let generation = Generation::new(3).unwrap();
    let raised = Arc::new(InGeneration::new(memory(), generation));
    let store: Arc<dyn LockBackend> = Arc::new(Both::new(memory(), raised).unwrap());
    let leadership = election(&store, "a").campaign().await.unwrap();
    let lasts = 60 * SECOND;
    let other = FencingToken::from_counter(1).unwrap();
    ask(&store, other, lasts).await;
    drop(leadership.confirm().await.unwrap());
    assert!(!leadership.is_cancelled(), "half of the token is not it");
    ask(&store, leadership.token(), lasts).await;
    drop(leadership.confirm().await.unwrap());
    assert_eq!(leadership.cause(), Some(Cause::Asked));

    let raised = InGeneration::new(memory(), generation);
    let asked = raised.ask_to_resign(&lock(), other, lasts).await;
    assert_eq!(asked.unwrap_err().kind(), ErrorKind::InvalidInput);
}
