//! A NAT as RFC 4787 and, for TCP, RFC 5382 describe them.
//!
//! 1. [`NatSpec`]: what it does. `allocation`: which external endpoint a mapping gets.
//! 2. `table`: mappings and filtering. `begun`: sessions that others began. `lifetime`: how long all of it lasts.
//! 3. [`Nat`]: the way of a packet out, in, and back (hairpinning).

mod allocation;
mod begun;
mod lifetime;
pub(super) mod table;

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use thirl_common::net::Transport;

pub use allocation::{Contention, Pooling};
pub use lifetime::{Lifetimes, Refresh};

use super::gateway::Gateway;
use super::middlebox::Forwarded;
use super::packet::{Packet, Segment};
use super::tcp::reset;
use crate::behaviour::{Filtering, Mapping, PortAllocation};
use allocation::Allocator;
use table::{Key, Table};

/// What becomes of a packet from the inside to an external endpoint of the same NAT (RFC 4787, section 6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hairpin {
    /// It is dropped.
    None,
    /// It comes back with its external source (REQ-9).
    ExternalSource,
    /// It comes back with its internal source.
    InternalSource,
}

/// What a NAT does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NatSpec {
    /// What a mapping depends on.
    pub mapping: Mapping,
    /// Whose packets are let in.
    pub filtering: Filtering,
    /// Whose SYNs are.
    pub tcp_filtering: Filtering,
    /// Which external port a new mapping gets.
    pub allocation: PortAllocation,
    /// Of how many ports a host's random ones are: a block of its own, as carriers give (RFC 6269, section 4).
    pub block: Option<u16>,
    /// Which one if ports are preserved and somebody has it.
    pub contention: Contention,
    /// From one sequential port to the next.
    pub step: u16,
    /// How many mappings a second other hosts behind it make, on average: sequential ports jump by that.
    pub noise: u16,
    /// Which external address a mapping gets, if there are several.
    pub pooling: Pooling,
    /// Whether hosts behind it reach each other by external endpoints.
    pub hairpin: Hairpin,
    /// How long everything lasts.
    pub lifetimes: Lifetimes,
    /// Whether UDP is dropped.
    pub blocks_udp: bool,
    /// Whether it answers a SYN that it does not let in with a reset, which ends a simultaneous open (RFC 5382, section 4.3,
    /// REQ-4, forbids that).
    pub resets: bool,
}

impl NatSpec {
    /// A NAT with random ports that does whatever else as RFC 4787 wants it.
    pub fn new(mapping: Mapping, filtering: Filtering) -> NatSpec {
        NatSpec {
            mapping,
            filtering,
            tcp_filtering: Filtering::AddressAndPortDependent,
            allocation: PortAllocation::Random,
            block: None,
            contention: Contention::Random,
            step: 1,
            noise: 0,
            pooling: Pooling::Paired,
            hairpin: Hairpin::ExternalSource,
            lifetimes: Lifetimes::default(),
            blocks_udp: false,
            resets: false,
        }
    }
}

/// A NAT at work.
#[derive(Debug)]
pub struct Nat {
    spec: NatSpec,
    externals: Vec<IpAddr>,
    udp: Table,
    tcp: Table,
    allocator: Allocator,
    gateway: Option<Gateway>,
}

impl Nat {
    /// A NAT without mappings.
    pub fn new(spec: NatSpec, externals: &[IpAddr]) -> Nat {
        let (udp, tcp) = (Table::default(), Table::default());
        Nat { spec, externals: externals.to_vec(), udp, tcp, allocator: Allocator::new(), gateway: None }
    }

    /// With a server for port mappings.
    pub fn with_gateway(self, gateway: Gateway) -> Nat {
        Nat { gateway: Some(gateway), ..self }
    }

    /// Its addresses on the outside.
    pub fn externals(&self) -> &[IpAddr] {
        &self.externals
    }

    /// What it does.
    pub fn spec(&self) -> &NatSpec {
        &self.spec
    }

    /// Loses all mappings, as at a reboot.
    pub fn reboot(&mut self) {
        (self.udp, self.tcp) = (Table::default(), Table::default());
        self.allocator.forget();
        if let Some(gateway) = &mut self.gateway {
            gateway.reboot();
        }
    }

    /// Gets other addresses from its provider, and loses all mappings.
    pub fn renumber(&mut self, externals: &[IpAddr]) {
        self.externals = externals.to_vec();
        self.reboot();
    }

