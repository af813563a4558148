//! A connected datagram path.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use thirl_common::io::path_mtu;
use tokio::sync::broadcast;

use super::datagrams::Datagrams;
use super::now;
use super::shared::{Lifeline, Shared};
use super::train::Blocked;
use crate::agent::{Event, PathKind, Report, SelectedPair, SendError, State};
use crate::candidate::{CandidateAddress, CandidateKind};

/// So many datagrams are handed to the agent at a time; others may have their turn in between.
pub(super) const MAX_BATCH: usize = 64;
/// The largest datagram: bytes.
const MAX_DATAGRAM: usize = 65_507;
/// A UDP header (RFC 768): bytes.
const UDP_HEADER: usize = 8;
/// A ChannelData header (RFC 8656, section 12.4): bytes.
const CHANNEL_HEADER: usize = 4;

/// The path is gone.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PathClosed {
    /// Nothing carries packets to the peer any more; the report says more.
    #[error("the path is lost: {reason}")]
    Lost {
        /// Why.
        reason: String,
    },
    /// This side closed it.
    #[error("the path was closed")]
    Closed,
    /// The datagram is larger than UDP can carry.
    #[error("the datagram is larger than UDP can carry")]
    TooLarge,
}

/// A datagram was not sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TrySendError {
    /// The socket has no room now: see [`Path::writable`].
    #[error("the socket has no room for the datagram now")]
    Full,
    /// It never will be.
    #[error(transparent)]
    Closed(#[from] PathClosed),
}

/// Datagrams to and from the peer, over whichever pair is selected at the time. As with UDP, they may be lost, doubled or
/// reordered; those that nobody fetches are dropped, the oldest first.
#[derive(Clone, Debug)]
pub struct Path {
    shared: Arc<Shared>,
    _lifeline: Arc<Lifeline>,
}

impl Path {
    pub(super) fn new(shared: Arc<Shared>, lifeline: Arc<Lifeline>) -> Path {
        Path { shared, _lifeline: lifeline }
    }

    /// Sends a datagram. Waits while the socket has no room.
    pub async fn send(&self, data: &[u8]) -> Result<(), PathClosed> {
        self.send_batch(&[data]).await
    }

    /// Sends datagrams. Those of one length that follow each other leave at one system call, where the system can do that
    /// (GSO). Waits while the socket has no room.
    pub async fn send_batch(&self, datagrams: &[impl AsRef<[u8]>]) -> Result<(), PathClosed> {
        for batch in datagrams.chunks(MAX_BATCH) {
            for blocked in self.hand_over(batch.iter().map(AsRef::as_ref))? {
                // What fails after that is lost, as any datagram may be.
                blocked.send().await.ok();
            }
        }
        Ok(())
    }

    /// Sends a datagram if the socket has room for it.
    pub fn try_send(&self, data: &[u8]) -> Result<(), TrySendError> {
        self.try_send_batch(&[data])
    }

    /// Sends datagrams, as many as the socket has room for: if that are not all, the error is [`TrySendError::Full`].
    pub fn try_send_batch(&self, datagrams: &[impl AsRef<[u8]>]) -> Result<(), TrySendError> {
        for batch in datagrams.chunks(MAX_BATCH) {
            if let Some(blocked) = self.hand_over(batch.iter().map(AsRef::as_ref))?.pop() {
                self.shared.lock().full = Some(blocked.outlet);
                return Err(TrySendError::Full);
            }
        }
        Ok(())
    }

    /// Waits until the socket has room again that had none at the last [`Path::try_send`].
    pub async fn writable(&self) {
        let full = self.shared.lock().full.take();
        if let Some(outlet) = full {
            outlet.writable().await;
        }
    }

    /// Receives a datagram into a buffer and returns its length; what does not fit is lost.
    pub async fn recv(&self, buffer: &mut [u8]) -> Result<usize, PathClosed> {
        let datagram = self.recv_datagram().await?;
        let len = datagram.len().min(buffer.len());
        buffer[..len].copy_from_slice(&datagram[..len]);
        Ok(len)
    }

    /// Receives a datagram of any length.
    pub async fn recv_datagram(&self) -> Result<Bytes, PathClosed> {
        poll_fn(|cx| self.poll_recv(cx)).await
    }

    /// Waits for a datagram and appends as many as there are, at most `max` and at least one; returns how many.
    pub async fn recv_batch(&self, into: &mut Vec<Bytes>, max: usize) -> Result<usize, PathClosed> {
        match poll_fn(|cx| self.shared.incoming.poll_fill(cx, into, max.max(1))).await {
            0 => Err(self.why_closed()),
            count => Ok(count),
        }
    }

    /// A datagram that has arrived already; `None` if there is none now.
    pub fn try_recv(&self) -> Result<Option<Bytes>, PathClosed> {
        match self.shared.incoming.try_pop() {
            Poll::Ready(Some(datagram)) => Ok(Some(datagram)),
            Poll::Ready(None) => Err(self.why_closed()),
            Poll::Pending => Ok(None),
        }
    }

