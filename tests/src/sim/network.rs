//! Hosts and the packets between them, in virtual time.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use thirl_common::net::Transport;

use super::nat::{Nat, NatSpec};

/// A host of a [`Network`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostId(usize);

/// What the way between a host and the core of the network does to packets.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Link {
    /// One way.
    pub delay: Duration,
    /// Up to so much more, each packet by itself: some overtake others.
    pub jitter: Duration,
    /// The probability that a packet is lost, each way: 0 to 1.
    pub loss: f64,
    /// The probability that it comes twice, each way: 0 to 1.
    pub duplication: f64,
}

impl Link {
    /// A link without loss.
    pub fn delayed(delay: Duration) -> Link {
        Link { delay, jitter: Duration::ZERO, loss: 0.0, duplication: 0.0 }
    }
}

/// A datagram, or a frame of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// The source, as its present place in the network sees it.
    pub from: SocketAddr,
    /// The destination.
    pub to: SocketAddr,
    /// UDP, or a frame of a TCP connection, which is not lost and passes every NAT.
    pub transport: Transport,
    /// What it carries.
    pub payload: Vec<u8>,
}

impl Packet {
    /// A datagram.
    pub fn udp(from: SocketAddr, to: SocketAddr, payload: Vec<u8>) -> Packet {
        Packet { from, to, transport: Transport::Udp, payload }
    }

    /// A frame of a TCP connection.
    pub fn tcp(from: SocketAddr, to: SocketAddr, payload: Vec<u8>) -> Packet {
        Packet { from, to, transport: Transport::Tcp, payload }
    }
}

#[derive(Debug)]
struct Host {
    addresses: Vec<IpAddr>,
    nat: Option<usize>,
    link: Link,
    /// Whether its cable is unplugged.
    down: bool,
}

/// Where a packet stands.
#[derive(Clone, Copy, Debug)]
enum Place {
    /// In the core: on its way to the NAT or host that has its destination address.
    Core,
    /// At a host.
    Host(HostId),
}

/// Hosts in a star: each with its link, perhaps behind a NAT, around a core that forwards at once.
#[derive(Debug)]
pub struct Network {
    rng: StdRng,
    now: Instant,
    hosts: Vec<Host>,
    nats: Vec<Nat>,
    flying: BTreeMap<(Instant, u64), (Place, Packet)>,
    next: u64,
    /// How many packets were sent by hosts.
    pub sent: u64,
}

