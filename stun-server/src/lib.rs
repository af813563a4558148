//! STUN server: tells clients which address their packets come from (RFC 8489).
//!
//! [`Responder`]: what a Binding request is answered with. No state, no socket, no clock.

mod responder;

pub use responder::{Counters, MAX_RESPONSE_LEN, Responder};
