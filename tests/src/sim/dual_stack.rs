//! A router with both address families: it translates IPv4 and firewalls IPv6. With a NAT64 (RFC 6146), IPv6 hosts reach IPv4
//! ones by addresses of its prefix.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use rand::rngs::StdRng;
use thirl_common::net::Nat64Prefix;

use super::firewall::Firewall;
use super::middlebox::Forwarded;
use super::nat::Nat;
use super::packet::Packet;

/// Such a router at work.
#[derive(Debug)]
pub struct DualStack {
    /// What IPv4 packets pass, and those of the prefix.
    pub nat: Nat,
    /// Under which IPv6 hosts reach IPv4 addresses, if they do.
    pub prefix: Option<Nat64Prefix>,
    /// What IPv6 packets pass.
    pub native: Firewall,
}

impl DualStack {
    /// Loses what it knows.
    pub fn reboot(&mut self) {
        self.nat.reboot();
        self.native.reboot();
    }

    pub(super) fn outbound(&mut self, now: Instant, rng: &mut StdRng, packet: Packet) -> Option<Forwarded> {
        let IpAddr::V6(to) = packet.to.ip() else { return self.nat.outbound(now, rng, packet) };
        let Some(ipv4) = self.prefix.and_then(|prefix| prefix.extract(to)) else {
            return self.native.outbound(now, packet).map(Forwarded::Outside);
        };
        let to = SocketAddr::new(ipv4.into(), packet.to.port());
        let forwarded = self.nat.outbound(now, rng, Packet { to, ..packet })?;
        Some(self.synthesise(forwarded))
    }

    pub(super) fn inbound(&mut self, now: Instant, packet: Packet) -> Option<Forwarded> {
        if packet.to.is_ipv6() {
            return self.native.inbound(now, packet).map(Forwarded::Inside);
        }
        let forwarded = self.nat.inbound(now, packet)?;
        Some(self.synthesise(forwarded))
    }

    /// A packet from an IPv4 host as an IPv6 receiver sees it.
    fn synthesise(&self, forwarded: Forwarded) -> Forwarded {
        match (forwarded, self.prefix) {
            (Forwarded::Inside(packet), Some(prefix)) if packet.to.is_ipv6() => {
                let from = match packet.from.ip() {
                    IpAddr::V4(from) => prefix.synthesize(from).into(),
                    ipv6 @ IpAddr::V6(_) => ipv6,
                };
                let from = SocketAddr::new(from, packet.from.port());
                Forwarded::Inside(Packet { from, ..packet })
            }
            (forwarded, _) => forwarded,
        }
    }
}
