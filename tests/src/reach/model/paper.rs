//! A network on paper: NATs and firewalls whose ports are symbols. Of the simulation's code it has nothing.

use std::collections::{BTreeMap, BTreeSet};

use crate::behaviour::{Filtering, Mapping};
use crate::sim::{FirewallSpec, Hairpin, Layer, NatSpec, Site, TcpPolicy, Topology};

/// What packets are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// UDP over IPv4, which a NAT64 has translated on the side of an IPv6 host.
    Ipv4,
    /// UDP over IPv6.
    Ipv6,
    /// TCP over IPv4: SYNs.
    Tcp,
}

/// Who has an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Owner {
    Host(usize),
    Station(usize),
    Server(usize),
}

/// An address and a port. Ports are numbered as they come to be; no two are equal by chance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Endpoint {
    owner: Owner,
    port: u32,
}

/// The port of every host's socket and of every server.
const OWN: u32 = 0;

/// What has become of a packet.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sent {
    /// Whose socket it came to, and from where it seems to come.
    pub(super) arrived: Option<(usize, Endpoint)>,
    /// Its source where it left what the sender is behind by itself.
    pub(super) left_from: Option<Endpoint>,
}

/// A middlebox.
#[derive(Clone, Copy, Debug)]
struct Station {
    /// `None` if it does not translate.
    mapping: Option<Mapping>,
    /// `None` if it lets everybody in.
    filtering: Option<Filtering>,
    hairpin: Hairpin,
    lets_out: bool,
    /// Whether it opens ports on request.
    opens: bool,
}

/// What a mapping stands for: the internal endpoint, and the part of the destination that it depends on.
type Key = (usize, Endpoint, Option<Owner>, Option<u32>);

/// The network, and what its stations remember.
#[derive(Clone, Debug)]
pub(super) struct Network {
    stations: Vec<Station>,
    /// For each side the stations on its way out, from the inside; and how many of them are its own.
    ways: [Vec<usize>; 2],
    own: [usize; 2],
    ports: u32,
    mappings: BTreeMap<Key, Endpoint>,
    internals: BTreeMap<Endpoint, Endpoint>,
    /// Endpoints that were opened on request.
    opened: BTreeSet<Endpoint>,
    /// Which remote endpoint was sent to by which external one.
    holes: BTreeSet<(usize, Endpoint, Endpoint)>,
    /// What came in first, by station, internal endpoint and source as that sees it: the external endpoint and the source.
    begun: BTreeMap<(usize, Endpoint, Endpoint), (Endpoint, Endpoint)>,
    /// What a source is seen as, by station, external endpoint and source.
    seen: BTreeMap<(usize, Endpoint, Endpoint), Endpoint>,
    /// Between two NATs whose ports are predictable: the destination for which the station gives this port.
    agreed: BTreeMap<(usize, Endpoint), Endpoint>,
}

impl Network {
    pub(super) fn new(topology: &Topology, kind: Kind) -> Network {
        let mut stations = Vec::new();
        let mut add = |layers: &[Layer]| {
            layers.iter().for_each(|layer| stations.push(Station::new(layer, kind)));
            (stations.len() - layers.len()..stations.len()).collect::<Vec<_>>()
        };
        let shared = add(&topology.shared);
        let own = topology.sites.each_ref().map(|site: &Site| add(&site.layers));
        let lengths = own.each_ref().map(Vec::len);
        let ways = own.map(|own| own.into_iter().chain(shared.iter().copied()).collect());
        Network {
            stations,
            ways,
            own: lengths,
            ports: OWN,
            mappings: BTreeMap::new(),
            internals: BTreeMap::new(),
            opened: BTreeSet::new(),
            holes: BTreeSet::new(),
            begun: BTreeMap::new(),
            seen: BTreeMap::new(),
            agreed: BTreeMap::new(),
        }
    }

    /// A side's own socket.
    pub(super) fn host(&self, side: usize) -> Endpoint {
        Endpoint { owner: Owner::Host(side), port: OWN }
    }

    /// What one of the servers sees of a side's socket, if that reaches it.
    pub(super) fn ask_server(&mut self, side: usize, number: usize) -> Option<Endpoint> {
        let to = Endpoint { owner: Owner::Server(number), port: OWN };
        let mut from = self.host(side);
        for at in 0..self.ways[side].len() {
            (from, _) = self.pass_out(self.ways[side][at], from, to)?;
        }
        Some(from)
    }

