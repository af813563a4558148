//! The NAT64 of a network with IPv6 only: its prefix, as the network's DNS64 tells it (RFC 7050), for agents and connections.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use thirl_common::io::internet_facing_ips;
use thirl_common::net::Nat64Prefix;
use thirl_common::resolve::Resolver;
use tokio::net::lookup_host;
use tokio::time::{sleep, timeout};

use super::now;
use super::shared::Shared;

/// The longest that a look-up takes.
pub(crate) const DNS_LIMIT: Duration = Duration::from_secs(2);
/// So long an agent that starts waits for the prefix. It may come later too.
const START: Duration = Duration::from_millis(500);
/// Where the DNS says nothing it is asked again after so long, which doubles: a network that has just come up may tell its
/// name servers after its prefixes.
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// How often it is asked.
const ATTEMPTS: u32 = 6;

/// Where an agent has its prefix from.
#[derive(Clone, Copy, Debug, Default)]
pub(super) enum Nat64 {
    /// The network is asked, when there is need.
    #[default]
    Asked,
    /// The application has said.
    Given(Option<Nat64Prefix>),
}

/// Whether IPv4 is reached through a NAT64 or not at all: the way to the internet is by IPv6 alone. A host with 464XLAT (RFC
/// 6877) has a route for IPv4 too, and needs nothing else.
pub(super) fn is_needed() -> bool {
    matches!(internet_facing_ips(), [None, Some(_)])
}

/// The prefixes that the network's DNS tells, the one to use first; none if it knows of none. Takes two seconds at the most.
pub(crate) async fn ask() -> Result<Vec<Nat64Prefix>, String> {
    let asked = timeout(DNS_LIMIT, async {
        match Resolver::from_system() {
            Ok(resolver) => resolver.nat64_prefixes().await.map_err(|error| error.to_string()),
            // A system whose name servers are not told, as Android, answers itself.
            Err(_) => {
                let found = lookup_host(("ipv4only.arpa.", 0)).await.map_err(|error| error.to_string())?;
                let ipv6 = |address: SocketAddr| match address.ip() {
                    IpAddr::V6(ip) => Some(ip),
                    IpAddr::V4(_) => None,
                };
                Ok(Nat64Prefix::discover(&found.filter_map(ipv6).collect::<Vec<_>>()))
            }
        }
    });
    asked.await.unwrap_or_else(|_| Err(format!("the DNS did not answer within {} s", DNS_LIMIT.as_secs())))
}

/// Where this host sends what is for `address`: there, or under the prefix of the network's NAT64 if that is the only way
/// to an IPv4 address. Asks the DNS if so, which takes two seconds at the most.
pub async fn through_nat64(address: SocketAddr) -> SocketAddr {
    through(address, None).await
}

/// The same, where the prefix may be known.
pub(super) async fn through(address: SocketAddr, known: Option<Nat64Prefix>) -> SocketAddr {
    if address.is_ipv6() || address.ip().is_loopback() || !is_needed() {
        return address;
    }
    let prefix = match known {
        Some(prefix) => Some(prefix),
        None => ask().await.ok().and_then(|prefixes| prefixes.first().copied()),
    };
    prefix.map_or(address, |prefix| prefix.to_ipv6(address))
}

impl Nat64 {
    /// What an agent starts with, and whether there may be more to find.
    pub(super) async fn at_start(self) -> (Option<Nat64Prefix>, bool) {
        match self {
            Nat64::Given(prefix) => (prefix, false),
            Nat64::Asked if !is_needed() => (None, false),
            Nat64::Asked => match timeout(START, ask()).await {
                Ok(Ok(prefixes)) => (prefixes.first().copied(), false),
                _ => (None, true),
            },
        }
    }
}

impl Shared {
    /// Has the network asked for its prefix, beside all else.
    pub(super) fn find_nat64(self: &Arc<Self>) {
        let shared = Arc::downgrade(self);
        let search = self.runtime.spawn(async move {
            let found = search().await;
            let Some(shared) = shared.upgrade() else { return };
            shared.with_agent(|agent| match found {
                Ok(prefix) => agent.set_nat64(now(), prefix),
                Err(reason) => agent.note(format!("whether there is a NAT64 is not known: {reason}")),
            });
        });
        if let Some(before) = self.lock().nat64_search.replace(search.abort_handle()) {
            before.abort();
        }
    }
}

/// Asks until there is an answer, or nobody needs one any more.
async fn search() -> Result<Option<Nat64Prefix>, String> {
    let mut attempt = 0;
    loop {
        if !is_needed() {
            return Ok(None);
        }
        match ask().await {
            Ok(prefixes) => return Ok(prefixes.first().copied()),
            Err(reason) if attempt + 1 == ATTEMPTS => return Err(reason),
            Err(_) => sleep(FIRST_WAIT * 2u32.pow(attempt)).await,
        }
        attempt += 1;
    }
}
