//! A path as a socket of quinn, so that QUIC runs over it.

use std::fmt;
use std::future::Future;
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};

use super::path::{MAX_BATCH, Path, PathClosed, TrySendError};

/// The socket of an endpoint that has one peer, at the other end of a path.
///
/// QUIC sees the addresses that the path had at first. The path moves between candidate pairs by itself, which to QUIC is
/// no migration.
///
/// ```no_run
/// use std::sync::Arc;
/// use thirl_ice_agent::driver::{Path, QuicSocket};
///
/// # type Error = Box<dyn std::error::Error>;
/// # type Given = (quinn::EndpointConfig, quinn::ClientConfig, Arc<dyn quinn::Runtime>);
/// # async fn run(path: Path, (config, client, runtime): Given) -> Result<(), Error> {
/// let socket = QuicSocket::new(path);
/// let peer = socket.remote();
/// let endpoint = quinn::Endpoint::new_with_abstract_socket(config, None, Arc::new(socket), runtime)?;
/// let connection = endpoint.connect_with(client, peer, "peer")?.await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct QuicSocket {
    path: Path,
    local: SocketAddr,
    remote: SocketAddr,
}

impl QuicSocket {
    /// The path should be used for nothing else: whoever else receives on it takes datagrams from QUIC.
    pub fn new(path: Path) -> QuicSocket {
        QuicSocket { local: path.local(), remote: path.remote(), path }
    }

    /// The peer's address, as the endpoint is to be told.
    pub fn remote(&self) -> SocketAddr {
        self.remote
    }
}

impl AsyncUdpSocket for QuicSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(Poller { path: self.path.clone(), waiting: None })
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let segment = transmit.segment_size.unwrap_or(transmit.contents.len()).max(1);
        let datagrams: Vec<_> = transmit.contents.chunks(segment).collect();
        match self.path.try_send_batch(&datagrams) {
            Ok(()) => Ok(()),
            Err(TrySendError::Full) => Err(io::ErrorKind::WouldBlock.into()),
            Err(TrySendError::Closed(reason)) => Err(gone(reason)),
        }
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        metas: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let mut next = Some(ready!(self.path.poll_recv(cx)).map_err(gone)?);
        let mut count = 0;
        for (buffer, meta) in buffers.iter_mut().zip(metas) {
            let datagram = match next.take() {
                Some(datagram) => datagram,
                None => match self.path.try_recv() {
                    Ok(Some(datagram)) => datagram,
                    // What the end was is said at the next call.
                    Ok(None) | Err(_) => break,
                },
            };
            // A longer one was not meant for this endpoint, which has said how much it takes.
            let len = datagram.len().min(buffer.len());
            buffer[..len].copy_from_slice(&datagram[..len]);
            *meta = RecvMeta { addr: self.remote, len, stride: len, ecn: None, dst_ip: None };
            count += 1;
        }
        Poll::Ready(Ok(count))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.local)
    }

    fn max_transmit_segments(&self) -> usize {
        MAX_BATCH
    }
}

fn gone(reason: PathClosed) -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, reason)
}

/// Waits for room on behalf of one task.
struct Poller {
    path: Path,
    waiting: Option<Pin<Box<dyn Future<Output = ()> + Send + Sync>>>,
}

impl UdpPoller for Poller {
    fn poll_writable(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let path = self.path.clone();
        let waiting = self.waiting.get_or_insert_with(|| Box::pin(async move { path.writable().await }));
        ready!(waiting.as_mut().poll(cx));
        self.waiting = None;
        Poll::Ready(Ok(()))
    }
}

impl fmt::Debug for Poller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Poller").field("path", &self.path).finish_non_exhaustive()
    }
}
