//! What the engine asks for and tells: actions, their answers, and events.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use thirl_common::auth::LookupId;
use thirl_common::net::{FiveTuple, PeerAddr, RelayedAddr};
use thirl_common::wire::{AddressFamily, ChannelNumber, ConnectionId, Method};

use super::counters::{Dropped, Traffic};
use super::refusal::Refusal;

/// So many events wait to be fetched; more are dropped and counted.
const EVENTS: usize = 1024;

/// Names an allocation; of one that ended it names nothing ever after.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AllocationId {
    pub(super) index: u32,
    pub(super) generation: u32,
}

/// Names a relay: the socket bound to a relayed transport address. An allocation has at most one for each family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RelayId {
    pub(super) allocation: AllocationId,
    pub(super) family: AddressFamily,
}

/// The relayed transport addresses of an allocation: IPv4, IPv6.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RelayedAddresses(pub [Option<RelayedAddr>; 2]);

impl RelayedAddresses {
    /// One or two.
    pub fn iter(&self) -> impl Iterator<Item = RelayedAddr> + use<> {
        self.0.into_iter().flatten()
    }
}

/// Both, with a comma between them.
impl fmt::Display for RelayedAddresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, addr) in self.iter().enumerate() {
            write!(f, "{}{addr}", if at == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

/// Generations count up to this and begin anew, so that a [`RelayId`] fits 63 bits.
pub(super) const GENERATIONS: u32 = 1 << 30;

/// What the engine wants done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Action {
    /// Bind a relay's socket, and answer with [`Engine::relay_bound`](super::Engine::relay_bound), now or later.
    BindRelay {
        /// Which relay.
        relay: RelayId,
        /// The address family of the socket.
        family: AddressFamily,
        /// Who asked, and at which address of the server.
        five_tuple: FiveTuple,
        /// Which port.
        port: PortWish,
    },
    /// Listen for TCP at a relayed transport address, and answer with
    /// [`Engine::relay_bound`](super::Engine::relay_bound), now or later. Who connects is named by
    /// [`Engine::handle_peer_connection`](super::Engine::handle_peer_connection).
    ListenRelay {
        /// Which relay.
        relay: RelayId,
        /// The address family of the socket.
        family: AddressFamily,
        /// Who asked, and at which address of the server.
        five_tuple: FiveTuple,
    },
    /// Connect to a peer from the relayed transport address (RFC 6062, section 5.2), and answer with
    /// [`Engine::peer_connected`](super::Engine::peer_connected) later.
    Connect {
        /// What the connection is called.
        connection: ConnectionId,
        /// From which relay.
        relay: RelayId,
        /// Where to.
        peer: PeerAddr,
    },
    /// Close a connection to a peer, whatever became of it, and the client's with it.
    CloseConnection {
        /// Which connection.
        connection: ConnectionId,
    },
    /// Requests wait for this look-up of the credential store: call
    /// [`Engine::credentials_ready`](super::Engine::credentials_ready) when it has ended. Once for each request.
    AwaitCredentials {
        /// Which look-up.
        lookup: LookupId,
    },
    /// Close a relay's socket.
    ReleaseRelay {
        /// Which relay.
        relay: RelayId,
    },
    /// Close the socket that was set aside under this token, if it still is.
    ReleaseReserved {
        /// The reservation token.
        token: u64,
    },
    /// Packets of this channel, both ways, may bypass the engine until the time named. Only if
    /// [`EngineConfig::fast_path`](super::EngineConfig::fast_path).
    InstallFastPath {
        /// The relay.
        relay: RelayId,
        /// The client.
        five_tuple: FiveTuple,
        /// The channel on the client's side.
        channel: ChannelNumber,
        /// The peer on the other.
        peer: PeerAddr,
        /// When to stop, unless it is installed again before.
        until: Instant,
    },
    /// No packet of this relay may bypass the engine any more.
    RemoveFastPath {
        /// The relay.
        relay: RelayId,
    },
}

/// Which port a relay's socket shall have. All of them lie in the range that the server is configured with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PortWish {
    /// Any, chosen at random (RFC 8656, section 7.2).
    Any,
    /// An even one.
    Even,
    /// An even one, and a second socket on the next, to be set aside under `token`.
    EvenAndReserveNext {
        /// Names the second socket.
        token: u64,
    },
    /// The socket that was set aside under `token`.
    Reserved {
        /// Names the socket.
        token: u64,
    },
}

