//! The bodies of the fuzz targets: each takes any bytes and asserts what must hold of them.
//!
//! `fuzz/` wraps them for libFuzzer; `tests/tests/fuzz_corpus.rs` replays `fuzz/corpus` through them on every run of the
//! tests. Where a target needs choices besides its input, they are the first bytes of it.
//!
//! - [`message`], [`classic`]: the STUN view and writer, every attribute, integrity, fingerprint; RFC 3489.
//! - [`framing`], [`channel_data`]: streams cut anywhere, and ChannelData.
//! - [`nonce`], [`credentials`], [`token`], [`prepared`]: what a server checks without having kept it.
//! - [`client_hello`], [`server_certificates`]: what a server of DTLS reads before it knows its client, and a client of its
//!   server.
//! - [`partner`]: what partner servers say to each other.
//! - [`proxy_protocol`]: what a proxy says of its client.
//! - [`mux`]: datagrams to a port that agents share. [`connections`]: connections to an agent's TCP port and from it.
//! - [`allocations`]: operations on the TURN engine, beside a model of it.
//! - [`diagnosis`]: a script of answers and ICMP errors for the NAT diagnosis.
//! - [`port_mapping`], [`routes`]: the answers of a gateway, and the table that names it.
//! - [`quic_version`], [`captive_portal`], [`nat64`], [`if_inet6`]: what a NAT diagnosis is told by the network and the
//!   system.
//! - [`turn_client`]: a script of answers for the TURN client.
//! - [`uri`], [`http_proxy`], [`description`], [`settings`], [`candidate`], [`sdp`], [`ticket`], [`session`], [`facts`], [`signalling`]: text from people and peers.
#![expect(clippy::unwrap_used, reason = "a body stops at the first surprise")]

mod allocations;
mod client_hello;
mod connections;
mod credentials;
mod diagnosis;
mod framing;
mod gateway;
mod message;
mod mux;
mod network;
mod partner;
mod proxy;
mod server_certificates;
mod text;
mod turn_client;

pub use allocations::allocations;
pub use client_hello::client_hello;
pub use connections::connections;
pub use credentials::{credentials, nonce, prepared, token};
pub use diagnosis::diagnosis;
pub use framing::{channel_data, framing};
pub use gateway::{port_mapping, routes};
pub use message::{classic, message};
pub use mux::mux;
pub use network::{captive_portal, if_inet6, nat64, quic_version};
pub use partner::partner;
pub use proxy::proxy_protocol;
pub use server_certificates::server_certificates;
pub use text::{candidate, description, facts, http_proxy, sdp, session, settings, signalling, ticket, uri};
pub use turn_client::turn_client;

/// A body of a target.
pub type Body = fn(&[u8]);

/// Every target: its name, which is that of its corpus, and its body.
pub const TARGETS: &[(&str, Body)] = &[
    ("allocations", allocations),
    ("candidate", candidate),
    ("captive_portal", captive_portal),
    ("channel_data", channel_data),
    ("classic", classic),
    ("client_hello", client_hello),
    ("connections", connections),
    ("credentials", credentials),
    ("description", description),
    ("diagnosis", diagnosis),
    ("facts", facts),
    ("framing", framing),
    ("http_proxy", http_proxy),
    ("if_inet6", if_inet6),
    ("message", message),
    ("mux", mux),
    ("nat64", nat64),
    ("nonce", nonce),
    ("partner", partner),
    ("port_mapping", port_mapping),
    ("prepared", prepared),
    ("proxy_protocol", proxy_protocol),
    ("quic_version", quic_version),
    ("routes", routes),
    ("sdp", sdp),
    ("server_certificates", server_certificates),
    ("session", session),
    ("settings", settings),
    ("signalling", signalling),
    ("ticket", ticket),
    ("token", token),
    ("turn_client", turn_client),
    ("uri", uri),
];
