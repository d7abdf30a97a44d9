//! The names in a directory, as they stood at one moment.
//!
//! On most file systems the kernel tells the names of one moment in each call. It takes several calls when they do not
//! fit into the buffer, and also when a signal comes in the middle, such as the one that stops a
//! process. Between two calls others add and remove files. So a listing of several calls may show
//! neither an old record nor the one that has taken its place, and would look like no record at all.

use std::io;

use rustix::fd::BorrowedFd;

/// Room for the files of a lock, with some hundred candidates at once.
#[cfg(target_os = "linux")]
const ROOM: usize = 32 * 1024;

/// Much more than a directory of locks is thought for.
#[cfg(target_os = "linux")]
const MOST_ROOM: usize = 1024 * 1024;

/// The names in it, without those that are no text: none of ours is.
#[cfg(target_os = "linux")]
pub(crate) fn names(dir: BorrowedFd<'_>) -> io::Result<Vec<String>> {
    names_in_room(dir, ROOM, &mut || {})
}

/// `before` is called before each call to the kernel, for tests.
#[cfg(target_os = "linux")]
fn names_in_room(
    dir: BorrowedFd<'_>,
    mut room: usize,
    before: &mut dyn FnMut(),
) -> io::Result<Vec<String>> {
    loop {
        let (names, calls) = read(dir, room, before)?;
        // One of more calls is what POSIX allows, and what a swap is proven for.
        if calls <= 1 || room == MOST_ROOM {
            return Ok(names);
        }
        // A signal would have to come within microseconds each time.
        room = (room * 2).min(MOST_ROOM);
    }
}

/// The names, and in how many calls they came.
#[cfg(target_os = "linux")]
fn read(
    dir: BorrowedFd<'_>,
    room: usize,
    before: &mut dyn FnMut(),
) -> io::Result<(Vec<String>, usize)> {
    use rustix::fs::{Mode, OFlags, RawDir};
    use rustix::io::Errno;

    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    // Opened again: the place of the next name belongs to what is open, and others read too.
    let dir = rustix::fs::openat(dir, c".", flags, Mode::empty())?;
    let mut room = Vec::with_capacity(room);
    let mut entries = RawDir::new(dir, room.spare_capacity_mut());
    let (mut names, mut calls) = (Vec::new(), 0);
    loop {
        let is_asked = entries.is_buffer_empty();
        if is_asked {
            before();
        }
        match entries.next() {
            None => return Ok((names, calls)),
            Some(Err(Errno::INTR)) => {}
            Some(entry) => {
                let entry = entry?;
                calls += usize::from(is_asked);
                names.extend(entry.file_name().to_str().ok().map(str::to_owned));
            }
        }
    }
}

/// The names in it, without those that are no text: none of ours is.
#[cfg(not(target_os = "linux"))]
pub(crate) fn names(dir: BorrowedFd<'_>) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(dir)? {
        names.extend(entry?.file_name().to_str().ok().map(str::to_owned));
    }
    Ok(names)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::fs::{self, File};
    use std::os::fd::AsFd as _;

    use super::*;

    #[test]
    fn a_listing_that_is_cut_misses_no_file_that_takes_the_place_of_another() {
        for number in 0..32 {
            let dir = tempfile::tempdir().unwrap();
            let path = |name: &str| dir.path().join(format!("{name}-{number}"));
            fs::write(path("old"), "").unwrap();
            let opened = File::open(dir.path()).unwrap();
            let mut calls = 0;
            // Room for one name.
            let names = names_in_room(opened.as_fd(), 40, &mut || {
                calls += 1;
                if calls == 2 {
                    fs::write(path("new"), "").unwrap();
                    fs::remove_file(path("old")).unwrap();
                }
            });
            let names = names.unwrap();
            assert!(calls > 2, "it was not cut");
            let ours: Vec<_> = names.iter().filter(|name| !name.starts_with('.')).collect();
            assert_eq!(ours, [&format!("new-{number}")]);
        }
    }
}