/// Why a relay's socket could not be bound.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// The server has no address of the family: 440.
    #[error("the server has no address of this family to relay from")]
    NoAddress,
    /// No port of the range was found free: 508.
    #[error("no relay port is free; widen min-port..max-port")]
    PortsExhausted,
    /// No socket is set aside under the token: 508.
    #[error("no port is reserved under this token")]
    NotReserved,
    /// The system refused for another reason: 508.
    #[error("the system refused a relay socket: {0}")]
    System(String),
}

/// What happened, for logs.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event {
    /// A client got an allocation.
    AllocationCreated {
        /// Its name in logs.
        id: AllocationId,
        /// The client.
        five_tuple: FiveTuple,
        /// The username that it proved.
        username: Arc<str>,
        /// In which realm; `None`: the server's own.
        realm: Option<Arc<str>>,
        /// The relayed transport addresses.
        relayed: RelayedAddresses,
        /// For how long.
        lifetime: Duration,
    },
    /// An allocation is no more.
    AllocationEnded {
        /// Its name in logs.
        id: AllocationId,
        /// The client.
        five_tuple: FiveTuple,
        /// The username that made it.
        username: Arc<str>,
        /// Why.
        reason: EndReason,
        /// What it relayed.
        traffic: Traffic,
    },
    /// A client came from elsewhere, and has its allocation there.
    AllocationMoved {
        /// Its name in logs from now on.
        id: AllocationId,
        /// Where the client is now.
        five_tuple: FiveTuple,
        /// The username that made it.
        username: Arc<str>,
        /// The relayed transport addresses, which stay.
        relayed: RelayedAddresses,
    },
    /// A request was refused. Challenges, which every client meets, are no events.
    Refused {
        /// The allocation of the five-tuple, if it has one.
        id: Option<AllocationId>,
        /// The client.
        five_tuple: FiveTuple,
        /// What it asked for.
        method: Method,
        /// Why not.
        refusal: Refusal,
    },
}

/// Why an allocation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum EndReason {
    /// It was not refreshed.
    Expired,
    /// The client asked for it: a Refresh with lifetime 0.
    Deleted,
    /// The client's connection was closed.
    ClientGone,
    /// The system would not let its socket follow the client.
    RelayLost,
}

impl EndReason {
    /// Every one.
    pub const ALL: [EndReason; 4] =
        [EndReason::Expired, EndReason::Deleted, EndReason::ClientGone, EndReason::RelayLost];
}

impl fmt::Display for EndReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            EndReason::Expired => "expired",
            EndReason::Deleted => "deleted by the client",
            EndReason::ClientGone => "the client closed its connection",
            EndReason::RelayLost => "the system would not let its socket follow the client",
        })
    }
}

impl fmt::Display for AllocationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.index, self.generation)
    }
}

impl RelayId {
    /// A place in a table of relays: two for each allocation that there is room for, an even one for IPv4 and an odd one for
    /// IPv6. Used again after its release.
    #[inline]
    pub fn slot(self) -> usize {
        self.allocation.index as usize * 2 + usize::from(self.family == AddressFamily::Ipv6)
    }

    /// The id as a number below 2^63, for a socket's token.
    #[inline]
    pub fn to_u64(self) -> u64 {
        let family = u64::from(self.family == AddressFamily::Ipv6);
        u64::from(self.allocation.generation) << 33 | family << 32 | u64::from(self.allocation.index)
    }

    /// The inverse.
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "the halves of the number")]
    pub fn from_u64(number: u64) -> RelayId {
        let family = if number >> 32 & 1 == 0 { AddressFamily::Ipv4 } else { AddressFamily::Ipv6 };
        let generation = (number >> 33) as u32 % GENERATIONS;
        RelayId { allocation: AllocationId { index: number as u32, generation }, family }
    }
}

impl Event {
    /// Queues the event if there is room.
    pub(super) fn queue(self, events: &mut VecDeque<Event>, dropped: &mut Dropped) {
        if events.len() < EVENTS {
            events.push_back(self);
        } else {
            dropped.events += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relay_ids_survive_as_numbers() {
        for index in [0, 1, u32::MAX] {
            for generation in [0, 1, GENERATIONS - 1] {
                for family in [AddressFamily::Ipv4, AddressFamily::Ipv6] {
                    let id = RelayId { allocation: AllocationId { index, generation }, family };
                    assert!(id.to_u64() < 1 << 63);
                    assert_eq!(RelayId::from_u64(id.to_u64()), id);
                }
            }
        }
    }
}
