//! Names into addresses.

use std::net::SocketAddr;

use thirl_common::uri::{Host, Scheme, ServerUri};
use tokio::net::lookup_host;

use crate::error::Failure;

/// A server as people type it: a URI, or a bare host for STUN on its default port.
pub(crate) fn server_uri(text: &str) -> Result<ServerUri, String> {
    match text.parse() {
        Ok(uri) => Ok(uri),
        Err(error) => format!("stun:{text}").parse().map_err(|_| format!("{error}")),
    }
}

/// The addresses of servers that are asked over UDP, in the order of the URIs. Names that do not resolve are an error
/// only if none does.
pub(crate) async fn udp_addresses(uris: &[ServerUri]) -> Result<Vec<SocketAddr>, Failure> {
    let mut addresses = Vec::new();
    let mut problems = Vec::new();
    for uri in uris {
        match addresses_of(uri).await {
            Ok(found) => addresses.extend(found),
            Err(problem) => problems.push(problem),
        }
    }
    if addresses.is_empty() {
        return Err(Failure::Failed(format!("no server to ask: {}", problems.join("; "))));
    }
    problems.iter().for_each(|problem| tracing::warn!("{problem}"));
    Ok(addresses)
}

async fn addresses_of(uri: &ServerUri) -> Result<Vec<SocketAddr>, String> {
    if !matches!(uri.scheme, Scheme::Stun | Scheme::Turn) {
        return Err(format!("{uri} is over TLS, which this command does not speak"));
    }
    match &uri.host {
        Host::Ip(ip) => Ok(vec![SocketAddr::new(*ip, uri.port)]),
        Host::Name(name) => {
            let found = lookup_host((name.as_str(), uri.port)).await;
            let found: Vec<_> = found.map_err(|error| format!("{name} does not resolve: {error}"))?.collect();
            // One of each family is enough: more addresses of one name are most often one and the same machine.
            let first = |ipv4| found.iter().copied().find(|addr| addr.is_ipv4() == ipv4);
            Ok(first(true).into_iter().chain(first(false)).collect())
        }
    }
}
