//! TURN relay (RFC 8656): clients behind NATs get an address that peers can reach.
//!
//! A relayed packet's way, and the order to read the files in:
//!
//! 1. `server` (feature `driver`): binds the sockets and starts a shard for each core.
//! 2. `thirl_stun_server::shard`: a shard receives a batch and hands each datagram, or frame of a TCP stream, to its
//!    service.
//! 3. `service` (feature `driver`): the relay as such a service: hands it on to the engine, and binds relay sockets, of which
//!    `relays` is the table; `inside` says which packets are for another of its clients.
//! 4. [`engine`]: what RFC 8656 says, without sockets. `engine/data.rs` is where a packet passes.
//!
//! `operated` is how it is reloaded and drained, `metrics` and `log` are what it tells of itself; `settings` is what file,
//! environment and flags say, `import` says it for who comes from coturn, `user_service` asks a web service for users,
//! `announce` says what people are told of a server that has started.

pub mod engine;

#[cfg(feature = "driver")]
pub mod announce;
#[cfg(feature = "driver")]
pub mod import;
#[cfg(feature = "driver")]
mod inside;
#[cfg(feature = "driver")]
mod log;
#[cfg(feature = "driver")]
mod metrics;
#[cfg(feature = "driver")]
pub mod operated;
#[cfg(feature = "driver")]
mod ports;
#[cfg(feature = "driver")]
mod relayed_tcp;
#[cfg(feature = "driver")]
mod relays;
#[cfg(feature = "driver")]
pub mod server;
#[cfg(feature = "driver")]
mod service;
#[cfg(feature = "driver")]
pub mod settings;
#[cfg(feature = "driver")]
pub mod user_service;

pub use engine::{Engine, EngineConfig};