    /// Takes a packet from the inside.
    pub(super) fn outbound(&mut self, now: Instant, rng: &mut StdRng, packet: Packet) -> Option<Forwarded> {
        if self.gateway.as_ref().is_some_and(|gateway| gateway.is_asked(&packet)) {
            return self.ask_gateway(now, &packet).map(Forwarded::Inside);
        }
        // IPv6 is not translated.
        if packet.to.is_ipv6() {
            return None;
        }
        let back = self.externals.contains(&packet.to.ip());
        if back && self.spec.hairpin == Hairpin::None {
            return None;
        }
        let (external, to) = self.translate(now, rng, &packet)?;
        if !back {
            return Some(Forwarded::Outside(Packet { from: external, to, ..packet }));
        }
        let internal = packet.from;
        let mut packet = self.admit(now, Packet { from: external, to, ..packet })?;
        if self.spec.hairpin == Hairpin::InternalSource {
            packet.from = internal;
        }
        Some(Forwarded::Inside(packet))
    }

    /// Takes a packet from the outside.
    pub(super) fn inbound(&mut self, now: Instant, packet: Packet) -> Option<Forwarded> {
        let refusal = (self.spec.resets && packet.segment == Some(Segment::Syn)).then(|| reset(&packet));
        match self.admit(now, packet) {
            Some(packet) => Some(Forwarded::Inside(packet)),
            None => refusal.map(Forwarded::Outside),
        }
    }

    /// The source that a packet leaves with, and its destination; `None` if it is not let out.
    fn translate(
        &mut self,
        now: Instant,
        rng: &mut StdRng,
        packet: &Packet,
    ) -> Option<(SocketAddr, SocketAddr)> {
        let Nat { spec, externals, udp, tcp, allocator, .. } = self;
        if spec.blocks_udp && !packet.is_tcp() {
            return None;
        }
        let (table, lifetimes) = (if packet.is_tcp() { tcp } else { udp }, &spec.lifetimes);
        let key = Key::new(spec.mapping, packet.from, packet.to);
        let answered = table.answers_by(now, packet, lifetimes);
        let known = answered.or_else(|| Some((table.mapped(now, key, lifetimes)?, packet.to)));
        let (external, to) = match known {
            Some(known) => known,
            None if packet.segment.is_some_and(|segment| segment != Segment::Syn) => return None,
            None => {
                let is_free = |external| !table.is_taken(now, external, lifetimes);
                let external = allocator.allocate(spec, (now, rng), externals, packet.from, is_free)?;
                table.map(now, key, external);
                (external, packet.to)
            }
        };
        table.pass_out(now, external, (to, packet.segment), lifetimes).then_some((external, to))
    }

    /// The packet as it goes on inside; `None` if it is not let in.
    fn admit(&mut self, now: Instant, packet: Packet) -> Option<Packet> {
        if self.spec.blocks_udp && !packet.is_tcp() {
            return None;
        }
        let (table, filtering) = match packet.is_tcp() {
            true => (&mut self.tcp, self.spec.tcp_filtering),
            false => (&mut self.udp, self.spec.filtering),
        };
        let (to, from) = table.pass_in(now, &packet, filtering, &self.spec.lifetimes)?;
        Some(Packet { from, to, ..packet })
    }

    fn ask_gateway(&mut self, now: Instant, packet: &Packet) -> Option<Packet> {
        let Nat { externals, udp, tcp, gateway, spec, .. } = self;
        let (gateway, external) = (gateway.as_mut()?, *externals.first()?);
        let mut keep = |transport: Transport, internal: SocketAddr, wanted: u16, lifetime: Duration| {
            let table = if transport.is_reliable() { &mut *tcp } else { &mut *udp };
            if lifetime.is_zero() {
                table.unmap(internal);
                return Some(0);
            }
            if let Some(external) = table.asked_for(now, internal) {
                table.map_explicitly(now, internal, external, lifetime);
                return Some(external.port());
            }
            let place = |port| SocketAddr::new(external, port);
            let is_free = |port: &u16| !table.is_taken(now, place(*port), &spec.lifetimes);
            let port = (wanted.max(1024)..=u16::MAX).chain(1024..wanted.max(1024)).find(is_free)?;
            table.map_explicitly(now, internal, place(port), lifetime);
            Some(port)
        };
        gateway.answer(now, external, packet, &mut keep)
    }
}
