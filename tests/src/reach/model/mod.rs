//! The reference model: the best path that can exist in a topology of the simulation, from first principles.
//!
//! It knows nothing of ICE. It asks what a packet can do, in a network of symbols: a port that a NAT gives is a symbol that
//! nobody else has, time stands still, and nothing is lost (`paper`). Each side has one socket and a set of endpoints that it
//! may send to. At first these are what two servers see of the other side, and the other side's own address. Whoever
//! receives a packet may send to where it came from. Both send to all that they know, again and again, until nothing new
//! is learnt: every mapping that can help is then made, and every filter opened that can be. A direct path exists if now a
//! packet of one side's comes in, and one that the other sends to its source comes back to the first from where that has
//! sent to: this is all that any protocol can rest on.
//!
//! What more a side may know is what sets one expectation apart from the next:
//!
//! - [`Punch`](Expectation::Punch): nothing more. Over IPv6 or over IPv4.
//! - [`Mapping`](Expectation::Mapping): what a gateway opens, to anybody; over UDP, or else over TCP.
//! - [`Prediction`](Expectation::Prediction): the next port of a NAT that gives them in sequence while nobody else takes them.
//!   Between two of them one port each is agreed on beforehand: both NATs must give theirs for the same pair of packets.
//! - [`Birthday`](Expectation::Birthday): the port that a dependent mapping gets, by luck, on one side: many tries make up for
//!   that, but not for luck on both.
//! - [`Tcp`](Expectation::Tcp): as for `Punch`, with SYNs. Both sides send theirs, so a filter that wants an answer's
//!   source to have been sent to is opened as with UDP (RFC 5382, section 4.3).
//! - [`Relayed`](Expectation::Relayed): each side reaches a server, by UDP, by TCP, on port 443 or by a proxy.

mod paper;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use super::Expectation;
use crate::behaviour::{Mapping, PortAllocation};
use crate::sim::{Addresses, FirewallSpec, Layer, NatSpec, Site, TcpPolicy, Topology};
use paper::{Endpoint, Kind, Network};

/// So many times both sides send to all that they know: enough for a packet, its answer, and what either teaches.
const ROUNDS: usize = 6;

/// The best path that can exist.
pub fn expectation(topology: &Topology) -> Expectation {
    best(topology, |question| (0..2).any(|first| question.clone().exists(first)))
}

/// Whether it exists whichever side sends first. What a NAT does with what comes in depends on what has gone out before.
pub fn is_certain(topology: &Topology) -> bool {
    best(topology, |question| (0..2).all(|first| question.clone().exists(first))) == expectation(topology)
}

/// The best path that exists in the opinion of `exists`.
fn best(topology: &Topology, exists: impl Fn(&Question<'_>) -> bool) -> Expectation {
    let asked = |kind, what: Knows| {
        Question::new(topology, kind)
            .and_then(|question| question.knowing(what))
            .is_some_and(|it| exists(&it))
    };
    if asked(Kind::Ipv6, Knows::NothingMore) || asked(Kind::Ipv4, Knows::NothingMore) {
        Expectation::Punch
    } else if asked(Kind::Ipv4, Knows::Mapped) || asked(Kind::Tcp, Knows::Mapped) {
        Expectation::Mapping
    } else if asked(Kind::Ipv4, Knows::Next) {
        Expectation::Prediction
    } else if (0..2).any(|side| asked(Kind::Ipv4, Knows::ByLuck(side))) {
        Expectation::Birthday
    } else if asked(Kind::Tcp, Knows::NothingMore) {
        Expectation::Tcp
    } else if (0..2).all(|side| reaches_a_server(topology, side)) {
        Expectation::Relayed
    } else {
        Expectation::Nothing
    }
}

/// What sides know of each other beyond what servers see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Knows {
    NothingMore,
    /// What gateways have opened.
    Mapped,
    /// The next port of a sequential NAT.
    Next,
    /// The port of a dependent mapping, this side's.
    ByLuck(usize),
}

/// Whether a direct path exists, for one kind of packets.
#[derive(Clone)]
struct Question<'a> {
    topology: &'a Topology,
    kind: Kind,
    network: Network,
    /// What each side may send to.
    known: [BTreeSet<Endpoint>; 2],
    /// Whether the other side knows where this one's packets leave.
    open_book: [bool; 2],
}

impl<'a> Question<'a> {
    /// `None` if a side does not speak this.
    fn new(topology: &'a Topology, kind: Kind) -> Option<Question<'a>> {
        if !topology.sites.iter().all(|site| speaks(topology, site, kind)) {
            return None;
        }
        let mut network = Network::new(topology, kind);
        let mut known = [BTreeSet::new(), BTreeSet::new()];
        for side in 0..2 {
            known[1 - side].insert(network.host(side));
            for server in 0..2 {
                known[1 - side].extend(network.ask_server(side, server));
            }
        }
        Some(Question { topology, kind, network, known, open_book: [false; 2] })
    }

    /// With what is known beyond that; `None` if there is nothing of the kind.
    fn knowing(mut self, what: Knows) -> Option<Question<'a>> {
        let known = match what {
            Knows::NothingMore => true,
            Knows::Mapped => self.know_mapped(),
            Knows::Next => self.know_next(),
            Knows::ByLuck(side) => self.know_by_luck(side),
        };
        known.then_some(self)
    }

