//! The sockets between `tenure run` and its helpers, the
//! [guard](crate::supervisor::guard) and the [subreaper](crate::supervisor::subreaper): short
//! messages of text, and open files.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};
use tokio::io::Interest;
use tokio::net::UnixStream;

use crate::supervisor::witness::MOST_SOCKETS;

/// Standard input, output and error.
pub(crate) const STREAMS: usize = 3;

/// No message brings more open files.
const MOST_FILES: usize = STREAMS + MOST_SOCKETS;

/// No message is longer.
const LONGEST: usize = 512;

/// What `tenure run` says.
pub(crate) mod request {
    use std::str::FromStr;

    use tenure::Time;

    /// Run the command until the time that follows; its three standard streams come with it, and
    /// then the connections that show others that the leader lives.
    pub(crate) const START: &str = "start";
    /// Kill the command at the time that follows, and not at the one said before. The connections
    /// that come with it take the place of the earlier ones.
    pub(crate) const UNTIL: &str = "until";
    /// The command's process group has the number that follows; the guard is told this.
    pub(crate) const GROUP: &str = "group";

    pub(crate) fn with_time(word: &str, time: Time) -> String {
        format!("{word} {}", time.as_nanos())
    }

    /// The time of a request that has this word.
    pub(crate) fn time_of(text: &str, word: &str) -> Option<Time> {
        number_of(text, word).map(Time::from_nanos)
    }

    /// The number of a request that has this word.
    pub(crate) fn number_of<N: FromStr>(text: &str, word: &str) -> Option<N> {
        text.strip_prefix(word)?.strip_prefix(' ')?.parse().ok()
    }

    /// Kill what is left of the command, tell how it ended, and exit.
    pub(crate) const END: &str = "end";
}

/// What the subreaper says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum News {
    /// The command's process has this number.
    Started(i32),
    /// No process could be started for the command.
    NotStarted(String),
    Exited,
    /// By this signal.
    Stopped(i32),
    Continued,
    /// All is over; the command's wait status, and whether something could not be killed.
    Ended {
        status: i32,
        left: bool,
    },
    /// The subreaper is dead, or something else wrote to its socket.
    Gone,
}

impl News {
    pub(crate) fn text(&self) -> String {
        match self {
            Self::Started(pid) => format!("started {pid}"),
            Self::NotStarted(error) => format!("not-started {error}"),
            Self::Exited => "exited".to_owned(),
            Self::Stopped(signal) => format!("stopped {signal}"),
            Self::Continued => "continued".to_owned(),
            Self::Ended { status, left } => format!("ended {status} {left}"),
            Self::Gone => "gone".to_owned(),
        }
    }

    fn of(text: &str) -> Self {
        Self::parse(text).unwrap_or(Self::Gone)
    }

    fn parse(text: &str) -> Option<Self> {
        let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
        Some(match word {
            "started" => Self::Started(rest.parse().ok()?),
            "not-started" => Self::NotStarted(rest.to_owned()),
            "exited" => Self::Exited,
            "stopped" => Self::Stopped(rest.parse().ok()?),
            "continued" => Self::Continued,
            "ended" => {
                let (status, left) = rest.split_once(' ')?;
                Self::Ended {
                    status: status.parse().ok()?,
                    left: left.parse().ok()?,
                }
            }
            _ => return None,
        })
    }
}

/// One end of the socket. Neither end ever blocks.
#[derive(Debug)]
pub(crate) struct Control(UnixStream);

/// A message, and the open files that came with it.
pub(crate) type Message = (String, Vec<OwnedFd>);

impl AsFd for Control {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Control {
    /// Our end, and the one that is given to a helper.
    pub(crate) fn pair() -> io::Result<(Self, OwnedFd)> {
        let (ours, theirs) = rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )?;
        Ok((Self::of(ours)?, theirs))
    }

    pub(crate) fn of(socket: OwnedFd) -> io::Result<Self> {
        let socket = std::os::unix::net::UnixStream::from(socket);
        socket.set_nonblocking(true)?;
        Ok(Self(UnixStream::from_std(socket)?))
    }

