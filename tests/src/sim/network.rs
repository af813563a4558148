//! Hosts, middleboxes, the links between them, and the packets on their way, in virtual time.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use rand::SeedableRng;
use rand::rngs::StdRng;
use thirl_common::net::Transport;

use super::link::Link;
use super::middlebox::{Forwarded, Middlebox};
use super::nat::{Nat, NatSpec};
use super::packet::Packet;
use super::tcp::{ConnectionId, StreamEvent, Tcp};

/// A host of a [`Network`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostId(usize);

/// A middlebox of a [`Network`], and the network behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BoxId(usize);

/// A network: behind a middlebox, or the core that all are in.
pub type Behind = Option<BoxId>;

/// What comes to a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// A datagram.
    Datagram(Packet),
    /// Something of a TCP connection.
    Stream(ConnectionId, StreamEvent),
}

/// A host's place in a network. A host in several has one in each.
#[derive(Clone, Debug)]
struct Interface {
    behind: Behind,
    addresses: Vec<IpAddr>,
    link: Link,
    down: bool,
}

#[derive(Debug)]
struct Station {
    middlebox: Middlebox,
    behind: Behind,
    link: Link,
    down: bool,
}

/// What a packet comes to next.
#[derive(Clone, Copy, Debug)]
enum Place {
    /// A network: the packet is on its way to who has its destination address there, or else to the way out.
    Network(Behind),
    /// A middlebox, from the outside.
    Station(BoxId),
    /// A host's interface.
    Host(HostId, usize),
}

/// Hosts and middleboxes in a tree of networks, each with its link to the network that it is in: a LAN behind a home NAT
/// behind a CGN in the core, for example. Each network forwards at once.
#[derive(Debug)]
pub struct Network {
    rng: StdRng,
    now: Instant,
    hosts: Vec<Vec<Interface>>,
    stations: Vec<Station>,
    tcp: Tcp,
    flying: BTreeMap<(Instant, u64), (Place, Packet)>,
    next: u64,
    /// How many packets were sent by hosts.
    pub sent: u64,
    sent_by: Vec<u64>,
}

/// To build it.
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
            stations: Vec::new(),
            tcp: Tcp::default(),
            flying: BTreeMap::new(),
            next: 0,
            sent: 0,
            sent_by: Vec::new(),
        }
    }

    /// Adds a NAT to the core with this address.
    pub fn add_nat(&mut self, spec: NatSpec, external: IpAddr) -> BoxId {
        let nat = Middlebox::Nat(Nat::new(spec, &[external]));
        self.add_box(nat, None, Link::delayed(Duration::ZERO))
    }

    /// Adds a middlebox to a network, by which there is a network behind it.
    pub fn add_box(&mut self, middlebox: Middlebox, behind: Behind, link: Link) -> BoxId {
        self.stations.push(Station { middlebox, behind, link, down: false });
        BoxId(self.stations.len() - 1)
    }

    /// Adds a host to a network.
    pub fn add_host(&mut self, addresses: &[IpAddr], behind: Behind, link: Link) -> HostId {
        self.hosts.push(Vec::new());
        self.sent_by.push(0);
        let host = HostId(self.hosts.len() - 1);
        self.add_interface(host, addresses, behind, link);
        host
    }

    /// Puts a host into one more network.
    pub fn add_interface(&mut self, host: HostId, addresses: &[IpAddr], behind: Behind, link: Link) {
        self.hosts[host.0].push(Interface { behind, addresses: addresses.to_vec(), link, down: false });
    }
}

/// To change it while it runs.
impl Network {
    /// A NAT, to be looked at or rebooted.
    #[expect(clippy::panic, reason = "a test that takes something else for a NAT is to fail")]
    pub fn nat_mut(&mut self, nat: BoxId) -> &mut Nat {
        match &mut self.stations[nat.0].middlebox {
            Middlebox::Nat(nat) => nat,
            Middlebox::DualStack(router) => &mut router.nat,
            Middlebox::Firewall(_) => panic!("this is a firewall"),
        }
    }

    /// A middlebox.
    pub fn box_mut(&mut self, of: BoxId) -> &mut Middlebox {
        &mut self.stations[of.0].middlebox
    }

