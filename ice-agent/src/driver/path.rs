//! A connected datagram path.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::broadcast;

use super::now;
use super::shared::{Blocked, Lifeline, Shared};
use crate::agent::{Event, PathKind, Report, SelectedPair, SendError, State};
use crate::candidate::CandidateAddress;

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
        let blocked = {
            let mut core = self.shared.lock();
            match core.agent.send(now(), data) {
                Ok(()) => self.shared.flush(&mut core),
                Err(SendError::TooLarge) => return Err(PathClosed::TooLarge),
                // A path that looks for another pair loses what it is given meanwhile.
                Err(SendError::NotConnected) if is_alive(core.agent.state()) => None,
                Err(SendError::NotConnected) => return Err(closed(core.agent.state(), &core.agent.report())),
            }
        };
        if let Some(Blocked { socket, transmit }) = blocked {
            // What fails after that is lost, as any datagram may be.
            socket.send_to(&transmit.payload, transmit.to).await.ok();
        }
        Ok(())
    }

    /// Receives a datagram into a buffer and returns its length; what does not fit is lost.
    pub async fn recv(&self, buffer: &mut [u8]) -> Result<usize, PathClosed> {
        let datagram = self.recv_datagram().await?;
        let len = datagram.len().min(buffer.len());
        buffer[..len].copy_from_slice(&datagram[..len]);
        Ok(len)
    }

    /// Receives a datagram of any length.
    pub async fn recv_datagram(&self) -> Result<Vec<u8>, PathClosed> {
        match self.shared.incoming.pop().await {
            Some(datagram) => Ok(datagram),
            None => {
                let core = self.shared.lock();
                Err(closed(core.agent.state(), &core.agent.report()))
            }
        }
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

    /// Waits until the path is gone, and says why.
    pub async fn closed(&self) -> PathClosed {
        let mut progress = self.shared.progress();
        let gone = progress.wait_for(|progress| !is_alive(progress.state)).await.is_ok();
        debug_assert!(gone, "the sender lives as long as this path");
        let core = self.shared.lock();
        closed(core.agent.state(), &core.agent.report())
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
