//! Watches one object for its changes, over drops, restarts and refusals.

use std::sync::Arc;
use std::time::Duration;

use futures_util::stream;
use serde_json::Value;
use tenure_core::record::{Liveness, RecordEvent, RecordEvents, Versioned};
use tenure_core::{Error, ErrorKind, LockName, Operation};
use tenure_kit::Backoff;
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};

use crate::form::Form;
use crate::lines::Lines;
use crate::objects::Objects;
use crate::pace::Pace;
use crate::resource::Verb;

/// After this the API server ends a watch, and a new one begins.
const LASTS: Duration = Duration::from_secs(290);

/// How much later we take a silent one for dead.
const GRACE: Duration = Duration::from_secs(20);

/// How long the API server may take to begin.
const BEGIN_LIMIT: Duration = Duration::from_secs(10);

/// How often a holder's pod is looked at, where that is asked for, and how long a look may take.
const POD_INTERVAL: Duration = Duration::from_secs(2);
const POD_LIMIT: Duration = Duration::from_secs(2);

/// The pauses before another attempt: each longer than the one before. None is longer than the
/// longest, whatever the server asks for.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// How often a lock is looked at that cannot be watched for want of a right, or a little more often.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// A watch that lasted so long was a good one: the next may begin soon.
const GOOD: Duration = Duration::from_secs(10);

pub(crate) fn events<F: Form>(objects: Arc<Objects<F>>, lock: LockName) -> RecordEvents {
    let watching = Watching {
        objects,
        lock,
        lines: None,
        begun: None,
        backoff: Backoff::new(FIRST_PAUSE, LONGEST_PAUSE),
        begin_at: Instant::now(),
        is_forbidden: false,
        pace: Pace::default(),
        last: None,
    };
    Box::pin(stream::unfold(watching, async |mut watching| {
        let event = watching.next().await;
        Some((event, watching))
    }))
}

struct Watching<F> {
    objects: Arc<Objects<F>>,
    lock: LockName,
    lines: Option<Lines>,
    begun: Option<Instant>,
    backoff: Backoff,
    /// When to try again to begin.
    begin_at: Instant,
    /// The last attempt was: the right may come back, so others follow.
    is_forbidden: bool,
    pace: Pace,
    /// The last object told of, if pods are minded, and when to look at its holder's pod. Others'
    /// writes do not put that off.
    last: Option<(Versioned, Instant)>,
}

impl<F: Form> Watching<F> {
    /// The next event.
    async fn next(&mut self) -> RecordEvent {
        loop {
            let Some(lines) = &mut self.lines else {
                if let Some(event) = self.begin().await {
                    return event;
                }
                continue;
            };
            let begun = self.begun.unwrap_or_else(Instant::now);
            let pod_due = reached(self.last.as_ref().map(|(_, look_at)| *look_at));
            let waited = reached(self.pace.due_at());
            let line = tokio::select! {
                biased;
                () = waited => {
                    if let Some(event) = self.pace.waited() {
                        return self.tell(event);
                    }
                    continue;
                }
                line = timeout_at(begun + LASTS + GRACE, lines.next()) => line,
                () = pod_due => {
                    if let Some(event) = self.look_at_pod().await {
                        return event;
                    }
                    continue;
                }
            };
            match line {
                Ok(Some(line)) => match read(&self.objects, &line) {
                    Read::Event(event) => {
                        if let Some(event) = self.pace.is_due(event) {
                            return self.tell(event);
                        }
                    }
                    Read::Nothing => {}
                    Read::End => self.ended(),
                },
                Ok(None) | Err(_) => self.ended(),
            }
        }
    }

    fn tell(&mut self, event: RecordEvent) -> RecordEvent {
        self.last = match &event {
            RecordEvent::Is(found) if self.objects.minds_pods() => {
                Some((found.clone(), Instant::now() + POD_INTERVAL))
            }
            _ => None,
        };
        event
    }

