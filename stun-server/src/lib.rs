//! STUN server: tells clients which address their packets come from (RFC 8489).
//!
//! A request's way, and the order to read the files in:
//!
//! 1. `shard` (feature `driver`): one thread receives a batch of datagrams, or a frame of a TCP stream, and hands each to
//!    its `Service`. The TURN relay runs over the same loop.
//! 2. `server` (feature `driver`): binds the sockets, starts a shard for each core, ends them.
//! 3. `binding` (feature `driver`): what of it is about Binding, for this server and for the relay.
//! 4. [`Limiter`]: whether its source may ask, in bounded memory.
//! 5. [`Responder`]: what a Binding request is answered with. No state, no socket, no clock.
//! 6. [`Discovery`]: the second address and port of a server that lets clients discover what their NAT does (RFC 5780).
//! 7. [`partner`]: the link to another machine that has the second address.
//!
//! `settings` is what the binary `stun-server` takes, `secure` the part of it that is about TLS and DTLS, `program` what all
//! server binaries do alike, `operation` what they do for those who operate them, `metrics` their figures.

#[cfg(feature = "driver")]
pub mod binding;
#[cfg(feature = "driver")]
pub mod metrics;
#[cfg(feature = "driver")]
pub mod operation;
#[cfg(feature = "driver")]
pub mod program;
#[cfg(feature = "driver")]
pub mod secure;
#[cfg(feature = "driver")]
pub mod server;
#[cfg(feature = "driver")]
pub mod settings;
#[cfg(feature = "driver")]
pub mod shard;

pub mod partner;

mod discovery;
mod limiter;
mod responder;

pub use discovery::{AddressPair, Discovery};
pub use limiter::{Limit, Limiter};
pub use responder::{Counters, MAX_DISCOVERY_RESPONSE_LEN, MAX_RESPONSE_LEN, Responder, Response};
