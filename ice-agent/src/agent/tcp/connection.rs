//! What is kept of each connection.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use thirl_common::wire::TransactionId;

use super::super::event::{ListenerId, Route, StreamId};
use super::super::sorted::SortedMap;
use crate::candidate::TcpType;

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// The peer's packets, on the pairs that go this way.
    Peer { route: Route, to: SocketAddr },
    /// To ask a STUN server, and then to keep the NAT's mapping.
    Server { server: SocketAddr, asked: TransactionId, answered: bool },
}

/// A connection, or one that was asked for.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) listener: ListenerId,
    pub(super) purpose: Purpose,
    pub(super) connected: bool,
    /// Whether the other end has shown that it is the peer.
    pub(super) proven: bool,
}

impl Connection {
    pub(super) fn asked_for(listener: ListenerId, purpose: Purpose) -> Connection {
        Connection { listener, purpose, connected: false, proven: false }
    }

    pub(super) fn accepted(listener: ListenerId, route: Route, to: SocketAddr) -> Connection {
        let purpose = Purpose::Peer { route, to };
        Connection { listener, purpose, connected: true, proven: false }
    }
}

/// An agent's connections, in the order in which they were named.
#[derive(Debug, Default)]
pub(in crate::agent) struct Connections {
    streams: BTreeMap<StreamId, Connection>,
    by_way: SortedMap<(Route, SocketAddr), StreamId>,
}

impl Connections {
    pub(super) fn insert(&mut self, stream: StreamId, connection: Connection) {
        if let Purpose::Peer { route, to } = connection.purpose {
            self.by_way.insert((route, to), stream);
        }
        self.streams.insert(stream, connection);
    }

    pub(super) fn remove(&mut self, stream: StreamId) -> Option<Connection> {
        let connection = self.streams.remove(&stream)?;
        if let Purpose::Peer { route, to } = connection.purpose
            && self.find(route, to) == Some(stream)
        {
            self.by_way.remove(&(route, to));
        }
        Some(connection)
    }

    pub(super) fn get(&self, stream: StreamId) -> Option<&Connection> {
        self.streams.get(&stream)
    }

    pub(super) fn get_mut(&mut self, stream: StreamId) -> Option<&mut Connection> {
        self.streams.get_mut(&stream)
    }

    pub(super) fn len(&self) -> usize {
        self.streams.len()
    }

    /// The connection of the pairs that go this way.
    pub(in crate::agent) fn find(&self, route: Route, to: SocketAddr) -> Option<StreamId> {
        self.by_way.get(&(route, to)).copied()
    }

    pub(super) fn is_connected(&self, stream: StreamId) -> bool {
        self.get(stream).is_some_and(|connection| connection.connected)
    }

    /// Whether there is a connection, or one can be asked for.
    pub(in crate::agent) fn may_be_had(&self, route: Route, to: SocketAddr) -> bool {
        !matches!(route, Route::Tcp(_, TcpType::Passive)) || self.find(route, to).is_some()
    }

    /// `false` if that is no news.
    pub(super) fn prove(&mut self, stream: StreamId) -> bool {
        let connection = self.streams.get_mut(&stream);
        connection.is_some_and(|connection| !std::mem::replace(&mut connection.proven, true))
    }

    /// Of so many that have been accepted and not proved themselves the oldest; none if there are fewer.
    pub(super) fn unproven_beyond(&self, most: usize) -> Option<StreamId> {
        let unproven = |connection: &Connection| {
            connection.connected && !connection.proven && matches!(connection.purpose, Purpose::Peer { .. })
        };
        let mut unproven = self.streams.iter().filter(|(_, connection)| unproven(connection));
        let oldest = unproven.next().map(|(stream, _)| *stream);
        oldest.filter(|_| unproven.count() + 1 >= most)
    }

    pub(super) fn all(&self) -> Vec<StreamId> {
        self.streams.keys().copied().collect()
    }

    /// Those from and to a port.
    pub(super) fn of(&self, listener: ListenerId) -> Vec<StreamId> {
        let of_it = self.streams.iter().filter(|(_, connection)| connection.listener == listener);
        of_it.map(|(stream, _)| *stream).collect()
    }

    /// Those of pairs.
    pub(super) fn to_peer(&self) -> Vec<(StreamId, Route, SocketAddr)> {
        let to_peer = self.streams.iter().filter_map(|(stream, connection)| match connection.purpose {
            Purpose::Peer { route, to } => Some((*stream, route, to)),
            Purpose::Server { .. } => None,
        });
        to_peer.collect()
    }

    /// Those to STUN servers, and whether they have answered.
    pub(super) fn to_servers(&self) -> Vec<(StreamId, bool)> {
        let to_servers = self.streams.iter().filter_map(|(stream, connection)| match connection.purpose {
            Purpose::Server { answered, .. } => Some((*stream, answered)),
            Purpose::Peer { .. } => None,
        });
        to_servers.collect()
    }
}
