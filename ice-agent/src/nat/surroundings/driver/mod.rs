//! Looks around on real sockets, everything side by side.
//!
//! `place` finds the addresses of a host; `tcp`, `tls`, `udp` and `web` make one attempt each.

mod place;
mod tcp;
mod tls;
mod udp;
mod web;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng, TryRngCore};
use thirl_common::io::internet_facing_ips;
use thirl_common::uri::{DEFAULT_PORT, Host, ServerUri};
use thirl_common::wire::TransactionId;
use tokio::net::TcpStream;
use tokio::sync::OnceCell;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::Surroundings;
use super::ipv6::Ipv6AddressesReport;
use super::nat64::Nat64Report;
use super::portal::{CaptivePortalReport, WebProbe};
use super::quic::VersionNegotiation;
use super::reach::{Attempt, Outcome, ReachReport, WayReport};
use crate::driver::host_ipv6;
use crate::driver::nat64::{DNS_LIMIT, ask};
use crate::nat::DiagnoseError;
use place::{Endpoint, Place};

/// The port of HTTPS and HTTP/3 (RFC 9110, section 4.2.2).
const HTTPS: u16 = 443;

/// The longest that an attempt takes: TCP sends three times within it.
const LIMIT: Duration = Duration::from_secs(4);

/// What came of an attempt, and what that rests on.
type Came = (Outcome, String);

/// Finds the prefix of the network's NAT64 (RFC 7050); takes two seconds at the most. A machine without IPv6 has no use
/// for one and asks for none.
pub async fn discover_nat64() -> Nat64Report {
    if internet_facing_ips()[1].is_none() {
        return Nat64Report::new(Err("no route leads from here to the IPv6 internet".to_owned()));
    }
    Nat64Report::new(ask().await)
}

/// Tries what gets out to the hosts of `servers` and that of `web`, whose page shows a captive portal. Nobody else is
/// contacted. Takes six seconds at the most.
pub async fn look_around(
    servers: &[ServerUri],
    web: Option<&WebProbe>,
    nat64: Nat64Report,
) -> Result<Surroundings, DiagnoseError> {
    let mut seed = [0; 32];
    rand::rngs::OsRng.try_fill_bytes(&mut seed)?;
    let (servers, web_place) = tokio::join!(
        place::look_up(servers.iter().map(|server| &server.host), nat64.prefix),
        place::look_up(web.iter().map(|web| &web.host), nat64.prefix)
    );
    let (reach, captive_portal) =
        tokio::join!(reach(&servers, &web_place, StdRng::from_seed(seed)), portal(web, &web_place));
    Ok(Surroundings { captive_portal, reach, nat64, ipv6_addresses: ipv6_addresses() })
}

async fn reach(servers: &[Place], web: &[Place], mut rng: StdRng) -> ReachReport {
    let others = web.iter().filter(|web| servers.iter().all(|server| server.host != web.host));
    let everybody: Vec<_> = servers.iter().chain(others).cloned().collect();
    let tls = Arc::new(OnceCell::new());
    let (id, random) = (TransactionId(rng.random()), rng.random());
    let (tcp_3478, tls_443, udp_443) = tokio::join!(
        way(servers, DEFAULT_PORT, |_, to| tcp::attempt(to, id)),
        way(&everybody, HTTPS, |host, to| tls::attempt(Arc::clone(&tls), host.clone(), to)),
        way(&everybody, HTTPS, |_, to| udp::attempt(to, VersionNegotiation::new(random), id))
    );
    ReachReport { tcp_3478, tls_443, udp_443 }
}

/// Makes one attempt at each address, all at once.
async fn way<F>(places: &[Place], port: u16, mut attempt: impl FnMut(&Host, SocketAddr) -> F) -> WayReport
where
    F: Future<Output = Came> + Send + 'static,
{
    let mut attempts = Vec::new();
    let mut running = JoinSet::new();
    for Place { host, endpoints } in places {
        let made = |address, reason| Attempt { host: host.to_string(), address, outcome: None, reason };
        match endpoints {
            Ok(endpoints) => {
                for Endpoint { ip, dialled } in endpoints {
                    let (at, came) = (attempts.len(), attempt(host, SocketAddr::new(*dialled, port)));
                    running.spawn(async move { (at, came.await) });
                    attempts.push(made(Some(SocketAddr::new(*ip, port)), String::new()));
                }
            }
            Err(reason) => attempts.push(made(None, reason.clone())),
        }
    }
    for (at, (outcome, reason)) in running.join_all().await {
        let attempt: &mut Attempt = &mut attempts[at];
        (attempt.outcome, attempt.reason) = (Some(outcome), reason);
    }
    WayReport::new(attempts)
}

async fn portal(web: Option<&WebProbe>, places: &[Place]) -> CaptivePortalReport {
    let (Some(web), Some(place)) = (web, places.first()) else {
        return CaptivePortalReport::unknown("no page was named whose answer is known (--web)");
    };
    let endpoints = match &place.endpoints {
        Ok(endpoints) => endpoints,
        Err(reason) => return CaptivePortalReport::unknown(format!("{}: {reason}", place.host)),
    };
    let asked =
        endpoints.iter().map(|endpoint| web::ask(web.clone(), SocketAddr::new(endpoint.dialled, web.port)));
    let answers = asked.collect::<JoinSet<_>>().join_all().await;
    // A portal may stand before one family only.
    let rank = |report: &CaptivePortalReport| report.present.map_or(0, |present| 1 + u8::from(present));
    answers.into_iter().max_by_key(rank).unwrap_or_else(|| CaptivePortalReport::unknown("nobody was asked"))
}

fn ipv6_addresses() -> Ipv6AddressesReport {
    let used = match internet_facing_ips()[1] {
        Some(IpAddr::V6(ip)) => Some(ip),
        _ => None,
    };
    Ipv6AddressesReport::new(host_ipv6().map_err(|error| error.to_string()), used)
}

/// Connects, or says what came of it.
async fn connect(to: SocketAddr) -> Result<TcpStream, Came> {
    match timeout(LIMIT, TcpStream::connect(to)).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) if error.kind() == io::ErrorKind::TimedOut => {
            Err((Outcome::Silent, error.to_string()))
        }
        Ok(Err(error)) => Err((Outcome::Refused, error.to_string())),
        Err(_) => Err((Outcome::Silent, format!("no connection within {} s", LIMIT.as_secs()))),
    }
}