    /// Unplugs a middlebox's cable to the outside, or plugs it in again.
    pub fn set_box_down(&mut self, of: BoxId, down: bool) {
        self.stations[of.0].down = down;
    }

    /// Changes a middlebox's link to the outside.
    pub fn set_box_link(&mut self, of: BoxId, link: Link) {
        self.stations[of.0].link = link;
    }

    /// Moves a host to another network.
    pub fn move_host(&mut self, host: HostId, behind: Behind) {
        self.hosts[host.0][0].behind = behind;
    }

    /// Gives a host other addresses.
    pub fn renumber(&mut self, host: HostId, addresses: &[IpAddr]) {
        self.hosts[host.0][0].addresses = addresses.to_vec();
    }

    /// Unplugs a host's cables, or plugs them in again.
    pub fn set_down(&mut self, host: HostId, down: bool) {
        self.hosts[host.0].iter_mut().for_each(|interface| interface.down = down);
    }

    /// Changes a host's links.
    pub fn set_link(&mut self, host: HostId, link: Link) {
        self.hosts[host.0].iter_mut().for_each(|interface| interface.link = link);
    }
}

/// To send, and to let time pass.
impl Network {
    /// The virtual time.
    pub fn now(&self) -> Instant {
        self.now
    }

    /// Randomness of this run.
    pub fn rng(&mut self) -> &mut StdRng {
        &mut self.rng
    }

    /// How many datagrams a host has sent, and frames over TCP, however often they were repeated.
    pub fn sent_by(&self, host: HostId) -> u64 {
        self.sent_by[host.0]
    }

    /// Sends a packet from a host. Without an interface that has its source address it is dropped.
    pub fn send(&mut self, host: HostId, packet: Packet) {
        self.sent += 1;
        self.sent_by[host.0] += u64::from(!packet.is_tcp());
        let has = |interface: &&Interface| interface.addresses.contains(&packet.from.ip());
        let Some(interface) = self.hosts[host.0].iter().find(has).filter(|interface| !interface.down) else {
            return;
        };
        let (link, behind) = (interface.link, interface.behind);
        self.fly(link, Place::Network(behind), packet);
    }

    /// Lets a host accept TCP connections at an endpoint of its own, or no longer.
    pub fn listen(&mut self, host: HostId, local: SocketAddr, listens: bool) {
        self.tcp.listen(host, local, listens);
    }

    /// Opens a TCP connection; [`Arrival::Stream`] says what becomes of it. `None` if there is one between these endpoints.
    pub fn connect(
        &mut self,
        host: HostId,
        local: SocketAddr,
        remote: SocketAddr,
        transport: Transport,
    ) -> Option<ConnectionId> {
        let id = self.tcp.connect(self.now, host, (local, remote), transport);
        self.send_segments();
        id
    }

    /// Sends a frame over a connection; before it is there it waits.
    pub fn write(&mut self, id: ConnectionId, frame: Vec<u8>) {
        if let Some(host) = self.tcp.host(id) {
            self.sent_by[host.0] += 1;
        }
        self.tcp.write(self.now, id, frame);
        self.send_segments();
    }

    /// Closes a connection once what was written has arrived; nothing more is told of it.
    pub fn close(&mut self, id: ConnectionId) {
        self.tcp.close(self.now, id);
        self.send_segments();
    }

    /// Resets a connection.
    pub fn abort(&mut self, id: ConnectionId) {
        self.tcp.abort(id);
        self.send_segments();
    }

    /// Resets all connections of a host, as when its programs are killed.
    pub fn abort_all(&mut self, host: HostId) {
        self.tcp.abort_all(host);
        self.send_segments();
    }

    /// The local and the far end of a connection, and what it is called.
    pub fn ends(&self, id: ConnectionId) -> Option<(SocketAddr, SocketAddr, Transport)> {
        self.tcp.ends(id)
    }

    /// When something moves next.
    pub fn next_event(&self) -> Option<Instant> {
        let told = (!self.tcp.events.is_empty()).then_some(self.now);
        let flying = self.flying.keys().next().map(|(at, _)| *at);
        [told, flying, self.tcp.poll_timeout()].into_iter().flatten().min()
    }

