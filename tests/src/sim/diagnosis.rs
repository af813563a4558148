//! The NAT diagnosis in the simulated network, with servers that do something wrong.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use rand::Rng as _;
use thirl_common::net::Transport;
use thirl_common::wire::{
    ChangeRequest, Class, ErrorCode, Message, MessageWriter, Method, OtherAddress, ResponseOrigin,
    TransactionId, XorMappedAddress,
};
use thirl_ice_agent::nat::{Action, Diagnosis, FamilyReport, Options, SocketId};

use super::link::Link;
use super::nat::NatSpec;
use super::network::{Arrival, BoxId, HostId, Network};
use super::packet::Packet;

/// What a server does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lie {
    /// Nothing.
    None,
    /// It has one address, and knows nothing of RFC 5780.
    OneAddress,
    /// OTHER-ADDRESS is its own IP address.
    SameIp,
    /// OTHER-ADDRESS is an address that nobody has.
    NobodysOther,
    /// RESPONSE-ORIGIN is not where the response comes from.
    Origin,
    /// It answers CHANGE-REQUEST from where it was asked.
    IgnoresChange,
    /// It answers CHANGE-REQUEST with error 420.
    RefusesChange,
    /// It does not answer CHANGE-REQUEST.
    DropsChange,
    /// It answers from a port that was not asked.
    WrongSource,
    /// It has a second address that nothing comes from or goes to.
    DeadOther,
    /// It sees another reflexive address each time.
    RandomReflexive,
    /// It sees the same reflexive address, whoever asks.
    SameReflexive,
    /// The reflexive address is one that nobody has.
    NobodysReflexive,
    /// It sends requests back as they are.
    Echo,
    /// Before each answer come others: one with a transaction id that was never sent, one from elsewhere, and the answer before.
    Noise,
}

impl Lie {
    /// All of them, the honest one first.
    pub const ALL: [Lie; 15] = [
        Lie::None,
        Lie::OneAddress,
        Lie::SameIp,
        Lie::NobodysOther,
        Lie::Origin,
        Lie::IgnoresChange,
        Lie::RefusesChange,
        Lie::DropsChange,
        Lie::WrongSource,
        Lie::DeadOther,
        Lie::RandomReflexive,
        Lie::SameReflexive,
        Lie::NobodysReflexive,
        Lie::Echo,
        Lie::Noise,
    ];
}

/// Who diagnoses what.
#[derive(Clone, Debug)]
pub struct Scene {
    /// Of this run.
    pub seed: u64,
    /// The last number of the addresses of the host and its NAT.
    pub place: u8,
    /// The NAT; `None` on the open network.
    pub nat: Option<NatSpec>,
    /// The host's link.
    pub link: Link,
    /// The servers.
    pub servers: Vec<Lie>,
    /// When the first server falls silent.
    pub dies_after: Option<Duration>,
    /// When the NAT loses its mappings.
    pub reboots_after: Option<Duration>,
    /// After how many arrivals and timeouts it is stopped.
    pub stopped_after: Option<usize>,
    /// What to measure beside the usual.
    pub options: Options,
}

impl Scene {
    /// Behind this NAT, one honest server at 15 ms.
    pub fn new(seed: u64, nat: NatSpec) -> Scene {
        Scene {
            seed,
            place: 1,
            nat: Some(nat),
            link: Link::delayed(Duration::from_millis(10)),
            servers: vec![Lie::None],
            dies_after: None,
            reboots_after: None,
            stopped_after: None,
            options: Options::default(),
        }
    }

    /// Runs the diagnosis.
    pub fn diagnose(&self) -> FamilyReport {
        let mut network = Network::new(self.seed);
        let mut servers: Vec<_> =
            (1..).zip(&self.servers).map(|(n, lie)| Server::new(&mut network, n, *lie)).collect();
        let external = IpAddr::V4(Ipv4Addr::new(5, 5, 5, self.place));
        let nat = self.nat.map(|nat| network.add_nat(nat, external));
        let own = match nat {
            Some(_) => IpAddr::V4(Ipv4Addr::new(192, 168, self.place, 2)),
            None => external,
        };
        let mut client = Client::new(&mut network, own, nat, self, &servers);
        let after = |delay: Option<Duration>| delay.map(|delay| network.now() + delay);
        let (dies, mut reboots) = (after(self.dies_after), after(self.reboots_after));
        let mut events = 0;
        while !client.diagnosis.is_over() {
            client.drain(&mut network);
            events += 1;
            if self.stopped_after == Some(events) {
                client.diagnosis.stop();
            }
            let Some(next) = client.next(&network, reboots) else { break };
            match network.advance(next) {
                Some((at, Arrival::Datagram(packet))) if at == client.host => {
                    client.take(network.now(), &packet);
                }
                Some((_, Arrival::Stream(..))) => {}
                Some((at, Arrival::Datagram(packet))) => {
                    let dead = dies.is_some_and(|dies| network.now() >= dies);
                    let first = servers.first().is_some_and(|first| first.host == at);
                    let server = servers.iter_mut().find(|server| server.host == at);
                    if let Some(server) = server.filter(|_| !(dead && first)) {
                        server.answer(&mut network, &packet);
                    }
                }
                None => {
                    if let (Some(nat), true) = (nat, reboots.is_some_and(|reboots| network.now() >= reboots))
                    {
                        network.nat_mut(nat).reboot();
                        reboots = None;
                    }
                    client.diagnosis.handle_timeout(network.now());
                }
            }
        }
        client.diagnosis.report()
    }
}

