//! A firewall: what it lets out, and whose packets it lets in.

use std::net::SocketAddr;
use std::time::Instant;

use super::nat::Lifetimes;
use super::nat::table::{Key, Table};
use super::packet::{Packet, Segment};
use crate::behaviour::{Filtering, Mapping};

/// Which TCP connections are let out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TcpPolicy {
    /// All.
    All,
    /// Those to this port.
    Port(u16),
    /// Those to this endpoint: a proxy.
    Only(SocketAddr),
}

/// What a firewall does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FirewallSpec {
    /// Whether UDP is let out.
    pub udp: bool,
    /// Which TCP connections are.
    pub tcp: TcpPolicy,
    /// Whose packets are let in: those whom the host has sent to, seen as a NAT sees it. `None` for everybody's, as a router
    /// does.
    pub inbound: Option<Filtering>,
    /// How long what was sent lets others in.
    pub lifetimes: Lifetimes,
}

impl FirewallSpec {
    /// Lets everything out and in.
    pub fn open() -> FirewallSpec {
        FirewallSpec { udp: true, tcp: TcpPolicy::All, inbound: None, lifetimes: Lifetimes::default() }
    }

    /// Lets everything out, and in what was asked for.
    pub fn stateful(filtering: Filtering) -> FirewallSpec {
        FirewallSpec { inbound: Some(filtering), ..FirewallSpec::open() }
    }

    /// Lets only these connections out, and no UDP.
    pub fn tcp_only(tcp: TcpPolicy) -> FirewallSpec {
        FirewallSpec { udp: false, tcp, ..FirewallSpec::stateful(Filtering::AddressAndPortDependent) }
    }

    fn lets_out(&self, packet: &Packet) -> bool {
        match self.tcp {
            _ if !packet.is_tcp() => self.udp,
            TcpPolicy::All => true,
            TcpPolicy::Port(port) => packet.to.port() == port,
            TcpPolicy::Only(to) => packet.to == to,
        }
    }
}

/// A firewall at work: a NAT that translates nothing.
#[derive(Debug)]
pub struct Firewall {
    spec: FirewallSpec,
    udp: Table,
    tcp: Table,
}

impl Firewall {
    /// One that has seen nothing yet.
    pub fn new(spec: FirewallSpec) -> Firewall {
        Firewall { spec, udp: Table::default(), tcp: Table::default() }
    }

    /// Forgets what it has seen.
    pub fn reboot(&mut self) {
        (self.udp, self.tcp) = (Table::default(), Table::default());
    }

    pub(super) fn outbound(&mut self, now: Instant, packet: Packet) -> Option<Packet> {
        let Firewall { spec, udp, tcp } = self;
        // The answers of a connection that was let in pass.
        let answers = packet.segment.is_some_and(|segment| segment != Segment::Syn);
        if !answers && !spec.lets_out(&packet) {
            return None;
        }
        if spec.inbound.is_none() {
            return Some(packet);
        }
        let table = if packet.is_tcp() { tcp } else { udp };
        let key = Key::new(Mapping::EndpointIndependent, packet.from, packet.to);
        if table.mapped(now, key, &spec.lifetimes).is_none() {
            table.map(now, key, packet.from);
        }
        let (from, to) = (packet.from, packet.to);
        table.pass_out(now, from, (to, packet.segment), &spec.lifetimes).then_some(packet)
    }

    pub(super) fn inbound(&mut self, now: Instant, packet: Packet) -> Option<Packet> {
        let Firewall { spec, udp, tcp } = self;
        let Some(filtering) = spec.inbound else { return (packet.is_tcp() || spec.udp).then_some(packet) };
        let table = if packet.is_tcp() { tcp } else { udp };
        table.pass_in(now, &packet, filtering, &spec.lifetimes)?;
        Some(packet)
    }
}
