//! The kernel's events, read on a thread.

use std::io;
use std::mem::MaybeUninit;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::fd::OwnedFd;
use rustix::fs::inotify::{self, CreateFlags, Event, ReadFlags, Reader, WatchFlags};
use rustix::io::Errno;

use crate::watch::topics::{Happened, Topics, end_all, note, note_all};
use crate::{alive, record_file};

/// As much as is read at a time; an event is at most 272 bytes.
const BUFFER: usize = 4096;

/// The descriptors of a watcher: the kernel's events, and the event that ends its thread.
#[derive(Debug)]
struct Descriptors {
    inotify: OwnedFd,
    stop: OwnedFd,
    /// Whether the thread could not go on.
    ended: AtomicBool,
}

/// An inotify instance with its thread, which ends when this is dropped.
#[derive(Debug)]
pub(super) struct Notifier(Arc<Descriptors>);

impl Notifier {
    pub(super) fn start(topics: Arc<Topics>) -> io::Result<Self> {
        let descriptors = Arc::new(Descriptors {
            inotify: inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?,
            stop: eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?,
            ended: AtomicBool::new(false),
        });
        let heard = descriptors.clone();
        thread::Builder::new()
            .name("tenure-file-watch".to_owned())
            .spawn(move || listen(&heard, &topics))?;
        Ok(Self(descriptors))
    }

    /// Watches a directory, and gives the kernel's number for it.
    pub(super) fn watch(&self, dir: &Path) -> io::Result<i32> {
        let what = WatchFlags::CREATE
            | WatchFlags::MOVED_TO
            | WatchFlags::CLOSE_WRITE
            | WatchFlags::DELETE
            | WatchFlags::MOVED_FROM
            | WatchFlags::DELETE_SELF
            | WatchFlags::MOVE_SELF
            | WatchFlags::DONT_FOLLOW
            | WatchFlags::ONLYDIR;
        Ok(inotify::add_watch(&self.0.inotify, dir, what)?)
    }

    /// Whether its thread has ended by itself.
    pub(super) fn has_ended(&self) -> bool {
        self.0.ended.load(Ordering::Acquire)
    }

    pub(super) fn unwatch(&self, topic: i32) {
        // The directory may be gone, and its watch with it.
        let _gone = inotify::remove_watch(&self.0.inotify, topic);
    }
}

impl Drop for Notifier {
    fn drop(&mut self) {
        // It fails only when the counter is full, and then the thread is told already.
        let _told = rustix::io::write(&self.0.stop, &1_u64.to_ne_bytes());
    }
}

fn listen(descriptors: &Descriptors, topics: &Topics) {
    let mut buffer = [MaybeUninit::uninit(); BUFFER];
    let mut events = Reader::new(&descriptors.inotify, &mut buffer);
    loop {
        match events.next() {
            Ok(event) => hear(&descriptors.inotify, topics, &event),
            Err(Errno::AGAIN) => {
                let mut fds = [
                    PollFd::new(&descriptors.inotify, PollFlags::IN),
                    PollFd::new(&descriptors.stop, PollFlags::IN),
                ];
                match poll(&mut fds, None) {
                    Ok(_) if fds[1].revents().is_empty() => {}
                    Err(Errno::INTR) => {}
                    Ok(_) => return,
                    Err(error) => return end(descriptors, topics, error),
                }
            }
            Err(Errno::INTR) => {}
            Err(error) => return end(descriptors, topics, error),
        }
    }
}

/// Nothing will be heard any more: the next subscriber makes a new instance.
fn end(descriptors: &Descriptors, topics: &Topics, error: Errno) {
    tracing::warn!(%error, "the file system's notifications cannot be read any more");
    descriptors.ended.store(true, Ordering::Release);
    end_all(topics);
}

fn hear(inotify: &OwnedFd, topics: &Topics, event: &Event<'_>) {
    let (topic, what) = (event.wd(), event.events());
    if what.contains(ReadFlags::QUEUE_OVERFLOW) {
        return note_all(topics);
    }
    let gone = ReadFlags::DELETE_SELF | ReadFlags::MOVE_SELF | ReadFlags::IGNORED;
    if what.intersects(gone | ReadFlags::UNMOUNT) {
        // One that was moved away is watched still; of the others the kernel knows nothing more.
        let _gone = inotify::remove_watch(inotify, topic);
        return note(topics, topic, Happened::Gone);
    }
    let name = event.file_name().and_then(|name| name.to_str().ok());
    let name = name.unwrap_or_default();
    if let Some(version) = record_file::version_of(name) {
        if what.intersects(ReadFlags::CREATE | ReadFlags::MOVED_TO) {
            note(topics, topic, Happened::Appeared(version));
        } else if what.intersects(ReadFlags::DELETE | ReadFlags::MOVED_FROM) {
            note(topics, topic, Happened::Removed(version));
        }
    } else if what.contains(ReadFlags::CLOSE_WRITE) && alive::is_alive_name(name) {
        note(topics, topic, Happened::Closed);
    }
}
