//! The agent with sockets, a clock and a task: from two descriptions to a connected datagram path.
//!
//! ```no_run
//! use thirl_ice_agent::driver::{Description, IceAgent};
//!
//! # async fn signalling(ours: Description) -> Description { ours }
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let agent = IceAgent::builder()
//!     .controlling()
//!     .stun("stun:stun.example.org".parse()?)
//!     .turn("turn:relay.example.org?transport=tcp".parse()?, "user", "password")
//!     .gather()
//!     .await?;
//! let theirs = signalling(agent.description()).await; // however the application does that
//! agent.set_remote(&theirs)?;
//! let path = agent.connect().await?;
//! path.send(b"hello").await?;
//! let mut buffer = [0; 2048];
//! let len = path.recv(&mut buffer).await?;
//! println!("{:?} over {}: {:?}", path.kind(), path.remote(), &buffer[..len]);
//! # Ok(())
//! # }
//! ```
//!
//! 1. [`Builder`]: what the agent is told. `resolve`: host names of servers. `interfaces`, `networks`, `watch`, `addresses`: on which
//!    addresses sockets are bound, now and when they change. `clock`: the time, sleep included. `mappings`: ways in through routers. `mdns`:
//!    names in place of addresses.
//!    [`UdpMux`]: one port for many agents.
//!    `nat64`: how IPv4 is reached from networks with IPv6 only.
//! 2. [`IceAgent`]: the handle: descriptions, trickle, connecting. [`Description`]: what goes to the peer.
//! 3. [`Path`] carries datagrams; [`Datagrams`] is the same as a stream and a sink.
//!    `webrtc` and `quic` are what other libraries take it for (features `webrtc-util`, `quinn`).
//! 4. `task`: what runs meanwhile. `opened`: the many sockets of a search through hard NATs. `shared`: what it shares with the handles. `socket`, `train`: UDP, in batches. `stream`:
//!    TURN over TCP, TLS and DTLS, through an [`HttpProxy`] too. [`Trust`]: whose certificates are believed. `queue`:
//!    datagrams that wait.

mod addresses;
mod builder;
mod clock;
mod datagrams;
mod description;
mod handle;
mod interfaces;
mod mappings;
mod mdns;
mod mux;
pub(crate) mod nat64;
mod networks;
mod opened;
mod path;
mod queue;
#[cfg(feature = "quinn")]
mod quic;
mod resolve;
mod shared;
mod socket;
mod stream;
mod task;
mod train;
mod trust;
mod watch;
#[cfg(feature = "webrtc-util")]
mod webrtc;

pub use builder::{Builder, StartError, TcpPolicy};
pub(crate) use clock::{now, sleep_until};
pub use datagrams::Datagrams;
pub use description::Description;
pub use handle::{ConnectError, IceAgent, LocalCandidates};
pub(crate) use interfaces::host_ipv6;
pub use interfaces::{LocalAddress, host_networks, local_addresses};
pub use mux::UdpMux;
pub use nat64::through_nat64;
pub use path::{Path, PathClosed, TrySendError};
#[cfg(feature = "quinn")]
pub use quic::QuicSocket;
pub use resolve::resolve;
pub use stream::{Connection, HttpProxy, HttpProxyError, Outward};
pub use trust::{Trust, TrustError};
