//! An HTTP proxy that passes CONNECT (RFC 9110, section 9.3.6) to one port.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::network::{Arrival, HostId, Network};
use super::tcp::{ConnectionId, StreamEvent};
use thirl_common::net::Transport;

/// The proxy of a host. Of HTTP there is as much as its clients need: a request or a response is one frame.
#[derive(Debug)]
pub struct Proxy {
    host: HostId,
    address: SocketAddr,
    port: u16,
    next_port: u16,
    /// The other half of each connection.
    halves: BTreeMap<ConnectionId, ConnectionId>,
    /// Whom to tell that a connection is there.
    waiting: BTreeMap<ConnectionId, ConnectionId>,
}

impl Proxy {
    /// Listens at `address`, and connects to `port` of whichever host.
    pub fn new(network: &mut Network, host: HostId, address: SocketAddr, port: u16) -> Proxy {
        network.listen(host, address, true);
        let (halves, waiting) = (BTreeMap::new(), BTreeMap::new());
        Proxy { host, address, port, next_port: 20_000, halves, waiting }
    }

    /// The host that it runs on.
    pub fn host(&self) -> HostId {
        self.host
    }

    /// Takes what has come to the host.
    pub fn handle(&mut self, network: &mut Network, arrival: Arrival) {
        let Arrival::Stream(connection, event) = arrival else { return };
        match (event, self.halves.get(&connection)) {
            (StreamEvent::Connected, _) => {
                if let Some(client) = self.waiting.remove(&connection) {
                    self.halves.extend([(client, connection), (connection, client)]);
                    network.write(client, b"HTTP/1.1 200 Connected\r\n\r\n".to_vec());
                }
            }
            (StreamEvent::Frame(frame), Some(half)) => network.write(*half, frame),
            (StreamEvent::Frame(request), None) => self.connect(network, connection, &request),
            (StreamEvent::Closed(_), _) => {
                if let Some(client) = self.waiting.remove(&connection) {
                    network.write(client, b"HTTP/1.1 502 Bad Gateway\r\n\r\n".to_vec());
                    network.close(client);
                }
                if let Some(half) = self.halves.remove(&connection) {
                    self.halves.remove(&half);
                    network.close(half);
                }
            }
            (StreamEvent::Accepted, _) => {}
        }
    }

    fn connect(&mut self, network: &mut Network, client: ConnectionId, request: &[u8]) {
        let to = requested(request).filter(|to| to.port() == self.port);
        self.next_port += 1;
        let local = SocketAddr::new(self.address.ip(), self.next_port);
        match to.and_then(|to| network.connect(self.host, local, to, Transport::Tls)) {
            Some(server) => _ = self.waiting.insert(server, client),
            None => {
                network.write(client, b"HTTP/1.1 403 Forbidden\r\n\r\n".to_vec());
                network.close(client);
            }
        }
    }
}

/// Asks for a connection.
pub(super) fn request(to: SocketAddr) -> Vec<u8> {
    format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n\r\n").into_bytes()
}

/// Whether a proxy has made the connection.
pub(super) fn is_connected(response: &[u8]) -> bool {
    response.starts_with(b"HTTP/1.1 200")
}

fn requested(request: &[u8]) -> Option<SocketAddr> {
    let line = str::from_utf8(request).ok()?.lines().next()?;
    line.strip_prefix("CONNECT ")?.strip_suffix(" HTTP/1.1")?.parse().ok()
}
