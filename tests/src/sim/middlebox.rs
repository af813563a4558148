//! What stands between one network and another.

use std::net::IpAddr;
use std::time::Instant;

use rand::rngs::StdRng;

use super::dual_stack::DualStack;
use super::firewall::Firewall;
use super::nat::Nat;
use super::packet::Packet;

/// Where a packet goes on from a middlebox.
#[derive(Debug)]
pub(super) enum Forwarded {
    /// To the network that it stands in.
    Outside(Packet),
    /// To the network behind it.
    Inside(Packet),
}

/// A middlebox.
#[derive(Debug)]
pub enum Middlebox {
    /// A NAT.
    Nat(Nat),
    /// A firewall, or just a router.
    Firewall(Firewall),
    /// A NAT for IPv4 and a firewall for IPv6, perhaps with a NAT64.
    DualStack(Box<DualStack>),
}

impl Middlebox {
    pub(super) fn outbound(&mut self, now: Instant, rng: &mut StdRng, packet: Packet) -> Option<Forwarded> {
        match self {
            Middlebox::Nat(nat) => nat.outbound(now, rng, packet),
            Middlebox::Firewall(firewall) => firewall.outbound(now, packet).map(Forwarded::Outside),
            Middlebox::DualStack(router) => router.outbound(now, rng, packet),
        }
    }

    pub(super) fn inbound(&mut self, now: Instant, packet: Packet) -> Option<Forwarded> {
        match self {
            Middlebox::Nat(nat) => nat.inbound(now, packet),
            Middlebox::Firewall(firewall) => firewall.inbound(now, packet).map(Forwarded::Inside),
            Middlebox::DualStack(router) => router.inbound(now, packet),
        }
    }

    /// Whether an address outside is its own.
    pub(super) fn has(&self, ip: IpAddr) -> bool {
        match self {
            Middlebox::Nat(nat) => nat.externals().contains(&ip),
            Middlebox::Firewall(_) => false,
            Middlebox::DualStack(router) => router.nat.externals().contains(&ip),
        }
    }

    /// Whether the addresses behind it are known outside.
    pub(super) fn is_transparent(&self) -> bool {
        !matches!(self, Middlebox::Nat(_))
    }

    /// Loses what it knows, as at a reboot.
    pub fn reboot(&mut self) {
        match self {
            Middlebox::Nat(nat) => nat.reboot(),
            Middlebox::Firewall(firewall) => firewall.reboot(),
            Middlebox::DualStack(router) => router.reboot(),
        }
    }
}
