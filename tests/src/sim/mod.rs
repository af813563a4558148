//! A simulated network: virtual time, hosts, NATs, links with delay and loss, and the real cores at its ends.
//!
//! Nothing here opens a socket or reads a clock, and everything random comes from one seed: a run that fails is run again
//! by its seed.
//!
//! 1. [`Network`]: hosts, their NATs, and the packets between them.
//! 2. `nat`: mapping, filtering and port allocation of RFC 4787.
//! 3. `server`: STUN and TURN servers: the TURN engine of `turn-relay`.
//! 4. [`Pair`]: two agents, their signalling, and the loop that runs them.
//! 5. [`Scene`]: a NAT diagnosis, and servers that lie.

mod diagnosis;
mod nat;
mod network;
mod pair;
mod server;

pub use crate::behaviour::{Filtering, Mapping, PortAllocation};
pub use diagnosis::{Lie, Scene};
pub use nat::{Nat, NatSpec};
pub use network::{HostId, Link, Network, Packet};
pub use pair::{PREFERENCE, Pair, Peer, PeerSpec, Side};
pub use server::Server;
