//! The overlay: peers that find and reach each other by key.
//!
//! Its seed, from which directory, supernodes and tunnels grow. The path that data takes, and the order to read it in:
//!
//! 1. [`identity`]: who a node is: an ed25519 key.
//! 2. [`ticket`]: how to reach a node, as text that people pass on.
//! 3. [`seal`]: what protects a message from everyone who carries it.
//! 4. [`session`]: what two nodes say to open a path: ICE descriptions and candidates.
//! 5. [`signalling`]: how that gets from one to the other while they have no path: a trait, and a server with its
//!    client.
//! 6. `node` (feature `driver`): dials a key and is dialled: sessions over signalling, a path at the end.
//!
//! Everything but `signalling`'s client and server and the key file is core: without the feature `driver` there is no
//! socket, no clock and no task in it.

mod encoding;
pub mod identity;
#[cfg(feature = "driver")]
pub mod node;
pub mod seal;
pub mod session;
pub mod signalling;
pub mod ticket;

pub use identity::{NodeId, NodeKey};
pub use signalling::{ServerUrl, SignalEvent, Signalling};
pub use ticket::Ticket;
