//! The overlay: peers that find and reach each other by key. In the order to read it:
//!
//! 1. [`identity`]: who a node is: an ed25519 key.
//! 2. [`seal`]: what protects a message from everyone who carries it.

mod encoding;
pub mod identity;
pub mod seal;

pub use identity::{NodeId, NodeKey};
