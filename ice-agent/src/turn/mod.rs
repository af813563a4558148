//! The TURN client (RFC 8656), sans-IO: one allocation on one five-tuple.
//!
//! 1. [`TurnClient`]: the machine: `start`, `handle_input`, `handle_timeout`; then `poll_transmit`, `poll_event`,
//!    `poll_timeout`.
//! 2. [`TurnCredentials`]: who the client is. `exchange`: requests under way, their authentication and repetition.
//! 3. `peers`: permissions and channels.
//! 4. [`Redirection`]: where servers send their clients.

mod client;
mod credentials;
mod error;
mod exchange;
mod peers;
mod redirection;

pub use client::{Families, Received, TurnClient, TurnClientConfig, TurnEvent};
pub use credentials::{AccessToken, TurnCredentials};
pub use error::{SendError, TurnError};
pub use redirection::{Redirection, RedirectionError};
