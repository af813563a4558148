//! What one run of a pair came to.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use thirl_common::net::Transport;
use thirl_ice_agent::agent::PathKind;

/// What the agents of a run are, and may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Mode {
    /// All that they can.
    Thirl,
    /// What standard ICE does: the hard-NAT parts are off.
    Standard,
    /// One agent is aioice, an ICE library of others, the other one ours with all that it can; in the kernel lab only.
    Mixed,
    /// Both agents are aioice; in the kernel lab only.
    Aioice,
}

impl Mode {
    /// All of them, in the order of the matrix.
    pub const ALL: [Self; 4] = [Self::Thirl, Self::Standard, Self::Mixed, Self::Aioice];

    /// For the matrix.
    pub fn name(self) -> &'static str {
        match self {
            Self::Thirl => "thirl",
            Self::Standard => "standard",
            Self::Mixed => "mixed",
            Self::Aioice => "aioice",
        }
    }

    /// Whether all agents are ours.
    pub fn is_ours(self) -> bool {
        matches!(self, Self::Thirl | Self::Standard)
    }

    /// The one by which each of the two is started: in a mixed run ours goes by that name.
    pub(super) fn sides(self) -> [Self; 2] {
        [self, if self == Self::Mixed { Self::Aioice } else { self }]
    }
}

/// The way that data goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Path {
    /// From peer to peer in UDP datagrams.
    Direct,
    /// From peer to peer over a TCP connection.
    DirectTcp,
    /// Through a relay, on one side or both.
    Relayed,
}

impl Path {
    /// What a selected pair is; `transport` carries the packets of its local candidate.
    pub fn of(kind: PathKind, transport: Transport) -> Self {
        match (kind, transport) {
            (PathKind::Relayed, _) => Self::Relayed,
            (PathKind::Direct, Transport::Udp) => Self::Direct,
            (PathKind::Direct, _) => Self::DirectTcp,
        }
    }

    /// Whether no relay is in it.
    pub fn is_direct(self) -> bool {
        self != Self::Relayed
    }

    /// For the matrix.
    pub fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::DirectTcp => "direct TCP",
            Self::Relayed => "relayed",
        }
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What one run came to. Times count from when the second of the two agents was told its peer's description.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// The way that data went at the end, the worse one if the sides differ. `None`: it never flowed both ways.
    pub path: Option<Path>,
    /// When each side had received a first datagram from the other.
    pub first_data: Option<Duration>,
    /// When both sides had selected a direct pair for the first time, and it was the path to the end.
    pub direct: Option<Duration>,
    /// Datagrams, of both sides, that never came, while each side sent one every 20 ms from when a pair worked until the run
    /// ended. Those do not count that were sent before the first or after the last that came.
    pub lost: u64,
    /// So many were sent.
    pub sent: u64,
    /// What the agents said of themselves, where the run came to less than was expected.
    pub notes: Vec<String>,
}

impl Outcome {
    /// Whether data flowed both ways.
    pub fn connected(&self) -> bool {
        self.path.is_some()
    }

    /// Whether it did so without a relay in the end.
    pub fn is_direct(&self) -> bool {
        self.path.is_some_and(Path::is_direct)
    }
}
