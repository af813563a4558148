//! DTLS 1.2 and 1.3 (RFC 6347, RFC 9147) for servers: who speaks to them proves its address before they remember anything of
//! it. And DTLS 1.2 for clients, who check the server's certificate.
//!
//! 1. [`ClientHello`]: a client's first message, as far as the cookie exchange needs it.
//! 2. [`Cookies`]: whether the client gets mail at its address. Nothing is kept of one that has not shown it, and it is sent
//!    less than it sent.
//! 3. [`Acceptor`] (feature `tls`): begins a [`Session`] with a client that has, at the point where the cookie exchange has
//!    brought it to.
//! 4. [`Session`]: handshake, records, retransmission, by `dimpl`.
//! 5. [`Connector`]: begins a [`Session`] with a server. [`ServerCertificates`]: what that server proves itself with, read on
//!    its way to the session.

mod certificates;
#[cfg(feature = "tls")]
mod connector;
mod cookie;
mod hello;
mod order;
mod retry;
#[cfg(feature = "tls")]
mod session;

pub use certificates::ServerCertificates;
#[cfg(feature = "tls")]
pub use connector::Connector;
pub use cookie::{Answer, Cookies};
pub use hello::{ClientHello, Version};
pub use retry::HelloRetryRequest;
#[cfg(feature = "tls")]
pub use session::{Acceptor, MAX_DATA_LEN, Output, Session, SessionError};
