//! ICE agent (RFC 8445) with gathering, TURN client and NAT diagnosis.
//!
//! Most applications want the driver: [`IceAgent`](driver::IceAgent) gathers, its [`Description`](driver::Description)
//! goes to the peer by whatever way there is, and from the peer's comes a [`Path`](driver::Path). Who has an event loop of
//! their own takes [`agent::Agent`].
//!
//! In the order in which a path is found:
//!
//! 1. [`candidate`]: what one side tells the other: candidates, their priority, the `candidate:` line.
//! 2. [`agent`]: the sans-IO agent: gathering, checks, nomination, consent, report.
//! 3. [`sdp`]: what offers and answers say about ICE.
//! 4. [`turn`]: the sans-IO TURN client, of which the agent has one for each server and socket.
//! 5. [`mux`]: one UDP port for many agents: which of them a datagram is for.
//! 6. `driver` (feature `driver`): the agent with sockets, clock and task; interfaces; host names.
//! 7. [`nat`]: what this side's NAT does.
//! 8. [`port_mapping`]: asking the gateway for a way in.

pub mod agent;
pub mod candidate;
#[cfg(feature = "driver")]
pub mod driver;
pub mod mux;
pub mod nat;
pub mod port_mapping;
pub mod sdp;
pub mod turn;