    fn know_mapped(&mut self) -> bool {
        let mapped = [0, 1].map(|side| self.network.open_port(side));
        for (side, endpoint) in mapped.iter().enumerate() {
            self.known[1 - side].extend(*endpoint);
        }
        mapped.iter().any(Option::is_some)
    }

    fn know_next(&mut self) -> bool {
        let sequential = [0, 1].map(|side| is_predictable(&self.topology.sites[side]));
        if sequential == [true; 2] {
            let agreed = self.network.agree();
            for (side, endpoint) in agreed.into_iter().enumerate() {
                self.known[1 - side].extend(endpoint);
            }
        }
        self.open_book = sequential;
        sequential.contains(&true)
    }

    fn know_by_luck(&mut self, side: usize) -> bool {
        self.open_book[side] = !is_independent(self.topology, &self.topology.sites[side]);
        self.open_book[side]
    }

    /// Both sides send to all that they know until they know all there is; then whether a packet and its answer pass.
    fn exists(mut self, first: usize) -> bool {
        for _ in 0..ROUNDS {
            for side in [first, 1 - first] {
                for to in self.known[side].clone() {
                    let sent = self.network.send(side, to);
                    if self.open_book[side] {
                        self.known[1 - side].extend(sent.left_from);
                    }
                    // A SYN tells nobody anything before a connection stands.
                    if let Some((receiver, from)) = sent.arrived.filter(|_| self.kind != Kind::Tcp)
                        && receiver != side
                    {
                        self.known[receiver].insert(from);
                    }
                }
            }
        }
        let known = self.known.clone();
        let both = [first, 1 - first].into_iter();
        let mut both = both.flat_map(|side| known[side].iter().map(move |to| (side, *to)));
        both.any(|(side, to)| match self.network.send(side, to).arrived {
            Some((receiver, from)) if receiver != side => {
                self.network.send(receiver, from).arrived == Some((side, to))
            }
            _ => false,
        })
    }
}

fn layers<'a>(topology: &'a Topology, site: &'a Site) -> impl Iterator<Item = &'a Layer> {
    site.layers.iter().chain(&topology.shared)
}

fn speaks(topology: &Topology, site: &Site, kind: Kind) -> bool {
    let translated = matches!(layers(topology, site).next(), Some(Layer::Nat64(..)));
    match kind {
        Kind::Ipv6 => site.addresses != Addresses::Ipv4,
        Kind::Ipv4 | Kind::Tcp => site.addresses != Addresses::Ipv6 || translated,
    }
}

fn depends(spec: &NatSpec) -> bool {
    spec.mapping != Mapping::EndpointIndependent
}

fn is_independent(topology: &Topology, site: &Site) -> bool {
    !layers(topology, site).filter_map(Layer::nat).any(depends)
}

/// Whether the outermost of a side's NATs is the only one whose mapping depends on the destination, and gives ports in
/// sequence to this side alone.
fn is_predictable(site: &Site) -> bool {
    let mut nats = site.layers.iter().rev().filter_map(Layer::nat);
    let outermost = nats.next().is_some_and(|spec| {
        depends(spec) && spec.allocation == PortAllocation::Sequential && spec.noise == 0
    });
    outermost && !nats.any(depends)
}

/// Whether a side reaches a server by any of the ways that lead to one.
fn reaches_a_server(topology: &Topology, side: usize) -> bool {
    let site = &topology.sites[side];
    let policies = || layers(topology, site).filter_map(firewall);
    let udp = lets_udp_out(topology, side);
    // Over TCP to port 443, or to the proxy.
    let tcp = policies().all(|spec| match spec.tcp {
        TcpPolicy::All => true,
        TcpPolicy::Port(port) => port == 443 && !site.proxied,
        TcpPolicy::Only(_) => site.proxied,
    });
    let routed = [Kind::Ipv4, Kind::Ipv6].into_iter().any(|kind| {
        let passes = |layer: &Layer| kind != Kind::Ipv6 || !matches!(layer, Layer::Nat(..));
        speaks(topology, site, kind) && layers(topology, site).all(passes)
    });
    routed && (udp || tcp)
}

/// Whether UDP passes everything that a side is behind.
fn lets_udp_out(topology: &Topology, side: usize) -> bool {
    layers(topology, &topology.sites[side]).all(|layer| {
        firewall(layer).is_none_or(|spec| spec.udp) && !layer.nat().is_some_and(|nat| nat.blocks_udp)
    })
}

fn firewall(layer: &Layer) -> Option<&FirewallSpec> {
    match layer {
        Layer::Firewall(spec) => Some(spec),
        _ => None,
    }
}
