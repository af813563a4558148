//! What travels: datagrams and the segments of TCP connections.

use std::net::SocketAddr;

use thirl_common::net::Transport;

/// A datagram, or a segment of a TCP connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// The source, as its present place in the network sees it.
    pub from: SocketAddr,
    /// The destination.
    pub to: SocketAddr,
    /// What the ends call it. UDP and DTLS are datagrams.
    pub transport: Transport,
    /// What a segment is for; `None` for a datagram.
    pub segment: Option<Segment>,
    /// What it carries.
    pub payload: Vec<u8>,
}

/// A TCP segment (RFC 9293). Numbers count frames, and both directions begin with 0: a frame is never cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Segment {
    /// The first of a connection.
    Syn,
    /// The answer to it.
    SynAck,
    /// All frames before this one have come.
    Ack(u32),
    /// The frame with this number.
    Frame(u32),
    /// Nothing comes after the frame before this number.
    Fin(u32),
    /// There is no such connection.
    Rst,
}

/// The headers of IPv4 and UDP, bytes.
const HEADERS_V4: usize = 20 + 8;
/// The headers of IPv6 and UDP, bytes.
const HEADERS_V6: usize = 40 + 8;

impl Packet {
    /// A datagram.
    pub fn udp(from: SocketAddr, to: SocketAddr, payload: Vec<u8>) -> Packet {
        Packet { from, to, transport: Transport::Udp, segment: None, payload }
    }

    /// Whether it is of a TCP connection.
    pub fn is_tcp(&self) -> bool {
        self.segment.is_some()
    }

    /// The length that a datagram takes on a link, bytes.
    pub(super) fn len(&self) -> usize {
        self.payload.len() + if self.to.is_ipv4() { HEADERS_V4 } else { HEADERS_V6 }
    }
}
