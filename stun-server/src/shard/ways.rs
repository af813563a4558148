//! The sockets that clients send to, and how datagrams get to clients.

use std::net::{IpAddr, SocketAddr};

use thirl_common::io::{Route, SocketId};
use thirl_common::net::{ClientAddr, FiveTuple, ServerAddr, Transport};

use super::proxied::Proxied;

/// A UDP socket that clients send to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Listener {
    pub(super) socket: SocketId,
    pub(super) addr: SocketAddr,
}

impl Listener {
    /// The server address that a datagram was sent to.
    #[inline]
    pub(super) fn server_addr(&self, local: Option<IpAddr>) -> ServerAddr {
        match local {
            Some(ip) if self.is_wildcard() => ServerAddr(SocketAddr::new(ip, self.addr.port())),
            _ => ServerAddr(self.addr),
        }
    }

    fn is_wildcard(&self) -> bool {
        self.addr.ip().is_unspecified()
    }

    /// How a datagram leaves from `server`, if it can by this socket.
    #[inline]
    pub(super) fn route(&self, server: ServerAddr, client: ClientAddr) -> Option<Route> {
        let source = if self.addr == server.0 {
            None
        } else if self.is_wildcard()
            && self.addr.port() == server.port()
            && self.addr.is_ipv4() == server.0.is_ipv4()
        {
            Some(server.ip())
        } else {
            return None;
        };
        Some(Route { socket: self.socket, to: client.0, source })
    }
}

/// How datagrams get to clients.
pub(super) struct Ways {
    pub(super) listeners: Vec<Listener>,
    pub(super) proxied: Proxied,
}

impl Ways {
    /// How a datagram gets to a client as it is; `None` if it is one with a stream or a session.
    #[inline]
    pub(super) fn route(&self, five_tuple: &FiveTuple) -> Option<Route> {
        if five_tuple.transport != Transport::Udp {
            return None;
        }
        let direct = || {
            let mut listeners = self.listeners.iter();
            listeners.find_map(|listener| listener.route(five_tuple.server, five_tuple.client))
        };
        self.proxied.route(five_tuple).or_else(direct)
    }
}
