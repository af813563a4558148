//! A simulated network: virtual time, hosts, middleboxes, links, and the real cores at its ends.
//!
//! Nothing here opens a socket or reads a clock, and everything random comes from one seed: a run that fails is run again
//! by its seed.
//!
//! 1. [`Network`]: a tree of networks with hosts and middleboxes in them, and the way of a [`Packet`] over its [`Link`]s.
//! 2. [`Middlebox`]: [`Nat`] (mapping, filtering, allocation and lifetimes of RFC 4787 and RFC 5382, with a [`Gateway`] for
//!    port mappings), [`Firewall`], [`DualStack`].
//! 3. `tcp`: connections between hosts, which what stands between them sees segment by segment.
//! 4. [`Topology`]: where two hosts stand, as data.
//! 5. [`Server`]: STUN, and the TURN engine of `turn-relay`. [`Proxy`]: HTTP CONNECT.
//! 6. [`Pair`]: two agents, their signalling, and the loop that runs them.
//! 7. [`Scene`]: a NAT diagnosis, and servers that lie.

mod diagnosis;
mod dual_stack;
mod firewall;
mod gateway;
mod link;
mod mapper;
mod middlebox;
mod nat;
mod network;
mod packet;
mod pair;
mod peer;
mod proxy;
mod server;
mod tcp;
mod topology;

pub use crate::behaviour::{Filtering, Mapping, PortAllocation};
pub use diagnosis::{Lie, Scene};
pub use dual_stack::DualStack;
pub use firewall::{Firewall, FirewallSpec, TcpPolicy};
pub use gateway::{Gateway, Speaks};
pub use link::Link;
pub use middlebox::Middlebox;
pub use nat::{Contention, Hairpin, Lifetimes, Nat, NatSpec, Pooling, Refresh};
pub use network::{Arrival, Behind, BoxId, HostId, Network};
pub use packet::{Packet, Segment};
pub use pair::{Pair, SERVERS, Side};
pub use peer::{PREFERENCE, Peer, PeerSpec};
pub use proxy::Proxy;
pub use server::Server;
pub use tcp::{ConnectionId, StreamEvent};
pub use topology::{Addresses, Layer, PROXY, Placed, Site, Topology, nat64_prefix};
