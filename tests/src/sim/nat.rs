//! A NAT as RFC 4787 describes them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use rand::Rng;
use rand::rngs::StdRng;

use super::network::Packet;
use crate::behaviour::{Filtering, Mapping, PortAllocation};

/// What a NAT does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NatSpec {
    /// What a mapping depends on.
    pub mapping: Mapping,
    /// Whose packets are let in.
    pub filtering: Filtering,
    /// Which external port a new mapping gets.
    pub allocation: PortAllocation,
    /// Whether UDP is let out at all.
    pub blocks_udp: bool,
}

impl NatSpec {
    /// A NAT with random ports.
    pub fn new(mapping: Mapping, filtering: Filtering) -> NatSpec {
        NatSpec { mapping, filtering, allocation: PortAllocation::Random, blocks_udp: false }
    }
}

/// A NAT at work.
#[derive(Debug)]
pub struct Nat {
    spec: NatSpec,
    external: IpAddr,
    /// Internal endpoint, and the part of the destination that the mapping depends on, to external port.
    mappings: BTreeMap<(SocketAddr, Option<IpAddr>, Option<u16>), u16>,
    /// External port to internal endpoint and the destinations sent to.
    ports: BTreeMap<u16, (SocketAddr, BTreeSet<SocketAddr>)>,
    /// Internal end of a TCP connection to external port.
    connections: BTreeMap<SocketAddr, u16>,
    /// The next port, if they are sequential.
    next: u16,
}

impl Nat {
    /// A NAT without mappings.
    pub fn new(spec: NatSpec, external: IpAddr) -> Nat {
        Nat {
            spec,
            external,
            mappings: BTreeMap::new(),
            ports: BTreeMap::new(),
            connections: BTreeMap::new(),
            next: 20_000,
        }
    }

    /// Its address on the outside.
    pub fn external(&self) -> IpAddr {
        self.external
    }

    /// Loses all mappings, as at a reboot.
    pub fn reboot(&mut self) {
        self.mappings.clear();
        self.ports.clear();
        self.connections.clear();
    }

    /// The source that a packet leaves with; `None` if it is not let out.
    pub fn outbound(&mut self, rng: &mut StdRng, packet: &Packet) -> Option<SocketAddr> {
        let Packet { from, to, transport, .. } = *packet;
        if transport.is_reliable() {
            return Some(self.connection(from));
        }
        if self.spec.blocks_udp {
            return None;
        }
        let key = match self.spec.mapping {
            Mapping::EndpointIndependent => (from, None, None),
            Mapping::AddressDependent => (from, Some(to.ip()), None),
            Mapping::AddressAndPortDependent => (from, Some(to.ip()), Some(to.port())),
        };
        let port = match self.mappings.get(&key) {
            Some(port) => *port,
            None => {
                let port = self.free_port(rng, from.port());
                self.mappings.insert(key, port);
                self.ports.insert(port, (from, BTreeSet::new()));
                port
            }
        };
        self.ports.get_mut(&port)?.1.insert(to);
        Some(SocketAddr::new(self.external, port))
    }

    /// Whom a packet that came to an external port is for; `None` if it is not let in.
    pub fn inbound(&self, packet: &Packet) -> Option<SocketAddr> {
        let (port, from) = (packet.to.port(), packet.from);
        if packet.transport.is_reliable() {
            return self.connections.iter().find(|(_, known)| **known == port).map(|(internal, _)| *internal);
        }
        let (internal, sent_to) = self.ports.get(&port)?;
        let let_in = match self.spec.filtering {
            Filtering::EndpointIndependent => true,
            Filtering::AddressDependent => sent_to.iter().any(|to| to.ip() == from.ip()),
            Filtering::AddressAndPortDependent => sent_to.contains(&from),
        };
        let_in.then_some(*internal)
    }

    fn connection(&mut self, from: SocketAddr) -> SocketAddr {
        let next = 20_000 + u16::try_from(self.connections.len()).unwrap_or(0);
        SocketAddr::new(self.external, *self.connections.entry(from).or_insert(next))
    }

    fn free_port(&mut self, rng: &mut StdRng, wanted: u16) -> u16 {
        if self.spec.allocation == PortAllocation::Preserving && !self.ports.contains_key(&wanted) {
            return wanted;
        }
        if self.spec.allocation == PortAllocation::Sequential {
            self.next += 1;
            return self.next - 1;
        }
        loop {
            let port = rng.random_range(1024..=u16::MAX);
            if !self.ports.contains_key(&port) {
                return port;
            }
        }
    }
}
