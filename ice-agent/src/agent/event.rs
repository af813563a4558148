//! What comes out of an agent, and the names by which it is referred to.

use std::net::{IpAddr, SocketAddr};

use serde::Serialize;
use thirl_common::net::Transport;
use thirl_common::uri::Host;

use super::report::Report;
use crate::candidate::{Candidate, CandidateTransport, ComponentId, TcpType};

/// A UDP socket that the agent was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SocketId(pub(super) u32);

/// A TCP port of this host that the agent was given, to be reached there and to connect from there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ListenerId(pub(super) u32);

/// A stream that the agent asked for, or took when it was told of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamId(pub(super) u32);

/// An allocation on a TURN server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct RelayId(pub(super) u32);

/// What a base sends through: the way from this agent to the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Route {
    /// A UDP socket of this host.
    Socket(SocketId),
    /// An allocation.
    Relay(RelayId),
    /// A TCP port of this host, from where connections are had in this way.
    Tcp(ListenerId, TcpType),
}

impl Route {
    /// What carries the packets of candidates on it.
    pub(super) fn transport(self) -> CandidateTransport {
        match self {
            Route::Socket(_) | Route::Relay(_) => CandidateTransport::Udp,
            Route::Tcp(_, ty) => CandidateTransport::Tcp(ty),
        }
    }

    /// What the candidates of the peer are that can be reached by it (RFC 6544, section 6.2).
    pub(super) fn counterpart(self) -> CandidateTransport {
        match self {
            Route::Socket(_) | Route::Relay(_) => CandidateTransport::Udp,
            Route::Tcp(_, ty) => CandidateTransport::Tcp(ty.counterpart()),
        }
    }

    pub(super) fn is_tcp(self) -> bool {
        matches!(self, Route::Tcp(..))
    }
}

/// What a packet leaves by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Via {
    /// A UDP socket.
    Socket(SocketId),
    /// A stream: the payload is appended to it.
    Stream(StreamId),
}

/// Bytes to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// By what.
    pub via: Via,
    /// Where to, as the network knows it: an IPv4 host behind a NAT64 by its IPv6 address. For a stream it is the other end.
    pub to: SocketAddr,
    /// One datagram, or what to append to the stream.
    pub payload: Vec<u8>,
}

/// What the agent asks of whoever has the sockets.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Action {
    /// Open a stream and answer with [`Agent::stream_connected`](super::Agent::stream_connected).
    Connect {
        /// What to call it.
        stream: StreamId,
        /// Where to. A host without IPv4 of its own may reach an IPv4 address through a NAT64.
        server: SocketAddr,
        /// What a certificate has to bear.
        host: Host,
        /// Whether a proxy is asked for `host`; otherwise for `server`, where another server has sent us.
        by_name: bool,
        /// What carries it: over UDP and DTLS a socket of its own, each datagram as a frame.
        transport: Transport,
        /// From which address, if that matters.
        local: Option<IpAddr>,
    },
    /// Open a TCP connection, to the peer or to a STUN server, and answer with
    /// [`Agent::stream_connected`](super::Agent::stream_connected).
    ConnectTcp {
        /// What to call it.
        stream: StreamId,
        /// From where. With port 0 any port will do; any other is a port on which this side listens as well, and from which it
        /// connects to others, so that the socket has to share it (`SO_REUSEADDR`, `SO_REUSEPORT`).
        local: SocketAddr,
        /// Where to.
        to: SocketAddr,
        /// What it carries.
        framing: Framing,
    },
    /// Open a UDP socket on the address of another, with a port of the system's choice, and answer with
    /// [`Agent::socket_opened`](super::Agent::socket_opened). Up to some 256 are asked for, one after another.
    OpenSocket {
        /// The other.
        beside: SocketId,
    },
    /// Close a socket that was opened for the agent.
    CloseSocket {
        /// Which.
        socket: SocketId,
    },
    /// Close a stream once what was to be sent over it is sent.
    Close {
        /// Which.
        stream: StreamId,
    },
}

/// How a stream's bytes are cut into what [`Agent::handle_stream_frame`](super::Agent::handle_stream_frame) takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Framing {
    /// STUN and ChannelData messages end where they say: [`frame_len`](thirl_common::wire::frame_len).
    Stun,
    /// Each packet stands behind its length (RFC 4571): [`packet_frame_len`](thirl_common::wire::packet_frame_len).
    Packets,
}

/// How far the agent has come: as far as the component that is furthest behind, of those whose stream has not failed. The
/// names are those of W3C's `RTCIceConnectionState`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// The peer's credentials or candidates are not known yet.
    New,
    /// Pairs are being checked.
    Checking,
    /// A pair works and carries data; none is nominated yet.
    Connected,
    /// A pair is nominated.
    Completed,
    /// The selected pair has not answered for some time.
    Disconnected,
    /// Nothing works, or consent has expired. See the report.
    Failed,
    /// Closed by this side.
    Closed,
}

/// Whether packets between the peers go through a relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PathKind {
    /// They do not.
    Direct,
    /// They do, on this side or the other.
    Relayed,
}

/// The pair that data is sent over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SelectedPair {
    /// Of which component.
    pub component: ComponentId,
    /// This side's candidate, as the peer sees it.
    pub local: Candidate,
    /// The peer's candidate.
    pub remote: Candidate,
    /// Whether packets go through a relay.
    pub path: PathKind,
    /// The TURN server of this side's relay, if that is one.
    pub relay: Option<SocketAddr>,
}

/// What happened.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event {
    /// A candidate to tell the peer.
    LocalCandidate(Candidate),
    /// All servers have answered, or the time for it is over. Candidates that come later are told all the same.
    GatheringComplete,
    /// The state changed.
    StateChanged(State),
    /// A pair was nominated and selected, the first or another.
    Selected(SelectedPair),
    /// The peer has restarted. It waits for an answer: [`Agent::local_credentials`](super::Agent::local_credentials), which
    /// are new ones, and [`Agent::local_candidates`](super::Agent::local_candidates).
    RemoteRestarted,
    /// A TURN server takes access tokens (RFC 7635), and none that it takes is known: there is no allocation until
    /// [`Agent::set_turn_credentials`](super::Agent::set_turn_credentials) tells one. May come once for each way to the server.
    TokenWanted {
        /// The TURN server.
        host: Host,
        /// What it is called at the authorization server that makes its tokens.
        server: String,
    },
    /// Data goes another way than before, and why that is; [`Event::Selected`] follows.
    PathChanged {
        /// Whose data.
        component: ComponentId,
        /// Why, in words.
        why: String,
    },
    /// One of several data streams has failed; the others go on.
    StreamFailed {
        /// Which; the first is 0.
        stream: u8,
        /// Why.
        why: String,
    },
    /// The agent has failed, with all its data streams; the report says why.
    Failed(Box<Report>),
}

/// A peer's data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received<'a> {
    /// For which component.
    pub component: ComponentId,
    /// The data.
    pub data: &'a [u8],
    /// The peer's address.
    pub from: SocketAddr,
    /// Whether it came through a relay.
    pub path: PathKind,
}

/// Why data was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// No pair works, not yet or not any more.
    #[error("no candidate pair works, not yet or not any more")]
    NotConnected,
    /// More than a datagram holds.
    #[error("the data is larger than a UDP datagram can carry")]
    TooLarge,
}