    /// Moves the clock, and takes what has come to a host until then.
    pub fn advance(&mut self, until: Instant) -> Option<(HostId, Arrival)> {
        loop {
            if let Some((host, id, event)) = self.tcp.events.pop_front() {
                return Some((host, Arrival::Stream(id, event)));
            }
            let flying = self.flying.first_key_value().map(|((at, _), _)| *at);
            let timer = self.tcp.poll_timeout();
            let Some(at) = [flying, timer].into_iter().flatten().min().filter(|at| *at <= until) else {
                self.now = self.now.max(until);
                return None;
            };
            self.now = self.now.max(at);
            if timer == Some(at) {
                self.tcp.handle_timeout(self.now);
                self.send_segments();
            } else if let Some((_, (place, packet))) = self.flying.pop_first()
                && let Some(arrived) = self.arrive(place, packet)
            {
                return Some(arrived);
            }
        }
    }

    fn arrive(&mut self, place: Place, packet: Packet) -> Option<(HostId, Arrival)> {
        match place {
            Place::Network(behind) => self.route(behind, packet),
            Place::Station(of) if self.stations[of.0].down => {}
            Place::Station(of) => {
                let forwarded = self.stations[of.0].middlebox.inbound(self.now, packet);
                self.forward(of, forwarded);
            }
            Place::Host(host, at) => {
                let interface = self.hosts[host.0].get(at)?;
                if interface.down || !interface.addresses.contains(&packet.to.ip()) {
                    return None;
                }
                if !packet.is_tcp() {
                    return Some((host, Arrival::Datagram(packet)));
                }
                self.tcp.handle(self.now, host, packet);
                self.send_segments();
            }
        }
        None
    }

    /// Sends a packet to who has its destination address in a network, or else out of there.
    fn route(&mut self, behind: Behind, packet: Packet) {
        let to = packet.to.ip();
        if let Some((host, at)) = self.host_at(behind, to) {
            self.fly(self.hosts[host.0][at].link, Place::Host(host, at), packet);
        } else if let Some(of) = self.station_at(behind, to) {
            self.fly(self.stations[of.0].link, Place::Station(of), packet);
        } else if let Some(of) = behind {
            let forwarded = self.stations[of.0].middlebox.outbound(self.now, &mut self.rng, packet);
            self.forward(of, forwarded);
        }
    }

    fn forward(&mut self, of: BoxId, forwarded: Option<Forwarded>) {
        let Station { behind, link, down, .. } = self.stations[of.0];
        match forwarded {
            Some(Forwarded::Inside(packet)) => self.route(Some(of), packet),
            Some(Forwarded::Outside(packet)) if !down => self.fly(link, Place::Network(behind), packet),
            _ => {}
        }
    }

    fn host_at(&self, behind: Behind, ip: IpAddr) -> Option<(HostId, usize)> {
        let here = |interface: &Interface| interface.behind == behind && interface.addresses.contains(&ip);
        let mut places = self.hosts.iter().enumerate();
        places.find_map(|(host, interfaces)| Some((HostId(host), interfaces.iter().position(here)?)))
    }

    /// Who leads to an address in a network.
    fn station_at(&self, behind: Behind, ip: IpAddr) -> Option<BoxId> {
        let mut here = (0..self.stations.len()).map(BoxId).filter(|of| self.stations[of.0].behind == behind);
        here.find(|of| {
            let middlebox = &self.stations[of.0].middlebox;
            middlebox.has(ip) || (middlebox.is_transparent() && self.is_within(*of, ip))
        })
    }

    fn is_within(&self, of: BoxId, ip: IpAddr) -> bool {
        self.host_at(Some(of), ip).is_some() || self.station_at(Some(of), ip).is_some()
    }

    /// Sends what the hosts' TCP has to say.
    fn send_segments(&mut self) {
        for (host, packet) in std::mem::take(&mut self.tcp.outgoing) {
            self.send(host, packet);
        }
    }

    fn fly(&mut self, link: Link, place: Place, packet: Packet) {
        let mut delays = link.delays(&mut self.rng, &packet);
        let Some(first) = delays.next() else { return };
        for delay in delays {
            self.arrive_in(delay, place, packet.clone());
        }
        self.arrive_in(first, place, packet);
    }

    fn arrive_in(&mut self, delay: Duration, place: Place, packet: Packet) {
        self.next += 1;
        self.flying.insert((self.now + delay, self.next), (place, packet));
    }
}