/// A host that runs the diagnosis.
struct Client {
    host: HostId,
    ip: IpAddr,
    diagnosis: Diagnosis,
    sockets: BTreeMap<SocketId, SocketAddr>,
    /// As random as those of a system.
    free_ports: Vec<u16>,
}

impl Client {
    fn new(
        network: &mut Network,
        ip: IpAddr,
        nat: Option<BoxId>,
        scene: &Scene,
        servers: &[Server],
    ) -> Client {
        let host = network.add_host(&[ip], nat, scene.link);
        let addresses: Vec<_> = servers.iter().map(Server::address).collect();
        let mut seed = [0; 32];
        seed[..8].copy_from_slice(&scene.seed.to_le_bytes());
        let diagnosis = Diagnosis::new(network.now(), &addresses, scene.options, seed);
        let rng = network.rng();
        let mut free_ports: Vec<u16> =
            (0..200).map(|n| 32_768 + n * 140 + rng.random_range(0..140)).collect();
        for n in 1..free_ports.len() {
            free_ports.swap(n, rng.random_range(0..=n));
        }
        Client { host, ip, diagnosis, sockets: BTreeMap::new(), free_ports }
    }

    /// Does what the machine asks for.
    fn drain(&mut self, network: &mut Network) {
        while let Some(action) = self.diagnosis.poll_action() {
            match action {
                Action::Bind { socket, transport: Transport::Udp } => {
                    let bound = self.free_ports.pop().map(|port| SocketAddr::new(self.ip, port));
                    self.sockets.extend(bound.map(|bound| (socket, bound)));
                    let bound = bound.ok_or_else(|| "no port is free".to_owned());
                    self.diagnosis.socket_bound(network.now(), socket, bound);
                }
                Action::Bind { socket, .. } => {
                    let refused = Err("no TCP in the simulated diagnosis".to_owned());
                    self.diagnosis.socket_bound(network.now(), socket, refused);
                }
                // Nothing is far, and nothing too large.
                Action::Travel { .. } => {}
                Action::Close { socket } => _ = self.sockets.remove(&socket),
            }
        }
        while let Some(transmit) = self.diagnosis.poll_transmit() {
            assert!(self.sockets.values().any(|local| *local == transmit.from), "from a socket that is open");
            network.send(self.host, Packet::udp(transmit.from, transmit.to, transmit.payload));
        }
        while self.diagnosis.poll_event().is_some() {}
    }

    fn next(&self, network: &Network, reboots: Option<Instant>) -> Option<Instant> {
        [self.diagnosis.poll_timeout(), network.next_event(), reboots].into_iter().flatten().min()
    }

    fn take(&mut self, now: Instant, packet: &Packet) {
        let Packet { transport, from, to, payload, .. } = packet;
        if self.sockets.values().any(|local| local == to) {
            self.diagnosis.handle_datagram(now, *transport, *to, *from, payload);
        }
    }
}

/// A server of RFC 5780 on two addresses of a host.
struct Server {
    host: HostId,
    ips: [IpAddr; 2],
    lie: Lie,
    /// The answer before.
    earlier: Option<Packet>,
}

const PORTS: [u16; 2] = [3478, 3479];

impl Server {
    fn new(network: &mut Network, number: u8, lie: Lie) -> Server {
        let ips = [10, 11].map(|host| IpAddr::V4(Ipv4Addr::new(9, 9, number, host)));
        let host = network.add_host(&ips, None, Link::delayed(Duration::from_millis(5)));
        Server { host, ips, lie, earlier: None }
    }

