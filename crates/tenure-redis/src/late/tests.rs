use futures_util::future::poll_immediate;
use tokio::sync::oneshot;

use super::*;

const LEASE: Duration = Duration::from_secs(20);

fn late() -> LateRenewals {
    LateRenewals::new(&Tasks::here().unwrap())
}

fn term(value: Option<&str>) -> Arc<Renewed> {
    Arc::new(Renewed {
        key: "tenure:{a}".to_owned(),
        campaign: "1".to_owned(),
        token: 7,
        value: value.map(|value| PublishedValue::new(value).unwrap()),
    })
}

fn at(nanos: u64) -> Time {
    Time::from_nanos(nanos)
}

/// A renewal whose caller has gone, and its answer: when it was sent, if the term goes on.
async fn given_up(late: &LateRenewals, term: &Arc<Renewed>) -> oneshot::Sender<Option<Time>> {
    let (answer, answered) = oneshot::channel();
    let renewing = async move { answered.await.ok().flatten() };
    let mut followed = Box::pin(late.follow(term, LEASE, renewing, |answer| *answer));
    assert!(poll_immediate(&mut followed).await.is_none());
    answer
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_comes_late_proves_the_term_from_when_it_was_sent() {
    let (late, term) = (late(), term(None));
    let answer = given_up(&late, &term).await;
    let mut next = Box::pin(late.proof(&term, |sent_at| sent_at > at(5)));
    assert!(poll_immediate(&mut next).await.is_none());
    answer.send(Some(at(6))).unwrap();
    assert_eq!(next.await, at(6));
    // One that needs a newer proof, or publishes another value, is not answered by it.
    let newer = late.proof(&term, |sent_at| sent_at > at(6));
    assert!(tokio::time::timeout(LEASE / 2, newer).await.is_err());
    assert_eq!(late.proof_now(&term, |sent_at| sent_at > at(6)), None);
    assert_eq!(late.proof_now(&self::term(Some("x")), |_| true), None);
    assert_eq!(late.proof_now(&term, |_| true), Some(at(6)));
    late.forget(&term);
    assert_eq!(late.proof_now(&term, |_| true), None);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_says_that_the_term_is_over_proves_nothing() {
    let (late, term) = (late(), term(None));
    given_up(&late, &term).await.send(None).unwrap();
    let proof = late.proof(&term, |_| true);
    assert!(tokio::time::timeout(LEASE, proof).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_begins_now_is_answered_first() {
    let (late, term) = (late(), term(None));
    given_up(&late, &term).await.send(Some(at(6))).unwrap();
    let head_start = tokio::time::timeout(HEAD_START / 2, late.proof(&term, |_| true));
    assert!(head_start.await.is_err());
}

#[tokio::test(start_paused = true)]
async fn few_are_waited_for_and_none_longer_than_the_lease() {
    let (late, term) = (late(), term(None));
    let mut answers = Vec::new();
    for _ in 0..100 {
        answers.push(given_up(&late, &term).await);
        tokio::task::yield_now().await;
    }
    let under_way = answers.iter().filter(|answer| !answer.is_closed()).count();
    assert_eq!(under_way, MOST);
    let newest = answers.pop().unwrap();
    newest.send(Some(at(9))).unwrap();
    sleep(LEASE * 2).await;
    assert!(hold(&late.0.by_term).is_empty());
}
