//! What every Thirl crate speaks.
//!
//! A datagram's way through this crate, and the order to read it in:
//!
//! 1. [`wire`]: what the bytes are: classification by first byte, the STUN message view and writer, attributes,
//!    integrity and fingerprint, ChannelData, stream framing. `no_std`, no clock, no randomness, no log.
//! 2. [`net`]: whose address is whose: newtypes for the roles that RFC 8656 names, [`net::FiveTuple`], [`net::Transmit`].
//! 3. [`time`]: the deadline table that every state machine keeps its timers in; [`index`]: entries found by their keys.
//! 4. [`auth`]: keys, nonces and credentials.
//! 5. [`request`]: the client transaction with its retransmission timer.
//! 6. [`uri`]: `stun:` and `turn:` URIs.
//! 7. [`resolve`]: from a URI to the servers to try; the DNS behind it with the feature `resolve`.
//! 8. `io` (feature `driver`): batch datagram sockets, framed streams, the poller.
//! 9. `config` (feature `driver`): one table of keys from which file, environment and flags are read alike.
//!
//! 10. `proxy_protocol` (feature `driver`): what a proxy says of the client that it speaks for.
//!
//! 11. [`dtls`]: the cookie exchange that comes before a DTLS session; the session itself with the feature `tls`.
//! 12. `tls` (feature `tls`): a server's certificate and key, and their renewal.
//!
//! Without features only `wire` is built; `std` adds the other cores; `driver` adds what touches the system, `resolve` the
//! DNS, and `tls` what is between the bytes and the system.
#![cfg_attr(not(any(feature = "std", test)), no_std)]

#[cfg(feature = "std")]
pub mod auth;
#[cfg(feature = "driver")]
pub mod config;
#[cfg(feature = "std")]
pub mod dtls;
#[cfg(feature = "std")]
pub mod index;
#[cfg(feature = "driver")]
pub mod io;
#[cfg(feature = "std")]
pub mod net;
#[cfg(feature = "driver")]
pub mod proxy_protocol;
#[cfg(feature = "std")]
pub mod request;
#[cfg(feature = "std")]
pub mod resolve;
#[cfg(feature = "std")]
pub mod time;
#[cfg(feature = "tls")]
pub mod tls;
#[cfg(feature = "std")]
pub mod uri;
pub mod wire;
