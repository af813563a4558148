//! A path for code that works on streams and sinks.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::{Sink, Stream};

use super::path::{Path, PathClosed};

/// A datagram that its socket takes as soon as it has room.
type Sending = Pin<Box<dyn Future<Output = io::Result<()>> + Send>>;

/// What is received, until the path is gone, and a place for what is to be sent, which holds one datagram when the socket
/// has no room.
pub struct Datagrams {
    path: Path,
    sending: Option<Sending>,
}

impl Datagrams {
    pub(super) fn new(path: Path) -> Datagrams {
        Datagrams { path, sending: None }
    }

    /// The path itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn poll_sent(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), PathClosed>> {
        if let Some(sending) = &mut self.sending {
            // What fails is lost, as any datagram may be.
            ready!(sending.as_mut().poll(cx)).ok();
            self.sending = None;
        }
        Poll::Ready(Ok(()))
    }
}

impl Stream for Datagrams {
    type Item = Bytes;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        self.path.poll_recv(cx).map(Result::ok)
    }
}

impl<D: AsRef<[u8]>> Sink<D> for Datagrams {
    type Error = PathClosed;

    fn poll_ready(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), PathClosed>> {
        self.poll_sent(cx)
    }

    fn start_send(mut self: Pin<&mut Self>, datagram: D) -> Result<(), PathClosed> {
        let blocked = self.path.hand_over(std::iter::once(datagram.as_ref()))?.pop();
        self.sending = blocked.map(|blocked| Box::pin(blocked.send()) as Sending);
        Ok(())
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), PathClosed>> {
        self.poll_sent(cx)
    }

    /// What was sent has left. The path stays, for its other handles.
    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), PathClosed>> {
        self.poll_sent(cx)
    }
}

impl fmt::Debug for Datagrams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Datagrams").field("path", &self.path).finish_non_exhaustive()
    }
}
