//! The stream of changes of one lock, made of the file system's notifications.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream;
use tenure_core::record::{RecordEvent, RecordEvents};
use tenure_core::{Error, LockName, Operation};
use tokio::time::Instant;

use crate::disk::Disk;
use crate::watch::{DirectoryWatcher, NotWatched, Seen, Subscription};

/// When to look again after an alive file was closed: the kernel tells of the close before it
/// unlocks the file, and the process that dies may be interrupted in between.
const SECOND_LOOKS: [Duration; 5] = [
    Duration::from_millis(1),
    Duration::from_millis(5),
    Duration::from_millis(25),
    Duration::from_millis(200),
    Duration::from_secs(1),
];

/// How often to look whether a directory that cannot be created has been created by others.
const UNTIL_CREATED: Duration = Duration::from_secs(1);

/// Tells that the lock's record may have changed, for as long as anything can be watched.
pub(crate) fn events(
    disk: Arc<Disk>,
    watches: Arc<DirectoryWatcher>,
    lock: LockName,
) -> RecordEvents {
    let watching = Watching {
        disk,
        watches,
        lock,
        subscription: None,
        seen: Seen::default(),
        second_looks: VecDeque::new(),
    };
    Box::pin(stream::unfold(watching, |mut watching| async move {
        let event = watching.next().await?;
        Some((event, watching))
    }))
}

/// The state of one stream of changes.
struct Watching {
    disk: Arc<Disk>,
    watches: Arc<DirectoryWatcher>,
    lock: LockName,
    subscription: Option<Subscription>,
    seen: Seen,
    second_looks: VecDeque<Instant>,
}

impl Watching {
    async fn next(&mut self) -> Option<RecordEvent> {
        loop {
            let Some(subscription) = &mut self.subscription else {
                self.subscribe().await?;
                // For what was missed until now.
                return Some(RecordEvent::Changed);
            };
            let second_look = self.second_looks.front().copied();
            tokio::select! {
                biased;
                seen = subscription.changed() => match seen {
                    Some(seen) => {
                        if seen.closed != self.seen.closed {
                            let now = Instant::now();
                            self.second_looks = SECOND_LOOKS.map(|after| now + after).into();
                        }
                        self.seen = seen;
                        return Some(RecordEvent::Changed);
                    }
                    // The lock's directory was removed; there may be a new one.
                    None => self.subscription = None,
                },
                () = sleep_until(second_look) => {
                    self.second_looks.pop_front();
                    return Some(RecordEvent::Changed);
                }
            }
        }
    }

    async fn attempt(&self) -> Result<Result<Subscription, NotWatched>, Error> {
        let (watches, lock) = (self.watches.clone(), self.lock.clone());
        self.disk
            .run(Operation::Holder, move |directory| {
                Ok(watches.subscribe(&directory.of_lock(&lock)?))
            })
            .await
    }

    /// Waits until the lock's directory can be watched; `None` when it never can.
    async fn subscribe(&mut self) -> Option<()> {
        loop {
            let reason: Box<dyn std::error::Error + Send> = match self.attempt().await {
                Ok(Ok(subscription)) => {
                    self.seen = Seen::default();
                    self.subscription = Some(subscription);
                    return Some(());
                }
                Ok(Err(NotWatched::Missing)) => {
                    tokio::time::sleep(UNTIL_CREATED).await;
                    continue;
                }
                Ok(Err(NotWatched::Refused(error))) => Box::new(error),
                Err(error) => Box::new(error),
            };
            if self.watches.warns() {
                tracing::warn!(
                    lock = %self.lock,
                    error = %reason,
                    "the file system's notifications are not available, so the lock is looked at \
                     every retry interval; raising fs.inotify.max_user_instances and \
                     fs.inotify.max_user_watches may help"
                );
            }
            return None;
        }
    }
}

async fn sleep_until(instant: Option<Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant).await,
        None => std::future::pending().await,
    }
}