impl Network {
    /// An empty network.
    #[expect(
        clippy::disallowed_methods,
        reason = "any origin of virtual time will do; only differences are looked at"
    )]
    pub fn new(seed: u64) -> Network {
        Network {
            rng: StdRng::seed_from_u64(seed),
            now: Instant::now(),
            hosts: Vec::new(),
            nats: Vec::new(),
            flying: BTreeMap::new(),
            next: 0,
            sent: 0,
        }
    }

    /// The virtual time.
    pub fn now(&self) -> Instant {
        self.now
    }

    /// Randomness of this run.
    pub fn rng(&mut self) -> &mut StdRng {
        &mut self.rng
    }

    /// Adds a NAT with this address on the outside.
    pub fn add_nat(&mut self, spec: NatSpec, external: IpAddr) -> usize {
        self.nats.push(Nat::new(spec, external));
        self.nats.len() - 1
    }

    /// A NAT, to be looked at or rebooted.
    pub fn nat_mut(&mut self, nat: usize) -> &mut Nat {
        &mut self.nats[nat]
    }

    /// Adds a host. Several hosts behind one NAT are on one LAN.
    pub fn add_host(&mut self, addresses: &[IpAddr], nat: Option<usize>, link: Link) -> HostId {
        self.hosts.push(Host { addresses: addresses.to_vec(), nat, link, down: false });
        HostId(self.hosts.len() - 1)
    }

    /// Moves a host behind a NAT, or onto the open network.
    pub fn move_host(&mut self, host: HostId, nat: Option<usize>) {
        self.hosts[host.0].nat = nat;
    }

    /// Gives a host other addresses.
    pub fn renumber(&mut self, host: HostId, addresses: &[IpAddr]) {
        self.hosts[host.0].addresses = addresses.to_vec();
    }

    /// Unplugs a host's cable, or plugs it in again.
    pub fn set_down(&mut self, host: HostId, down: bool) {
        self.hosts[host.0].down = down;
    }

    /// Changes a host's link.
    pub fn set_link(&mut self, host: HostId, link: Link) {
        self.hosts[host.0].link = link;
    }

    /// Sends a packet from a host.
    pub fn send(&mut self, host: HostId, packet: Packet) {
        self.sent += 1;
        let Host { nat, link, down, .. } = &self.hosts[host.0];
        let (nat, link, down) = (*nat, *link, *down);
        if down || self.is_lost(link, &packet) {
            return;
        }
        if let Some(neighbour) = self.neighbour(nat, packet.to.ip()) {
            let far = self.hosts[neighbour.0].link.delay;
            self.fly(Link { delay: link.delay + far, ..link }, Place::Host(neighbour), packet);
            return;
        }
        let from = match nat {
            Some(nat) => self.nats[nat].outbound(&mut self.rng, &packet),
            None => Some(packet.from),
        };
        if let Some(from) = from {
            self.fly(link, Place::Core, Packet { from, ..packet });
        }
    }

    /// When the next packet moves.
    pub fn next_event(&self) -> Option<Instant> {
        self.flying.keys().next().map(|(at, _)| *at)
    }

    /// Moves the clock, and takes a packet that has arrived at a host until then.
    pub fn advance(&mut self, until: Instant) -> Option<(HostId, Packet)> {
        while let Some(entry) = self.flying.first_entry() {
            if entry.key().0 > until {
                break;
            }
            let ((at, _), (place, packet)) = entry.remove_entry();
            self.now = self.now.max(at);
            match place {
                Place::Core => self.cross_core(packet),
                Place::Host(host) if self.hosts[host.0].down => {}
                Place::Host(host) => return Some((host, packet)),
            }
        }
        self.now = self.now.max(until);
        None
    }

    fn cross_core(&mut self, packet: Packet) {
        let nat = self.nats.iter().position(|nat| nat.external() == packet.to.ip());
        let to = match nat {
            Some(nat) => self.nats[nat].inbound(&packet),
            None => Some(packet.to),
        };
        let Some(to) = to else { return };
        let Some(host) = self.neighbour(nat, to.ip()) else { return };
        let link = self.hosts[host.0].link;
        if !self.is_lost(link, &packet) {
            self.fly(link, Place::Host(host), Packet { to, ..packet });
        }
    }

    fn neighbour(&self, nat: Option<usize>, ip: IpAddr) -> Option<HostId> {
        let here = |host: &Host| host.nat == nat && host.addresses.contains(&ip);
        self.hosts.iter().position(here).map(HostId)
    }

    fn is_lost(&mut self, link: Link, packet: &Packet) -> bool {
        !packet.transport.is_reliable() && link.loss > 0.0 && self.rng.random_bool(link.loss)
    }

    fn fly(&mut self, link: Link, place: Place, packet: Packet) {
        let unreliable = !packet.transport.is_reliable();
        let chance = |share: f64| unreliable && share > 0.0;
        if chance(link.duplication) && self.rng.random_bool(link.duplication) {
            self.arrive_later(link, place, packet.clone());
        }
        self.arrive_later(link, place, packet);
    }

    fn arrive_later(&mut self, link: Link, place: Place, packet: Packet) {
        let mut delay = link.delay;
        if !packet.transport.is_reliable() && !link.jitter.is_zero() {
            delay += self.rng.random_range(Duration::ZERO..link.jitter);
        }
        self.next += 1;
        self.flying.insert((self.now + delay, self.next), (place, packet));
    }
}