    fn address(&self) -> SocketAddr {
        SocketAddr::new(self.ips[0], PORTS[0])
    }

    #[expect(
        clippy::expect_used,
        reason = "the diagnosis under test sends requests, and they are answered in full"
    )]
    fn answer(&mut self, network: &mut Network, packet: &Packet) {
        let dead = |place: SocketAddr, lie| lie == Lie::DeadOther && place.ip() == self.ips[1];
        // What one of its own noises hits is no request.
        let Some(request) = Message::parse(&packet.payload).ok().filter(|m| m.class() == Class::Request)
        else {
            return;
        };
        if dead(packet.to, self.lie) {
            return;
        }
        let change: ChangeRequest = request.get().ok().flatten().unwrap_or_default();
        let changes = change != ChangeRequest::default();
        let id = request.transaction_id();
        let asked = [packet.to.ip() == self.ips[1], packet.to.port() == PORTS[1]].map(usize::from);
        let obeys = !matches!(self.lie, Lie::IgnoresChange | Lie::RefusesChange | Lie::OneAddress);
        let place = |n: usize, other: bool| if obeys && other { 1 - asked[n] } else { asked[n] };
        let mut from = SocketAddr::new(self.ips[place(0, change.ip)], PORTS[place(1, change.port)]);
        let to = packet.from;
        match self.lie {
            Lie::DropsChange if changes => return,
            Lie::Echo => return network.send(self.host, Packet::udp(packet.to, to, packet.payload.clone())),
            Lie::WrongSource => from.set_port(9),
            Lie::Noise => {
                let (elsewhere, mut random) = (SocketAddr::new(from.ip(), 9), TransactionId([0; 12]));
                network.rng().fill(&mut random.0);
                for (id, from) in [(random, from), (id, elsewhere)] {
                    let payload = self.success(id, elsewhere, from, asked).expect("there is room");
                    network.send(self.host, Packet::udp(from, to, payload));
                }
                self.earlier.iter().for_each(|earlier| network.send(self.host, earlier.clone()));
                let payload = self.success(id, to, from, asked).expect("there is room");
                self.earlier = Some(Packet::udp(from, to, payload));
            }
            _ => {}
        }
        let refuses = changes && matches!(self.lie, Lie::RefusesChange | Lie::OneAddress);
        let payload = match refuses {
            true => refusal(id),
            false => {
                let reflexive = self.reflexive(network, to);
                self.success(id, reflexive, from, asked)
            }
        };
        if !dead(from, self.lie) {
            network.send(self.host, Packet::udp(from, to, payload.expect("there is room")));
        }
    }

    fn reflexive(&self, network: &mut Network, seen: SocketAddr) -> SocketAddr {
        match self.lie {
            Lie::RandomReflexive => ([4, 4, 4, 4], network.rng().random_range(1024..=u16::MAX)).into(),
            Lie::SameReflexive => ([4, 4, 4, 4], 4444).into(),
            Lie::NobodysReflexive => ([0, 0, 0, 0], 0).into(),
            _ => seen,
        }
    }

    fn success(
        &self,
        id: TransactionId,
        reflexive: SocketAddr,
        from: SocketAddr,
        asked: [usize; 2],
    ) -> Option<Vec<u8>> {
        let mut buffer = [0; 128];
        let mut writer = MessageWriter::new(&mut buffer, Class::Success, Method::BINDING, id).ok()?;
        writer.attribute(&XorMappedAddress(reflexive)).ok()?;
        let other = SocketAddr::new(self.ips[1 - asked[0]], PORTS[1 - asked[1]]);
        let (origin, other) = match self.lie {
            Lie::OneAddress => return Some(writer.finish().to_vec()),
            Lie::Origin => (([10, 0, 0, 1], 3478).into(), other),
            Lie::SameIp => (from, SocketAddr::new(self.ips[asked[0]], other.port())),
            Lie::NobodysOther => (from, ([0, 0, 0, 0], 3479).into()),
            _ => (from, other),
        };
        writer.attribute(&ResponseOrigin(origin)).ok()?;
        writer.attribute(&OtherAddress(other)).ok()?;
        Some(writer.finish().to_vec())
    }
}

fn refusal(id: TransactionId) -> Option<Vec<u8>> {
    let mut buffer = [0; 64];
    let mut writer = MessageWriter::new(&mut buffer, Class::Error, Method::BINDING, id).ok()?;
    writer.attribute(&ErrorCode::UNKNOWN_ATTRIBUTE).ok()?;
    Some(writer.finish().to_vec())
}
