//! Watches one object for its changes, over drops, restarts and refusals.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use http_body_util::{BodyDataStream, BodyExt as _};
use kube::client::Body;
use serde_json::Value;
use tenure_core::record::{Liveness, RecordEvent, RecordEvents, Versioned};
use tenure_core::{ErrorKind, LockName, Operation};
use tenure_kit::Backoff;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::form::Form;
use crate::objects::Objects;
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

/// A watch that lasted so long was a good one: the next may begin soon.
const GOOD: Duration = Duration::from_secs(10);

/// The longest event; the API server keeps no object of this size.
const MAX_LINE: usize = 8 * 1024 * 1024;

pub(crate) fn events<F: Form>(objects: Arc<Objects<F>>, lock: LockName) -> RecordEvents {
    let watching = Watching {
        objects,
        lock,
        lines: None,
        begun: None,
        backoff: Backoff::new(FIRST_PAUSE, LONGEST_PAUSE),
        wait: Duration::ZERO,
        last: None,
    };
    Box::pin(stream::unfold(watching, async |mut watching| {
        let event = watching.next().await?;
        Some((event, watching))
    }))
}

struct Watching<F> {
    objects: Arc<Objects<F>>,
    lock: LockName,
    lines: Option<Lines>,
    begun: Option<Instant>,
    backoff: Backoff,
    /// Before the next attempt to begin.
    wait: Duration,
    /// The last object told of, if pods are minded.
    last: Option<Versioned>,
}

impl<F: Form> Watching<F> {
    /// The next event; `None` when none can come for want of a right.
    async fn next(&mut self) -> Option<RecordEvent> {
        loop {
            let Some(lines) = &mut self.lines else {
                if let Some(event) = self.begin().await? {
                    return Some(event);
                }
                continue;
            };
            let begun = self.begun.unwrap_or_else(Instant::now);
            let pod_due = async {
                match self.last {
                    Some(_) => sleep(POD_INTERVAL).await,
                    None => std::future::pending().await,
                }
            };
            let line = tokio::select! {
                biased;
                line = timeout_at(begun + LASTS + GRACE, lines.next()) => line,
                () = pod_due => {
                    if let Some(event) = self.look_at_pod().await {
                        return Some(event);
                    }
                    continue;
                }
            };
            match line {
                Ok(Some(line)) => match self.read(&line) {
                    Read::Event(event) => {
                        self.last = match &event {
                            RecordEvent::Is(found) if self.objects.minds_pods() => {
                                Some(found.clone())
                            }
                            _ => None,
                        };
                        return Some(event);
                    }
                    Read::Nothing => {}
                    Read::End => self.ended(),
                },
                Ok(None) | Err(_) => self.ended(),
            }
        }
    }

    /// The last object again if its holder's pod is gone since.
    async fn look_at_pod(&mut self) -> Option<RecordEvent> {
        let last = self.last.clone()?;
        let looking = async {
            let api = self.objects.cluster.api(Operation::Holder).await.ok()?;
            Some(self.objects.with_pod(&api, last).await)
        };
        let found = timeout(POD_LIMIT, looking).await.ok()??;
        matches!(found.liveness, Liveness::Gone).then_some(RecordEvent::Is(found))
    }

    /// One attempt. What happened between two watches is not told by the second, so a look is due.
    async fn begin(&mut self) -> Option<Option<RecordEvent>> {
        sleep(self.wait).await;
        let beginning = async {
            let api = self.objects.cluster.api(Operation::Holder).await?;
            api.watch(&F::RESOURCE, self.lock.as_str(), LASTS).await
        };
        match timeout(BEGIN_LIMIT, beginning).await {
            Ok(Ok(body)) => {
                self.lines = Some(Lines::new(body));
                self.begun = Some(Instant::now());
                Some(Some(RecordEvent::Changed))
            }
            Ok(Err(error)) if error.kind() == ErrorKind::Forbidden => {
                if self.objects.warned_of_watch.first() {
                    let verb = Verb::Watch.name();
                    tracing::warn!(
                        lock = %self.lock, %verb, %error,
                        "without the verb \"watch\" the lock is polled: a hand-over takes longer \
                         and every candidate sends requests"
                    );
                }
                None
            }
            Ok(Err(error)) => {
                tracing::debug!(lock = %self.lock, %error, "the watch cannot begin");
                self.wait = self.backoff.next(error.retry_after());
                Some(None)
            }
            Err(_) => {
                self.wait = self.backoff.next(None);
                Some(None)
            }
        }
    }

    fn ended(&mut self) {
        self.lines = None;
        self.last = None;
        let lasted = self.begun.take().map(|begun| begun.elapsed());
        if lasted.is_some_and(|lasted| lasted >= GOOD) {
            self.wait = self.backoff.restart();
        } else {
            self.wait = self.backoff.next(None);
        }
    }

    fn read(&self, line: &[u8]) -> Read {
        let Ok(mut event) = serde_json::from_slice::<Value>(line) else {
            return Read::End;
        };
        let object = event["object"].take();
        match event["type"].as_str() {
            Some("ADDED" | "MODIFIED") => match self.objects.versioned(object) {
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
}

enum Read {
    Event(RecordEvent),
    Nothing,
    End,
}

/// The lines of a body.
struct Lines {
    body: BodyDataStream<Body>,
    buffer: Vec<u8>,
    /// Up to here there is no line's end.
    searched: usize,
}

impl Lines {
    fn new(body: Body) -> Self {
        Self {
            body: body.into_data_stream(),
            buffer: Vec::new(),
            searched: 0,
        }
    }

    /// The next line; `None` at the end, also when it came by force. Cancel safe.
    async fn next(&mut self) -> Option<Vec<u8>> {
        loop {
            let end = self.buffer[self.searched..]
                .iter()
                .position(|byte| *byte == b'\n');
            if let Some(end) = end {
                let rest = self.buffer.split_off(self.searched + end + 1);
                self.searched = 0;
                return Some(std::mem::replace(&mut self.buffer, rest));
            }
            self.searched = self.buffer.len();
            if self.buffer.len() > MAX_LINE {
                return None;
            }
            self.buffer
                .extend_from_slice(&self.body.next().await?.ok()?);
        }
    }
}
