//! Host names of servers.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use thirl_common::uri::{Host, ServerUri};
use tokio::task::JoinSet;

/// A name that takes longer is given up: the other servers should not wait for it.
const PATIENCE: Duration = Duration::from_secs(3);

/// The addresses of each server, in the order of the URIs, or why there are none: at most one for each family, since more
/// addresses of one name are most often one and the same machine. Takes three seconds at the most.
pub async fn resolve(uris: &[ServerUri]) -> Vec<Result<Vec<SocketAddr>, String>> {
    let mut lookups = JoinSet::new();
    let mut results: Vec<_> =
        uris.iter().map(|uri| Err(format!("{uri}: its name was not resolved in time"))).collect();
    for (index, uri) in uris.iter().cloned().enumerate() {
        lookups.spawn(async move { (index, tokio::time::timeout(PATIENCE, lookup(uri)).await) });
    }
    while let Some(finished) = lookups.join_next().await {
        if let Ok((index, Ok(result))) = finished
            && let Some(slot) = results.get_mut(index)
        {
            *slot = result;
        }
    }
    results
}

async fn lookup(uri: ServerUri) -> Result<Vec<SocketAddr>, String> {
    let name = match &uri.host {
        Host::Ip(ip) => return Ok(vec![SocketAddr::new(*ip, uri.port)]),
        Host::Name(name) => name,
    };
    let found = tokio::net::lookup_host((name.as_str(), uri.port))
        .await
        .map_err(|error| format!("{uri}: {error}"))?;
    let found: Vec<_> = found.collect();
    let first =
        |ipv4: bool| found.iter().copied().find(|address| matches!(address.ip(), IpAddr::V4(_)) == ipv4);
    let addresses: Vec<_> = [first(false), first(true)].into_iter().flatten().collect();
    if addresses.is_empty() { Err(format!("{uri}: its name has no address")) } else { Ok(addresses) }
}