    /// Has a side's gateway open a port, if it has one.
    pub(super) fn open_port(&mut self, side: usize) -> Option<Endpoint> {
        let &nearest = self.ways[side].first()?;
        if !self.stations[nearest].opens || !self.stations[nearest].lets_out {
            return None;
        }
        let external = self.new_port(Owner::Station(nearest));
        self.internals.insert(external, self.host(side));
        self.opened.insert(external);
        Some(external)
    }

    /// Fixes a port for each side's outermost station, which it gives to packets for the other's.
    pub(super) fn agree(&mut self) -> [Option<Endpoint>; 2] {
        let outermost = [0, 1].map(|side| self.translator(side));
        let [Some(one), Some(other)] = outermost else { return [None; 2] };
        let [here, there] = [one, other].map(|station| self.new_port(Owner::Station(station)));
        self.agreed.extend([((one, there), here), ((other, here), there)]);
        [Some(here), Some(there)]
    }

    /// Sends a packet from a side's socket.
    pub(super) fn send(&mut self, side: usize, to: Endpoint) -> Sent {
        let (mut from, mut to) = (self.host(side), to);
        let mut sent = Sent::default();
        for at in 0..=self.ways[side].len() {
            // The network outside of the station before.
            if at == self.own[side] {
                sent.left_from = Some(from);
                if self.is_seen(1 - side, to) {
                    sent.arrived = self.come_in(1 - side, from, to);
                    return sent;
                }
            }
            let Some(&station) = self.ways[side].get(at) else { return sent };
            let internal = from;
            let Some(passed) = self.pass_out(station, from, to) else { return sent };
            (from, to) = passed;
            if to.owner == Owner::Station(station) && self.stations[station].mapping.is_some() {
                sent.arrived = self.come_back(side, at, (internal, from), to);
                return sent;
            }
        }
        sent
    }

    /// A packet that a station sends back inside.
    fn come_back(
        &mut self,
        side: usize,
        at: usize,
        (internal, external): (Endpoint, Endpoint),
        to: Endpoint,
    ) -> Option<(usize, Endpoint)> {
        let station = self.ways[side][at];
        let (mut from, mut to) = self.pass_in(station, external, to)?;
        match self.stations[station].hairpin {
            Hairpin::None => return None,
            Hairpin::ExternalSource => {}
            Hairpin::InternalSource => from = internal,
        }
        // Only what both are behind leads to the other side.
        for at in (self.own[side]..at).rev() {
            (from, to) = self.pass_in(self.ways[side][at], from, to)?;
        }
        let common = at >= self.own[side];
        (common && self.is_seen(1 - side, to)).then(|| self.come_in(1 - side, from, to)).flatten()
    }

    /// Whether a side has an address in the network that both have in common.
    fn is_seen(&self, side: usize, to: Endpoint) -> bool {
        to.owner == self.translator(side).map_or(Owner::Host(side), Owner::Station)
    }

    /// The outermost of a side's own stations that translates.
    fn translator(&self, side: usize) -> Option<usize> {
        let own = &self.ways[side][..self.own[side]];
        own.iter().copied().rev().find(|station| self.stations[*station].mapping.is_some())
    }

    /// A packet on its way in to a side.
    fn come_in(&mut self, side: usize, mut from: Endpoint, mut to: Endpoint) -> Option<(usize, Endpoint)> {
        for at in (0..self.own[side]).rev() {
            (from, to) = self.pass_in(self.ways[side][at], from, to)?;
        }
        (to == self.host(side)).then_some((side, from))
    }

