//! A NAT64 (RFC 6146): lets IPv6 hosts reach IPv4 ones by addresses of its prefix, and firewalls their IPv6.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use rand::rngs::StdRng;
use thirl_common::net::Nat64Prefix;

use super::firewall::Firewall;
use super::middlebox::Forwarded;
use super::nat::Nat;
use super::packet::Packet;

/// A NAT64 at work.
#[derive(Debug)]
pub struct Nat64 {
    /// Under which IPv4 addresses are reached.
    pub prefix: Nat64Prefix,
    /// Translates the endpoints of hosts; its external addresses are IPv4 ones.
    pub nat: Nat,
    /// What IPv6 packets pass.
    pub native: Firewall,
}

impl Nat64 {
    /// Loses what it knows.
    pub fn reboot(&mut self) {
        self.nat.reboot();
        self.native.reboot();
    }

    pub(super) fn outbound(&mut self, now: Instant, rng: &mut StdRng, packet: Packet) -> Option<Forwarded> {
        let IpAddr::V6(to) = packet.to.ip() else { return None };
        let Some(ipv4) = self.prefix.extract(to) else {
            return self.native.outbound(now, packet).map(Forwarded::Outside);
        };
        let to = SocketAddr::new(ipv4.into(), packet.to.port());
        match self.nat.outbound(now, rng, Packet { to, ..packet })? {
            Forwarded::Inside(packet) => self.synthesise(packet).map(Forwarded::Inside),
            outside @ Forwarded::Outside(_) => Some(outside),
        }
    }

    pub(super) fn inbound(&mut self, now: Instant, packet: Packet) -> Option<Forwarded> {
        if packet.to.is_ipv6() {
            return self.native.inbound(now, packet).map(Forwarded::Inside);
        }
        match self.nat.inbound(now, packet)? {
            Forwarded::Inside(packet) => self.synthesise(packet).map(Forwarded::Inside),
            outside @ Forwarded::Outside(_) => Some(outside),
        }
    }

    /// A packet from an IPv4 host as its IPv6 receiver sees it.
    fn synthesise(&self, packet: Packet) -> Option<Packet> {
        let IpAddr::V4(from) = packet.from.ip() else { return Some(packet) };
        let from = SocketAddr::new(self.prefix.synthesize(from).into(), packet.from.port());
        Some(Packet { from, ..packet })
    }
}
