//! Names into addresses.

use std::net::SocketAddr;

use serde::Serialize;
use thirl_common::uri::{Scheme, ServerUri};
use thirl_ice_agent::driver::resolve;

/// A server as people type it: a URI, or a bare host for STUN on its default port.
pub(crate) fn server_uri(text: &str) -> Result<ServerUri, String> {
    match text.parse() {
        Ok(uri) => Ok(uri),
        Err(error) => format!("stun:{text}").parse().map_err(|_| format!("{error}")),
    }
}

/// A server that cannot be asked.
#[derive(Debug, Serialize)]
pub(crate) struct Unresolved {
    /// As it was named.
    server: String,
    /// Why.
    reason: String,
}

impl std::fmt::Display for Unresolved {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} is not asked: {}", self.server, self.reason)
    }
}

/// The addresses of servers that are asked over UDP, in the order of the URIs, and those that cannot be asked. The names
/// are looked up at the same time, so that none waits for another.
pub(crate) async fn udp_addresses(uris: &[ServerUri]) -> (Vec<SocketAddr>, Vec<Unresolved>) {
    let (mut addresses, mut unresolved) = (Vec::new(), Vec::new());
    for (uri, found) in uris.iter().zip(resolve(uris).await) {
        let found = match uri.scheme {
            Scheme::Stun | Scheme::Turn => found,
            Scheme::Stuns | Scheme::Turns => {
                Err("it is over TLS, which this command does not speak".to_owned())
            }
        };
        match found {
            Ok(found) => addresses.extend(found),
            Err(reason) => {
                let server = uri.to_string();
                let reason = reason.trim_start_matches(server.as_str()).trim_start_matches(": ").to_owned();
                unresolved.push(Unresolved { server, reason });
            }
        }
    }
    (addresses, unresolved)
}
