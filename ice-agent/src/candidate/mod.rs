//! Candidates: transport addresses at which an agent may be reached (RFC 8445, section 5.1).
//!
//! [`Candidate`] is the value that both sides speak about; [`priority`] is the formula of section 5.1.2.1; `syntax`
//! prints and reads the `candidate:` lines of RFC 8839, section 5.1.

mod syntax;

use std::fmt;
use std::net::SocketAddr;

pub use syntax::CandidateSyntaxError;

/// A component of a data stream (RFC 8445, section 4). Its number is from 1 to 256; a data stream without RTCP has number 1 only
/// (section 13). Where a session has several data streams it also says which: in the lines of RFC 8839 that follows from
/// where they stand, so that a candidate which was read belongs to the first stream until it is put elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ComponentId {
    stream: u8,
    /// The number less one.
    index: u8,
}

impl ComponentId {
    /// The first component of the first data stream: for most sessions the only one.
    pub const ONE: ComponentId = ComponentId { stream: 0, index: 0 };

    /// The component of the first data stream with this number, if it is from 1 to 256.
    pub const fn new(number: u16) -> Option<ComponentId> {
        match number.wrapping_sub(1).to_be_bytes() {
            [0, index] => Some(ComponentId { stream: 0, index }),
            _ => None,
        }
    }

    /// The component of the same number in another data stream; the first is 0.
    #[must_use]
    pub const fn in_stream(self, stream: u8) -> ComponentId {
        ComponentId { stream, ..self }
    }

    /// Its number in its data stream.
    pub const fn get(self) -> u16 {
        self.index as u16 + 1
    }

    /// Which data stream it is in; the first is 0.
    pub const fn stream(self) -> u8 {
        self.stream
    }
}

/// How a candidate came to be known (RFC 8445, section 5.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum CandidateKind {
    /// An address of an interface.
    Host,
    /// What a STUN or TURN server saw.
    ServerReflexive,
    /// What a peer saw in a connectivity check.
    PeerReflexive,
    /// An address on a TURN server.
    Relayed,
}

impl CandidateKind {
    /// "The RECOMMENDED values" (RFC 8445, section 5.1.2.2).
    pub const fn type_preference(self) -> u8 {
        match self {
            CandidateKind::Host => 126,
            CandidateKind::PeerReflexive => 110,
            CandidateKind::ServerReflexive => 100,
            CandidateKind::Relayed => 0,
        }
    }

    /// The same over TCP: each is below those of UDP but the relayed one's, since UDP is preferred (RFC 6544, section 4.2).
    pub const fn tcp_type_preference(self) -> u8 {
        match self {
            CandidateKind::Host => 90,
            CandidateKind::PeerReflexive => 80,
            CandidateKind::ServerReflexive => 70,
            CandidateKind::Relayed => 0,
        }
    }

    /// The word of RFC 8839, section 5.1.
    pub const fn as_str(self) -> &'static str {
        match self {
            CandidateKind::Host => "host",
            CandidateKind::ServerReflexive => "srflx",
            CandidateKind::PeerReflexive => "prflx",
            CandidateKind::Relayed => "relay",
        }
    }
}

impl fmt::Display for CandidateKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What carries the packets between the peers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum CandidateTransport {
    /// UDP.
    Udp,
    /// TCP (RFC 6544).
    Tcp(TcpType),
    /// Something that this agent does not speak; it skips the candidate.
    Other(String),
}

impl CandidateTransport {
    /// Which side opens the connection, if this is TCP.
    pub fn tcp_type(&self) -> Option<TcpType> {
        match self {
            CandidateTransport::Tcp(ty) => Some(*ty),
            CandidateTransport::Udp | CandidateTransport::Other(_) => None,
        }
    }
}

/// Which side opens the connection (RFC 6544, section 4.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TcpType {
    /// This candidate connects out.
    Active,
    /// This candidate accepts.
    Passive,
    /// Both at the same time.
    SimultaneousOpen,
}

impl TcpType {
    /// What a candidate of this type is paired with (RFC 6544, section 6.2).
    #[must_use]
    pub const fn counterpart(self) -> TcpType {
        match self {
            TcpType::Active => TcpType::Passive,
            TcpType::Passive => TcpType::Active,
            TcpType::SimultaneousOpen => TcpType::SimultaneousOpen,
        }
    }

