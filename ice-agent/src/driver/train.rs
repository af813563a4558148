//! Datagrams on their way out: those that follow each other by one socket, to one address and of one length, leave
//! together.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use super::queue::Queue;
use super::socket::Socket;
use super::stream::ROOM;
use crate::agent::{Transmit, Via};

/// What UDP can carry at one call: bytes.
const MAX_BYTES: usize = 65_507;

/// Datagrams of one length, of which the last may be shorter.
#[derive(Debug)]
pub(super) struct Train {
    pub(super) via: Via,
    pub(super) to: SocketAddr,
    pub(super) bytes: Vec<u8>,
    pub(super) segment: usize,
}

impl Train {
    pub(super) fn new(transmit: Transmit) -> Train {
        let Transmit { via, to, payload } = transmit;
        Train { via, to, segment: payload.len(), bytes: payload }
    }

    /// Appends a datagram, or hands it back if it has to travel by itself.
    pub(super) fn append(&mut self, transmit: Transmit, max_train: usize) -> Option<Transmit> {
        let len = transmit.payload.len();
        let fits = self.bytes.len() + len <= MAX_BYTES.min(self.segment.saturating_mul(max_train));
        let alike = (self.via, self.to) == (transmit.via, transmit.to);
        let last_is_whole = self.segment > 0 && self.bytes.len().is_multiple_of(self.segment);
        if !(fits && alike && last_is_whole && (1..=self.segment).contains(&len)) {
            return Some(transmit);
        }
        if self.bytes.len() == self.segment {
            // Where two follow each other there are more.
            self.bytes.reserve_exact(MAX_BYTES.min(self.segment * max_train) - self.bytes.len());
        }
        self.bytes.extend_from_slice(&transmit.payload);
        None
    }
}

/// What a train leaves by.
#[derive(Clone, Debug)]
pub(super) enum Outlet {
    Socket(Arc<Socket>),
    /// A connection to the peer.
    Stream(Arc<Queue>),
}

impl Outlet {
    /// Waits until there is room. One that fails has room for anything.
    pub(super) async fn writable(&self) {
        match self {
            Outlet::Socket(socket) => drop(socket.writable().await),
            Outlet::Stream(queue) => queue.room(ROOM).await,
        }
    }
}

/// A train that has to wait until its outlet can take it.
#[derive(Debug)]
pub(super) struct Blocked {
    pub(super) outlet: Outlet,
    pub(super) train: Train,
}

impl Blocked {
    /// Sends it once there is room.
    pub(super) async fn send(self) -> io::Result<()> {
        let Blocked { outlet, train } = self;
        match outlet {
            Outlet::Socket(socket) => socket.send(train.to, &train.bytes, train.segment).await,
            Outlet::Stream(queue) => {
                queue.room(ROOM).await;
                queue.push([train.bytes.into()]);
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_alike_travels_together() {
        let agent_socket = || {
            let config = crate::agent::AgentConfig::new(crate::agent::Role::Controlled);
            let mut agent = crate::agent::Agent::new(config, [0; 32]);
            agent.add_local_socket(super::super::now(), "127.0.0.1:1".parse().unwrap(), 1)
        };
        let via = Via::Socket(agent_socket());
        let to: SocketAddr = "127.0.0.1:9".parse().unwrap();
        let datagram = |len, to| Transmit { via, to, payload: vec![7; len] };
        let mut train = Train::new(datagram(100, to));
        assert!(train.append(datagram(100, to), 4).is_none());
        assert!(train.append(datagram(101, to), 4).is_some());
        assert!(train.append(datagram(0, to), 4).is_some());
        assert!(train.append(datagram(100, "127.0.0.1:8".parse().unwrap()), 4).is_some());
        assert!(train.append(datagram(60, to), 4).is_none());
        assert!(train.append(datagram(60, to), 4).is_some(), "the last one is shorter");
        assert_eq!((train.bytes.len(), train.segment), (260, 100));
        let mut full = Train::new(datagram(100, to));
        assert_eq!((0..9).filter(|_| full.append(datagram(100, to), 4).is_none()).count(), 3);
        let mut large = Train::new(datagram(65_000, to));
        assert!(large.append(datagram(600, to), 64).is_some());
    }
}
