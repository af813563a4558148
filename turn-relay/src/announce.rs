//! What to tell people of a server that has started: URIs, and credentials to paste.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;
use thirl_common::auth::EphemeralCredentials;
use thirl_common::io::internet_facing_ips;
use thirl_common::net::Transport;
use thirl_common::uri::{Host, Scheme, ServerUri};

use crate::settings::Settings;

/// How long the credentials are good for that a server prints.
const PRINTED_LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// URIs of a running server and, if it has a secret, credentials that hold for a day.
#[derive(Clone, Serialize)]
pub struct Announcement {
    /// `stun:` and `turn:` URIs, then those of the servers with a certificate.
    pub uris: Vec<String>,
    /// Username of the credentials.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// Password of the credentials.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credential: Option<String>,
}

impl Announcement {
    /// Of a server with these settings that listens there.
    pub fn new(settings: &Settings, local_addrs: &[(Transport, SocketAddr)]) -> Announcement {
        let hosts: Vec<_> = public_ips(settings).into_iter().map(Host::Ip).collect();
        let credentials = mint(settings, "thirl", PRINTED_LIFETIME);
        let (stun, turn) = uris(&hosts, local_addrs);
        let turns = secure_uris(&hosts, local_addrs);
        Announcement {
            uris: stun.iter().chain(&turn).chain(&turns).map(ToString::to_string).collect(),
            username: credentials.as_ref().map(|credentials| credentials.username.clone()),
            credential: credentials.map(|credentials| credentials.password),
        }
    }
}

impl fmt::Debug for Announcement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Announcement({}, credential redacted)", self.uris.join(" "))
    }
}

impl fmt::Display for Announcement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.uris.join("\n"))?;
        if let (Some(username), Some(credential)) = (&self.username, &self.credential) {
            write!(f, "\nusername: {username}  (for a day)\ncredential: {credential}")?;
        }
        Ok(())
    }
}

/// Credentials for `user` from the server's secret; `None` if it has none.
pub fn mint(settings: &Settings, user: &str, lifetime: Duration) -> Option<EphemeralCredentials> {
    settings.credentials.rest.mint(user, unix_seconds() + lifetime.as_secs())
}

/// The addresses by which clients find the server: what it is called outside, else where it listens, else this host's own.
pub fn public_ips(settings: &Settings) -> Vec<IpAddr> {
    match configured_ips(settings) {
        ips if ips.is_empty() => host_ips(),
        ips => ips,
    }
}

/// The addresses that the operator says are the server's: what it is called outside, else where it listens. Empty if it
/// listens everywhere.
pub fn configured_ips(settings: &Settings) -> Vec<IpAddr> {
    let external: Vec<_> = settings.external_ips.iter().map(|external| external.external).collect();
    let listening = settings.listening_ips.iter().copied().filter(|ip| !ip.is_unspecified());
    if external.is_empty() { listening.collect() } else { external }
}

/// The addresses that this host sends from to the internet, or loopback where it cannot.
fn host_ips() -> Vec<IpAddr> {
    let own: Vec<_> = internet_facing_ips().into_iter().flatten().collect();
    if own.is_empty() { vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()] } else { own }
}

/// The `stun:` and the `turn:` URIs of a server that is known by `hosts` and listens at `local_addrs`. A name stands for
/// addresses of both families.
pub fn uris(hosts: &[Host], local_addrs: &[(Transport, SocketAddr)]) -> (Vec<ServerUri>, Vec<ServerUri>) {
    let uri = |scheme, host: &Host, port, tcp| ServerUri { scheme, host: host.clone(), port, tcp };
    let mut stun = Vec::new();
    let mut turn = Vec::new();
    for host in hosts {
        if let Some(port) = port(host, Transport::Udp, local_addrs) {
            stun.push(uri(Scheme::Stun, host, port, None));
            turn.push(uri(Scheme::Turn, host, port, Some(false)));
        }
        if let Some(port) = port(host, Transport::Tcp, local_addrs) {
            turn.push(uri(Scheme::Turn, host, port, Some(true)));
        }
    }
    (stun, turn)
}

/// The `turns:` URIs, in which clients compare the host with the server's certificate.
fn secure_uris(hosts: &[Host], local_addrs: &[(Transport, SocketAddr)]) -> Vec<ServerUri> {
    let both = [(Transport::Tls, true), (Transport::Dtls, false)];
    let each = hosts.iter().flat_map(|host| both.map(|(transport, tcp)| (host, transport, tcp)));
    each.filter_map(|(host, transport, tcp)| {
        let port = port(host, transport, local_addrs)?;
        Some(ServerUri { scheme: Scheme::Turns, host: host.clone(), port, tcp: Some(tcp) })
    })
    .collect()
}

/// Where the host is found by this transport.
fn port(host: &Host, wanted: Transport, local_addrs: &[(Transport, SocketAddr)]) -> Option<u16> {
    let reached_by = |addr: &SocketAddr| match host {
        Host::Ip(ip) => ip.is_ipv4() == addr.is_ipv4(),
        Host::Name(_) => true,
    };
    let found = local_addrs.iter().find(|(transport, addr)| *transport == wanted && reached_by(addr));
    found.map(|(_, addr)| addr.port())
}

#[expect(clippy::disallowed_methods, reason = "credentials expire by the wall clock")]
fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uris_name_what_is_served() {
        let hosts = ["203.0.113.10", "2001:db8::1"].map(|ip| Host::Ip(ip.parse().unwrap()));
        let addr = |text: &str| text.parse::<SocketAddr>().unwrap();
        let local = [(Transport::Udp, addr("0.0.0.0:3478")), (Transport::Tcp, addr("0.0.0.0:3479"))];
        let (stun, turn) = uris(&hosts, &local);
        let text: Vec<_> = stun.iter().chain(&turn).map(ToString::to_string).collect();
        assert_eq!(
            text,
            [
                "stun:203.0.113.10:3478",
                "turn:203.0.113.10:3478?transport=udp",
                "turn:203.0.113.10:3479?transport=tcp"
            ]
        );
        let local = [(Transport::Tls, addr("[::]:5349")), (Transport::Dtls, addr("0.0.0.0:5350"))];
        let text: Vec<_> = secure_uris(&hosts, &local).iter().map(ToString::to_string).collect();
        assert_eq!(text, ["turns:203.0.113.10:5350?transport=udp", "turns:[2001:db8::1]:5349?transport=tcp"]);
    }
}
