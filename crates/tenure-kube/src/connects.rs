//! [`Connects`]: ends connections that do not come up when later attempts make others.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use tower::{BoxError, Service};

use crate::transport::Generation;

/// A connection has this long to come up, however soon later attempts begin: those of other
/// elections, or of calls that are dropped early, may follow each other quickly.
const LEAST: Duration = Duration::from_secs(2);

/// Connects. What has not connected when [two later attempts have begun](Generation::replaced), and
/// after 2 s, is given up. What has connected goes on, and so does its TLS handshake: slow is not
/// dead.
#[derive(Clone)]
pub(crate) struct Connects<C> {
    connector: C,
    generation: Generation,
}

impl<C> Connects<C> {
    pub(crate) fn new(connector: C, generation: Generation) -> Self {
        Self {
            connector,
            generation,
        }
    }
}

impl<C> Service<Uri> for Connects<C>
where
    C: Service<Uri>,
    C::Future: Send + 'static,
    C::Error: Into<BoxError>,
{
    type Response = C::Response;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<C::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.connector.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, server: Uri) -> Self::Future {
        let connecting = self.connector.call(server);
        let replaced = self.generation.replaced();
        let replaced = async { tokio::join!(replaced, tokio::time::sleep(LEAST)) };
        Box::pin(async move {
            tokio::select! {
                biased;
                made = connecting => made.map_err(Into::into),
                _ = replaced => {
                    let message = "no connection before two later attempts began";
                    Err(io::Error::new(io::ErrorKind::TimedOut, message).into())
                }
            }
        })
    }
}