    /// As [`Path::recv_datagram`], for who polls.
    pub fn poll_recv(&self, cx: &mut Context<'_>) -> Poll<Result<Bytes, PathClosed>> {
        self.shared.incoming.poll_pop(cx).map(|datagram| datagram.ok_or_else(|| self.why_closed()))
    }

    /// The path as a stream of what is received and a sink for what is sent.
    pub fn datagrams(&self) -> Datagrams {
        Datagrams::new(self.clone())
    }

    /// The largest datagram that gets through in one piece, as far as this host knows: bytes. It knows what its own
    /// interfaces take, and what routers have said (RFC 1191, RFC 8201); what lies beyond a relay it does not know. Larger
    /// ones are cut into fragments, which not every network lets through. A connection carries any datagram in one piece.
    pub fn mtu(&self) -> Option<usize> {
        let pair = self.pair()?;
        if pair.local.transport.tcp_type().is_some() {
            return Some(MAX_DATAGRAM);
        }
        let relayed = pair.local.kind == CandidateKind::Relayed;
        let to = self.shared.lock().agent.destination()?;
        let ip_header = if to.is_ipv4() { 20 } else { 40 };
        let headers = ip_header + UDP_HEADER + if relayed { CHANNEL_HEADER } else { 0 };
        path_mtu(to).ok()?.min(usize::from(u16::MAX)).checked_sub(headers)
    }

    /// The pair that data is sent over now.
    pub fn pair(&self) -> Option<SelectedPair> {
        let core = self.shared.lock();
        core.agent.current()
    }

    /// This side's address, as the peer sees it; unspecified if the path is gone.
    pub fn local(&self) -> SocketAddr {
        address(self.pair().map(|pair| pair.local.address))
    }

    /// The peer's address; unspecified if the path is gone.
    pub fn remote(&self) -> SocketAddr {
        address(self.pair().map(|pair| pair.remote.address))
    }

    /// Whether packets go through a relay.
    pub fn kind(&self) -> PathKind {
        self.pair().map_or(PathKind::Direct, |pair| pair.path)
    }

    /// The round-trip time of the last check on the selected pair.
    pub fn rtt(&self) -> Option<Duration> {
        let report = self.report();
        report.pairs.iter().find(|pair| pair.selected).and_then(|pair| pair.rtt_us).map(Duration::from_micros)
    }

    /// What happens from now on, such as [`Event::Selected`] when the path moves to another pair.
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.shared.events()
    }

    /// Gives the agent datagrams to send, and returns those for which there was no room.
    pub(super) fn hand_over<'a>(
        &self,
        datagrams: impl Iterator<Item = &'a [u8]>,
    ) -> Result<Vec<Blocked>, PathClosed> {
        let now = now();
        let mut core = self.shared.lock();
        for data in datagrams {
            match core.agent.send(now, data) {
                Ok(()) => {}
                Err(SendError::TooLarge) => return Err(PathClosed::TooLarge),
                // A path that looks for another pair loses what it is given meanwhile.
                Err(SendError::NotConnected) if is_alive(core.agent.state()) => {}
                Err(SendError::NotConnected) => return Err(closed(core.agent.state(), &core.agent.report())),
            }
        }
        Ok(self.shared.flush(&mut core))
    }

    fn why_closed(&self) -> PathClosed {
        let core = self.shared.lock();
        closed(core.agent.state(), &core.agent.report())
    }

    /// Waits until the path is gone, and says why.
    pub async fn closed(&self) -> PathClosed {
        let mut progress = self.shared.progress();
        let gone = progress.wait_for(|progress| !is_alive(progress.state)).await.is_ok();
        debug_assert!(gone, "the sender lives as long as this path");
        self.why_closed()
    }

    /// Closes the agent and all its paths, whoever else holds them.
    pub async fn close(&self) {
        self.shared.close();
        self.closed().await;
    }

    /// Datagrams that were dropped because nobody fetched them.
    pub fn dropped(&self) -> u64 {
        self.shared.incoming.dropped()
    }

    /// What has happened so far, and why.
    pub fn report(&self) -> Report {
        self.shared.lock().agent.report()
    }
}

/// Why there is no path any more.
pub(super) fn closed_now(shared: &Shared) -> PathClosed {
    let core = shared.lock();
    closed(core.agent.state(), &core.agent.report())
}

fn is_alive(state: State) -> bool {
    !matches!(state, State::Failed | State::Closed)
}

fn closed(state: State, report: &Report) -> PathClosed {
    match (state, &report.failure) {
        (State::Closed, None) => PathClosed::Closed,
        (_, reason) => {
            PathClosed::Lost { reason: reason.clone().unwrap_or_else(|| "it was closed".to_owned()) }
        }
    }
}

fn address(address: Option<CandidateAddress>) -> SocketAddr {
    let unspecified = SocketAddr::new(std::net::Ipv4Addr::UNSPECIFIED.into(), 0);
    address.and_then(|address| address.ip()).unwrap_or(unspecified)
}