    /// The word of RFC 6544, section 4.5.
    pub const fn as_str(self) -> &'static str {
        match self {
            TcpType::Active => "active",
            TcpType::Passive => "passive",
            TcpType::SimultaneousOpen => "so",
        }
    }

    /// How far one end of a connection is from being refused by what stands between: "6 for active, 4 for passive, and 2 for
    /// S-O" on a host or a relay, "6 for S-O, 4 for active, and 2 for passive" behind a NAT (RFC 6544, section 4.2).
    const fn direction_preference(self, kind: CandidateKind) -> u16 {
        match (kind, self) {
            (CandidateKind::Host | CandidateKind::Relayed, TcpType::Active) => 6,
            (CandidateKind::Host | CandidateKind::Relayed, TcpType::Passive) => 4,
            (CandidateKind::Host | CandidateKind::Relayed, TcpType::SimultaneousOpen) => 2,
            (_, TcpType::SimultaneousOpen) => 6,
            (_, TcpType::Active) => 4,
            (_, TcpType::Passive) => 2,
        }
    }
}

impl fmt::Display for TcpType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Where a candidate is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum CandidateAddress {
    /// An address.
    Ip(SocketAddr),
    /// A name, such as an mDNS name ending in `.local`, that must be resolved before the candidate can be used.
    Unresolved {
        /// The name.
        name: String,
        /// The port.
        port: u16,
    },
}

impl CandidateAddress {
    /// The address, if it is one.
    pub fn ip(&self) -> Option<SocketAddr> {
        match self {
            CandidateAddress::Ip(address) => Some(*address),
            CandidateAddress::Unresolved { .. } => None,
        }
    }
}

impl fmt::Display for CandidateAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CandidateAddress::Ip(address) => address.fmt(f),
            CandidateAddress::Unresolved { name, port } => write!(f, "{name}:{port}"),
        }
    }
}

/// A candidate, as one side tells the other.
///
/// ```
/// use thirl_ice_agent::candidate::Candidate;
///
/// let line = "candidate:1 1 udp 2130706431 192.0.2.1 40000 typ host";
/// let candidate = Candidate::parse(line)?;
/// assert_eq!(candidate.to_string(), line);
/// # Ok::<(), thirl_ice_agent::candidate::CandidateSyntaxError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Equal for candidates of the same kind, base address, server and transport: 1 to 32 characters.
    pub foundation: String,
    /// Which component of which data stream.
    pub component: ComponentId,
    /// What carries the packets.
    pub transport: CandidateTransport,
    /// 1 to 2³¹ − 1; the higher the better.
    pub priority: u32,
    /// Where it is.
    pub address: CandidateAddress,
    /// How it came to be known.
    pub kind: CandidateKind,
    /// The base of a reflexive candidate, or the mapped address of a relayed one; for diagnosis only.
    pub related: Option<CandidateAddress>,
    /// Extension attributes in order, name and value, which this agent passes on without knowing them.
    pub extensions: Vec<(String, String)>,
}

/// The priority of a candidate (RFC 8445, section 5.1.2.1).
pub const fn priority(kind: CandidateKind, local_preference: u16, component: ComponentId) -> u32 {
    // Types are in front of their own casts because u32::from is not const.
    (kind.type_preference() as u32) << 24 | (local_preference as u32) << 8 | (256 - component.get() as u32)
}

/// The priority of a TCP candidate (RFC 6544, section 4.2). Of `other_preference` 13 bits count.
pub const fn tcp_priority(
    kind: CandidateKind,
    ty: TcpType,
    other_preference: u16,
    component: ComponentId,
) -> u32 {
    let local_preference = ty.direction_preference(kind) << 13 | other_preference & 0x1FFF;
    (kind.tcp_type_preference() as u32) << 24
        | (local_preference as u32) << 8
        | (256 - component.get() as u32)
}

/// The priority of a pair: `controlling` is the priority of the controlling agent's candidate (RFC 8445, section
/// 6.1.2.3).
pub fn pair_priority(controlling: u32, controlled: u32) -> u64 {
    let (g, d) = (u64::from(controlling), u64::from(controlled));
    (1 << 32) * g.min(d) + 2 * g.max(d) + u64::from(g > d)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_formulas_of_rfc_8445() {
        assert_eq!(priority(CandidateKind::Host, 65535, ComponentId::ONE), 2_130_706_431);
        assert_eq!(priority(CandidateKind::Relayed, 0, ComponentId::new(256).unwrap()), 0);
        let host = CandidateKind::Host;
        assert_eq!(tcp_priority(host, TcpType::Active, 8191, ComponentId::ONE), 1_524_629_503);
        assert_eq!(tcp_priority(host, TcpType::Passive, 0xFFFF, ComponentId::ONE), 1_520_435_199);
        let (g, d) = (100, 7);
        assert_eq!(pair_priority(g, d), (7 << 32) + 200 + 1);
        assert_eq!(pair_priority(d, g), (7 << 32) + 200);
    }
}