    /// The last object again if its holder's pod is gone since.
    async fn look_at_pod(&mut self) -> Option<RecordEvent> {
        let (last, look_at) = self.last.as_mut()?;
        *look_at = Instant::now() + POD_INTERVAL;
        let last = last.clone();
        let looking = async {
            let api = self.objects.cluster.api(Operation::Holder).await.ok()?;
            Some(self.objects.with_pod(&api, last).await)
        };
        let found = timeout(POD_LIMIT, looking).await.ok()??;
        matches!(found.liveness, Liveness::Gone).then_some(RecordEvent::Is(found))
    }

    /// One attempt, when it is due. What happened between two watches is not told by the second, so
    /// a look is due. While there is no right to watch, looks take its place.
    async fn begin(&mut self) -> Option<RecordEvent> {
        let left = self.begin_at.saturating_duration_since(Instant::now());
        if self.is_forbidden && left > LOOK_INTERVAL {
            sleep(LOOK_INTERVAL.mul_f64(0.8 + fastrand::f64() / 5.0)).await;
            return Some(RecordEvent::Changed);
        }
        sleep_until(self.begin_at).await;
        let beginning = async {
            let api = self.objects.cluster.api(Operation::Holder).await?;
            api.watch(&F::RESOURCE, self.lock.as_str(), LASTS).await
        };
        let asked = match timeout(BEGIN_LIMIT, beginning).await {
            Ok(Ok(body)) => {
                self.lines = Some(Lines::new(body));
                self.begun = Some(Instant::now());
                self.pace.begin();
                self.allowed_again();
                return Some(RecordEvent::Changed);
            }
            Ok(Err(error)) if error.kind() == ErrorKind::Forbidden => {
                self.forbidden(&error);
                None
            }
            Ok(Err(error)) => {
                tracing::debug!(lock = %self.lock, %error, "the watch cannot begin");
                error.retry_after()
            }
            Err(_) => None,
        };
        self.begin_at = Instant::now() + self.backoff.next(asked);
        None
    }

    /// It is told once, and still tried again.
    fn forbidden(&mut self, error: &Error) {
        self.is_forbidden = true;
        if self.objects.warned_of_watch.first() {
            let verb = Verb::Watch.name();
            tracing::warn!(
                lock = %self.lock, %verb, %error,
                "without the verb \"watch\" the lock is polled: a hand-over takes longer \
                 and every candidate sends requests; it is tried again"
            );
        }
    }

    fn allowed_again(&mut self) {
        if !std::mem::replace(&mut self.is_forbidden, false) {
            return;
        }
        self.objects.warned_of_watch.again();
        tracing::warn!(lock = %self.lock, "the lock can be watched again");
    }

    fn ended(&mut self) {
        self.lines = None;
        self.pace.begin();
        self.last = None;
        let lasted = self.begun.take().map(|begun| begun.elapsed());
        let wait = if lasted.is_some_and(|lasted| lasted >= GOOD) {
            self.backoff.restart()
        } else {
            self.backoff.next(None)
        };
        self.begin_at = Instant::now() + wait;
    }
}

/// What a line of a watch says. A line can be any JSON, also one that is no object.
pub(crate) fn read<F: Form>(objects: &Objects<F>, line: &[u8]) -> Read {
    let Ok(mut event) = serde_json::from_slice::<Value>(line) else {
        return Read::End;
    };
    let object = event.get_mut("object").map(Value::take);
    let object = object.unwrap_or_default();
    match event["type"].as_str() {
        Some("ADDED" | "MODIFIED") => match objects.versioned(object) {
            Ok(found) => Read::Event(RecordEvent::Is(found)),
            // The look that follows says what is wrong.
            Err(_) => Read::Event(RecordEvent::Changed),
        },
        Some("DELETED") => Read::Event(RecordEvent::Gone),
        Some("BOOKMARK") => Read::Nothing,
        // `ERROR`, with 410 when its version is too old: begin again from now.
        _ => Read::End,
    }
}

/// That time; `None` never comes.
async fn reached(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

pub(crate) enum Read {
    Event(RecordEvent),
    Nothing,
    End,
}
