//! The addresses of a host, and how they are reached from here.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use thirl_common::io::local_address_towards;
use thirl_common::net::Nat64Prefix;
use thirl_common::uri::Host;
use tokio::net::lookup_host;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::DNS_LIMIT;

/// A host that was named.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) host: Host,
    /// Where it is: one address of each family that a route leads to; or why there is none.
    pub(super) endpoints: Result<Vec<Endpoint>, String>,
}

/// An address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Endpoint {
    /// The address itself.
    pub(super) ip: IpAddr,
    /// Where packets are sent: through NAT64, this is another one.
    pub(super) dialled: IpAddr,
}

/// Looks every host up once, all at the same time.
pub(super) async fn look_up(hosts: impl Iterator<Item = &Host>, nat64: Option<Nat64Prefix>) -> Vec<Place> {
    let mut named = BTreeSet::new();
    let once = hosts.filter(|host| named.insert(host.to_string())).cloned().enumerate();
    let lookups: JoinSet<_> =
        once.map(|(order, host)| async move { (order, place(host, nat64).await) }).collect();
    let mut places = lookups.join_all().await;
    places.sort_by_key(|(order, _)| *order);
    places.into_iter().map(|(_, place)| place).collect()
}

async fn place(host: Host, nat64: Option<Nat64Prefix>) -> Place {
    let found = match &host {
        Host::Ip(ip) => Ok(vec![*ip]),
        Host::Name(name) => addresses(name).await,
    };
    let endpoints = found.and_then(|found| match endpoints(&found, nat64, has_route) {
        endpoints if endpoints.is_empty() => Err("no route leads there".to_owned()),
        endpoints => Ok(endpoints),
    });
    Place { host, endpoints }
}

async fn addresses(name: &str) -> Result<Vec<IpAddr>, String> {
    match timeout(DNS_LIMIT, lookup_host((name, super::HTTPS))).await {
        Ok(Ok(found)) => Ok(found.map(|addr| addr.ip()).collect()),
        Ok(Err(error)) => Err(format!("the name does not resolve: {error}")),
        Err(_) => Err(format!("the name does not resolve within {} s", DNS_LIMIT.as_secs())),
    }
}

/// One of each family: more addresses of one name are most often one and the same machine. What DNS64 made of an IPv4
/// address is that address.
fn endpoints(
    found: &[IpAddr],
    nat64: Option<Nat64Prefix>,
    has_route: impl Fn(IpAddr) -> bool,
) -> Vec<Endpoint> {
    let found: Vec<_> = found
        .iter()
        .map(|ip| match (ip.to_canonical(), nat64) {
            (IpAddr::V6(ip), Some(prefix)) => prefix.extract(ip).map_or(IpAddr::V6(ip), IpAddr::V4),
            (ip, _) => ip,
        })
        .collect();
    let first = |ipv4: bool| found.iter().copied().find(|ip| ip.is_ipv4() == ipv4);
    let endpoint = |ip: IpAddr| {
        let through = match (ip, nat64) {
            (IpAddr::V4(ip), Some(prefix)) => Some(prefix.synthesize(ip).into()),
            _ => None,
        };
        let dialled = [Some(ip), through].into_iter().flatten().find(|ip| has_route(*ip))?;
        Some(Endpoint { ip, dialled })
    };
    [first(true), first(false)].into_iter().flatten().filter_map(endpoint).collect()
}

fn has_route(ip: IpAddr) -> bool {
    local_address_towards(SocketAddr::new(ip, super::HTTPS)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ips(text: &str) -> Vec<IpAddr> {
        text.split(' ').map(|ip| ip.parse().unwrap()).collect()
    }

    fn found(found: &str, has_route: fn(IpAddr) -> bool) -> Vec<String> {
        let prefix = "64:ff9b::/96".parse().ok();
        let endpoints = endpoints(&ips(found), prefix, has_route);
        endpoints.iter().map(|endpoint| format!("{} by {}", endpoint.ip, endpoint.dialled)).collect()
    }

    #[test]
    fn ipv4_goes_through_nat64_if_there_is_no_other_way() {
        let both = "192.0.2.1 192.0.2.2 2001:db8::1";
        assert_eq!(found(both, |_| true), ["192.0.2.1 by 192.0.2.1", "2001:db8::1 by 2001:db8::1"]);
        let ipv6_only = |ip: IpAddr| ip.is_ipv6();
        assert_eq!(found(both, ipv6_only), ["192.0.2.1 by 64:ff9b::c000:201", "2001:db8::1 by 2001:db8::1"]);
        assert_eq!(found("64:ff9b::c000:201", ipv6_only), ["192.0.2.1 by 64:ff9b::c000:201"]);
        assert_eq!(found("64:ff9b::c000:201", |_| true), ["192.0.2.1 by 192.0.2.1"]);
        assert!(found(both, |_| false).is_empty());
    }
}
