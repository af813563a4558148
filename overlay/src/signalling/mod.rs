//! Carrying opaque messages between nodes that have no path to each other yet.
//!
//! [`Signalling`] is what the rest of the overlay knows: bytes to a key, bytes from a key. The way that exists now goes
//! through a server over WebSocket; a directory or a local network can be others. Nothing that goes through here is
//! trusted: it is [sealed](crate::seal) end to end.
//!
//! A message's way through the server, and the order to read it in:
//!
//! 1. [`server_url`](ServerUrl): where the server is.
//! 2. [`protocol`]: the messages between node and server, and the proof of identity.
//! 3. `client` (feature `driver`): `WebSocketSignalling`, which stays connected.
//! 4. `server` (feature `driver`): sockets and tasks around
//! 5. [`switchboard`]: who is connected, who is who, and what goes where.

use std::future::Future;

use crate::identity::NodeId;

pub mod protocol;
mod server_url;
pub mod switchboard;

#[cfg(feature = "driver")]
mod client;
#[cfg(feature = "driver")]
mod server;

#[cfg(feature = "driver")]
pub use client::{ConnectError, WebSocketSignalling};
pub use protocol::{IceServer, UndeliverableReason};
#[cfg(feature = "driver")]
pub use server::{Hub, Keepalive, serve};
pub use server_url::{DEFAULT_PORT, InvalidServerUrl, MAX_SERVER_URL, ServerName, ServerUrl};

/// A way to send opaque bytes to a node by its key and to receive such, best effort: a message may be lost, repeated or
/// late, and its sender is who the way says, which [`seal`](crate::seal) proves.
pub trait Signalling: Send {
    /// Hands over a message of at most [`protocol::MAX_PAYLOAD`] bytes. Never waits: when the way is down for a moment,
    /// a bounded number of messages is kept until it is up again.
    fn send(&mut self, to: NodeId, payload: Vec<u8>) -> Result<(), SendError>;

    /// Waits for what happens next; `None` when the way has ended for good. Cancel safe.
    fn recv(&mut self) -> impl Future<Output = Option<SignalEvent>> + Send;

    /// STUN and TURN servers that the way offers, with credentials that are valid now.
    fn ice_servers(&self) -> Vec<IceServer> {
        Vec::new()
    }
}

/// What [`Signalling::recv`] reports.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SignalEvent {
    /// A message.
    Message {
        /// Who sent it, says the way.
        from: NodeId,
        /// The bytes.
        payload: Vec<u8>,
    },
    /// A message that was sent before did not get there.
    Undeliverable {
        /// Whom it was for.
        to: NodeId,
        /// Why.
        reason: UndeliverableReason,
    },
    /// The way works again.
    Online,
    /// The way does not work; it keeps trying by itself.
    Offline {
        /// Why, for people.
        reason: String,
        /// When it tries again.
        retry_in: std::time::Duration,
    },
}

/// Why a message was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// More than [`protocol::MAX_PAYLOAD`] bytes: a mistake of the caller.
    #[error("{size} bytes are more than the {most} of a signalling message", most = protocol::MAX_PAYLOAD)]
    TooLarge {
        /// Its size in bytes.
        size: usize,
    },
    /// Too many messages wait already: the way is down, or slower than its user.
    #[error("too many signalling messages wait to be sent: the server is not reachable or slow")]
    Full,
    /// The way has ended.
    #[error("signalling has ended")]
    Closed,
}
