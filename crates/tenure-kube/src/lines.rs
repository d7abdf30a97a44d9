//! [`Lines`]: the events of a watch, one a line.

use bytes::BytesMut;
use futures_util::StreamExt as _;
use http_body_util::{BodyDataStream, BodyExt as _};
use kube::client::Body;

use crate::reply::LONGEST;

/// The lines of a body, each no longer than an answer may be.
pub(crate) struct Lines {
    body: BodyDataStream<Body>,
    buffer: BytesMut,
    /// Up to here there is no line's end.
    searched: usize,
}

impl Lines {
    pub(crate) fn new(body: Body) -> Self {
        Self {
            body: body.into_data_stream(),
            buffer: BytesMut::new(),
            searched: 0,
        }
    }

    /// The next line; `None` at the end, also when it came by force. Cancel safe.
    pub(crate) async fn next(&mut self) -> Option<BytesMut> {
        loop {
            let end = self.buffer[self.searched..]
                .iter()
                .position(|byte| *byte == b'\n');
            if let Some(end) = end {
                let line = self.buffer.split_to(self.searched + end + 1);
                self.searched = 0;
                return Some(line);
            }
            self.searched = self.buffer.len();
            if self.buffer.len() > LONGEST {
                return None;
            }
            self.buffer
                .extend_from_slice(&self.body.next().await?.ok()?);
        }
    }
}