    /// Where a message cannot be sent, the other end is closed, or has not read for long.
    pub(crate) fn send(&self, text: &str) -> io::Result<()> {
        self.send_with(text, &[])
    }

    pub(crate) fn send_with(&self, text: &str, files: &[BorrowedFd<'_>]) -> io::Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_FILES))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !files.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(files)) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let bytes = text.as_bytes();
        let bytes = IoSlice::new(&bytes[..bytes.len().min(LONGEST)]);
        rustix::net::sendmsg(
            self.0.as_fd(),
            &[bytes],
            &mut ancillary,
            SendFlags::NOSIGNAL,
        )?;
        Ok(())
    }

    /// As [`send`](Self::send), with the connections to hold. Where the system lets no more of them
    /// be on their way, because others do not read theirs, the message goes without: then the other
    /// end keeps those it has.
    pub(crate) fn send_to_hold(
        &self,
        text: &str,
        connections: &[BorrowedFd<'_>],
    ) -> io::Result<()> {
        match self.send_with(text, connections) {
            Err(error) if error.raw_os_error() == Some(Errno::TOOMANYREFS.raw_os_error()) => {
                self.send(text)
            }
            sent => sent,
        }
    }

    /// The next message, if one has come; an empty one when the other end is closed.
    pub(crate) fn receive_now(&self) -> io::Result<Message> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_FILES))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut bytes = [0; LONGEST];
        let received = rustix::net::recvmsg(
            self.0.as_fd(),
            &mut [IoSliceMut::new(&mut bytes)],
            &mut ancillary,
            RecvFlags::CMSG_CLOEXEC,
        )?;
        let mut files = Vec::new();
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(passed) = message {
                files.extend(passed);
            }
        }
        let text = String::from_utf8_lossy(&bytes[..received.bytes]);
        Ok((text.into_owned(), files))
    }

    /// The next message. Cancel safe.
    pub(crate) async fn receive(&self) -> io::Result<Message> {
        loop {
            self.0.readable().await?;
            match self.0.try_io(Interest::READABLE, || self.receive_now()) {
                Err(error) if is_nothing(&error) => {}
                received => return received,
            }
        }
    }

    /// What the subreaper says next. Cancel safe.
    pub(crate) async fn news(&self) -> News {
        match self.receive().await {
            Ok((text, _)) => News::of(&text),
            Err(_) => News::Gone,
        }
    }

    /// What the subreaper has said, if there is something.
    pub(crate) fn news_now(&self) -> Option<News> {
        match self.receive_now() {
            Ok((text, _)) => Some(News::of(&text)),
            Err(error) if is_nothing(&error) => None,
            Err(_) => Some(News::Gone),
        }
    }
}

/// Whether a message has not come yet.
pub(crate) fn is_nothing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_subreaper_says_is_understood() {
        for news in [
            News::Started(7),
            News::NotStarted("no memory".to_owned()),
            News::Exited,
            News::Stopped(20),
            News::Continued,
            News::Ended {
                status: 256,
                left: true,
            },
        ] {
            assert_eq!(News::of(&news.text()), news);
        }
        for text in ["", "ended", "ended x true", "started", "what"] {
            assert_eq!(News::of(text), News::Gone);
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn open_files_come_with_a_message() {
        let (ours, theirs) = Control::pair().unwrap();
        let theirs = Control::of(theirs).unwrap();
        let (reader, writer) = std::io::pipe().unwrap();
        ours.send_with(request::START, &[writer.as_fd()]).unwrap();
        drop(writer);
        let (text, files) = theirs.receive().await.unwrap();
        assert_eq!((text.as_str(), files.len()), (request::START, 1));
        drop(files);
        assert_eq!(std::io::read_to_string(reader).unwrap(), "");
        assert_eq!(ours.news_now(), None);
        let until = tenure::Time::from_nanos(7);
        ours.send(&request::with_time(request::UNTIL, until))
            .unwrap();
        let (text, _) = theirs.receive().await.unwrap();
        assert_eq!(request::time_of(&text, request::UNTIL), Some(until));
        assert_eq!(request::time_of(&text, request::START), None);
        drop(theirs);
        assert_eq!(ours.news().await, News::Gone);
        assert!(ours.send(request::END).is_err());
    }
}
