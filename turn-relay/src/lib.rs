//! TURN relay (RFC 8656): clients behind NATs get an address that peers can reach.
//!
//! [`engine`]: what RFC 8656 says, without sockets. `engine/data.rs` is where a packet passes.

pub mod engine;

pub use engine::{Engine, EngineConfig};