    /// The source that a packet leaves a station with, and its destination.
    fn pass_out(&mut self, station: usize, from: Endpoint, to: Endpoint) -> Option<(Endpoint, Endpoint)> {
        let Station { mapping, lets_out, .. } = self.stations[station];
        if !lets_out {
            return None;
        }
        if let Some(&(external, remote)) = self.begun.get(&(station, from, to)) {
            self.holes.insert((station, external, remote));
            return Some((external, remote));
        }
        let external = match mapping {
            None => from,
            Some(mapping) => {
                let key = match mapping {
                    Mapping::EndpointIndependent => (station, from, None, None),
                    Mapping::AddressDependent => (station, from, Some(to.owner), None),
                    Mapping::AddressAndPortDependent => (station, from, Some(to.owner), Some(to.port)),
                };
                match (self.mappings.get(&key), self.agreed.get(&(station, to))) {
                    (Some(external), _) | (None, Some(external)) => {
                        let external = *external;
                        self.remember(key, external);
                        external
                    }
                    (None, None) => {
                        let external = self.new_port(Owner::Station(station));
                        self.remember(key, external);
                        external
                    }
                }
            }
        };
        self.holes.insert((station, external, to));
        Some((external, to))
    }

    fn remember(&mut self, key: Key, external: Endpoint) {
        self.mappings.insert(key, external);
        self.internals.insert(external, key.1);
    }

    /// A packet's source and destination as they are behind a station; `None` if it does not let it in.
    fn pass_in(&mut self, station: usize, from: Endpoint, to: Endpoint) -> Option<(Endpoint, Endpoint)> {
        let Station { mapping, filtering, .. } = self.stations[station];
        let internal = match mapping {
            None => to,
            Some(_) => *self.internals.get(&to)?,
        };
        let mut holes = self.holes.iter().filter(|(known, external, _)| (*known, *external) == (station, to));
        let let_in = match filtering.filter(|_| !self.opened.contains(&to)) {
            None | Some(Filtering::EndpointIndependent) => true,
            Some(Filtering::AddressDependent) => holes.any(|(.., remote)| remote.owner == from.owner),
            Some(Filtering::AddressAndPortDependent) => holes.any(|(.., remote)| *remote == from),
        };
        if !let_in || !self.stations[station].lets_out {
            return None;
        }
        if mapping.is_none() || self.holes.contains(&(station, to, from)) {
            return Some((self.seen.get(&(station, to, from)).copied().unwrap_or(from), internal));
        }
        Some((self.begin(station, internal, to, from), internal))
    }

    /// Somebody has begun. What the internal endpoint sees as its source: another port, if it sends there already by another
    /// mapping.
    fn begin(&mut self, station: usize, internal: Endpoint, external: Endpoint, from: Endpoint) -> Endpoint {
        let clashes = self.holes.iter().any(|(known, other, remote)| {
            (*known, *remote) == (station, from) && self.internals.get(other) == Some(&internal)
        });
        let seen = if clashes { self.new_port(from.owner) } else { from };
        self.begun.insert((station, internal, seen), (external, from));
        self.seen.insert((station, external, from), seen);
        self.holes.insert((station, external, from));
        seen
    }

    fn new_port(&mut self, owner: Owner) -> Endpoint {
        self.ports += 1;
        Endpoint { owner, port: self.ports }
    }
}

impl Station {
    fn new(layer: &Layer, kind: Kind) -> Station {
        let blocked =
            Station { mapping: None, filtering: None, hairpin: Hairpin::None, lets_out: false, opens: false };
        match (layer, kind) {
            (Layer::Firewall(spec), _) => Station::firewall(spec, kind),
            (Layer::DualStack(_, spec) | Layer::Nat64(_, spec), Kind::Ipv6) => Station::firewall(spec, kind),
            (Layer::Nat(..), Kind::Ipv6) => blocked,
            (Layer::Nat(spec, gateway), _) => {
                Station { opens: gateway.is_some(), ..Station::nat(spec, kind) }
            }
            (Layer::DualStack(spec, _) | Layer::Nat64(spec, _), _) => Station::nat(spec, kind),
        }
    }

    fn nat(spec: &NatSpec, kind: Kind) -> Station {
        let filtering = if kind == Kind::Tcp { spec.tcp_filtering } else { spec.filtering };
        Station {
            mapping: Some(spec.mapping),
            filtering: Some(filtering),
            hairpin: spec.hairpin,
            lets_out: kind == Kind::Tcp || !spec.blocks_udp,
            opens: false,
        }
    }

    fn firewall(spec: &FirewallSpec, kind: Kind) -> Station {
        // Peers are on ports that no such policy names.
        let lets_out = if kind == Kind::Tcp { spec.tcp == TcpPolicy::All } else { spec.udp };
        Station { mapping: None, filtering: spec.inbound, hairpin: Hairpin::None, lets_out, opens: false }
    }
}
