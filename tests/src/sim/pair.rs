//! Two agents in a network, their signalling, and the loop that runs all of it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use rand::Rng;
use thirl_ice_agent::agent::{PathKind, State};
use thirl_ice_agent::candidate::ComponentId;

use super::link::Link;
use super::network::{Arrival, HostId, Network};
use super::peer::{Peer, PeerSpec};
use super::proxy::Proxy;
use super::server::Server;

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The first.
    A,
    /// The second.
    B,
}

impl Side {
    /// The other one.
    pub fn other(self) -> Side {
        match self {
            Side::A => Side::B,
            Side::B => Side::A,
        }
    }
}

/// Two agents in a network.
#[derive(Debug)]
pub struct Pair {
    /// The network.
    pub network: Network,
    /// The first side.
    pub a: Peer,
    /// The second.
    pub b: Peer,
    /// STUN and TURN servers.
    pub servers: Vec<Server>,
    /// HTTP proxies.
    pub proxies: Vec<Proxy>,
    start: Instant,
    /// How long a candidate is on its way to the other side: each between these.
    pub signalling: (Duration, Duration),
}

/// The servers' addresses, an IPv4 and an IPv6 one of each: public ones, since the engine refuses the test networks as peers.
pub const SERVERS: [[IpAddr; 2]; 2] = [server_addresses(10), server_addresses(11)];

const fn server_addresses(number: u8) -> [IpAddr; 2] {
    let ipv6 = Ipv6Addr::new(0x2a00, 0, 0, 0, 0, 0, 0, 0x10 - 10 + number as u16);
    [IpAddr::V4(Ipv4Addr::new(9, 9, 9, number)), IpAddr::V6(ipv6)]
}

impl Pair {
    /// Two sides that are not started yet, and two servers; with `turn` the first is a TURN server.
    pub fn new(seed: u64, a: PeerSpec, b: PeerSpec, turn: bool) -> Pair {
        Pair::build(seed, turn, |_| [a, b])
    }

    /// The same, with sides in networks that are made here.
    pub fn build(seed: u64, turn: bool, peers: impl FnOnce(&mut Network) -> [PeerSpec; 2]) -> Pair {
        let mut network = Network::new(seed);
        let servers = SERVERS.map(|ips| {
            let host = network.add_host(&ips, None, Link::delayed(Duration::ZERO));
            Server::new(&mut network, host, ips, ("user", "secret"))
        });
        let start = network.now();
        let [a, b] = peers(&mut network);
        let a = Peer::new(&mut network, a, &servers, turn);
        let b = Peer::new(&mut network, b, &servers, turn);
        let signalling = (Duration::ZERO, Duration::ZERO);
        Pair { network, a, b, servers: servers.into(), proxies: Vec::new(), start, signalling }
    }

    /// Time since the start.
    pub fn elapsed(&self) -> Duration {
        self.network.now() - self.start
    }

    /// Takes all of a side's sockets away, as when its address changes.
    pub fn lose_sockets(&mut self, side: Side) {
        let now = self.network.now();
        let peer = self.peer(side);
        peer.by_address.clear();
        for &socket in peer.sockets.keys() {
            peer.agent.local_socket_lost(now, socket);
        }
        self.drain();
    }

    /// One side.
    pub fn peer(&mut self, side: Side) -> &mut Peer {
        match side {
            Side::A => &mut self.a,
            Side::B => &mut self.b,
        }
    }

    /// Tells each side what the other can do.
    pub fn exchange_capabilities(&mut self) {
        let now = self.network.now();
        let (a, b) = (self.a.agent.local_capabilities(), self.b.agent.local_capabilities());
        self.a.agent.set_remote_capabilities(now, b);
        self.b.agent.set_remote_capabilities(now, a);
    }

    /// Starts both sides: credentials are exchanged, candidates are told as they are found.
    pub fn start(&mut self) {
        self.exchange_credentials();
        let now = self.network.now();
        self.a.agent.gather(now);
        self.b.agent.gather(now);
        self.drain();
    }

    /// Tells each side the other's credentials.
    #[expect(clippy::expect_used, reason = "the agents made these credentials themselves")]
    pub fn exchange_credentials(&mut self) {
        let now = self.network.now();
        let (a, b) = (self.a.agent.local_credentials().clone(), self.b.agent.local_credentials().clone());
        self.a.agent.set_remote_credentials(now, b).expect("they are good");
        self.b.agent.set_remote_credentials(now, a).expect("they are good");
    }

    /// Restarts one side, which tells the other.
    pub fn restart(&mut self, side: Side) {
        let now = self.network.now();
        let (least, most) = self.signalling;
        let delay = self.network.rng().random_range(least..=most);
        let peer = self.peer(side);
        peer.agent.restart(now);
        peer.tell_description(now + delay);
    }

    /// Gives a side one more socket, on an address that its host has.
    pub fn add_socket(&mut self, side: Side, address: IpAddr, preference: u8) {
        let now = self.network.now();
        self.peer(side).add_socket(now, SocketAddr::new(address, 50_000), preference);
    }

    /// Takes the socket from a side that is on this address.
    pub fn lose_socket(&mut self, side: Side, address: IpAddr) {
        let now = self.network.now();
        self.peer(side).lose_address(now, address);
    }

    /// Puts a side to sleep, or wakes it: nothing is received and no timer runs meanwhile.
    pub fn set_asleep(&mut self, side: Side, asleep: bool) {
        let peer = self.peer(side);
        peer.asleep = asleep;
        let host = peer.host;
        self.network.set_down(host, asleep);
    }

    /// Runs until the condition holds. `false` if it does not within this time.
    pub fn run_until(&mut self, limit: Duration, mut condition: impl FnMut(&Pair) -> bool) -> bool {
        let end = self.network.now() + limit;
        loop {
            self.drain();
            if condition(self) {
                return true;
            }
            let Some(next) = self.next_event().filter(|next| *next <= end) else {
                while self.network.advance(end).is_some() {}
                return false;
            };
            self.step(next);
        }
    }

    /// Runs for a time.
    pub fn run_for(&mut self, time: Duration) {
        self.run_until(time, |_| false);
    }

    /// Runs until both have selected a pair.
    pub fn connect(&mut self, limit: Duration) -> bool {
        self.run_until(limit, |pair| {
            pair.a.agent.state() == State::Completed && pair.b.agent.state() == State::Completed
        })
    }

    /// Sends a datagram each way and says whether both arrive.
    pub fn data_flows(&mut self) -> bool {
        self.data_flows_on(ComponentId::ONE)
    }

    /// Sends a datagram of a component each way and says whether both arrive, for that component.
    pub fn data_flows_on(&mut self, component: ComponentId) -> bool {
        let now = self.network.now();
        let (a, b) = (&mut self.a.agent, &mut self.b.agent);
        if a.send_on(now, component, b"from a").is_err() || b.send_on(now, component, b"from b").is_err() {
            return false;
        }
        let (to_a, to_b) = (self.a.received.len(), self.b.received.len());
        let arrived = |peer: &Peer, before: usize| peer.received_for[before..].contains(&component);
        self.run_until(Duration::from_secs(2), |pair| arrived(&pair.a, to_a) && arrived(&pair.b, to_b))
    }

    /// The kinds of the selected paths.
    pub fn paths(&self) -> (Option<PathKind>, Option<PathKind>) {
        let path = |peer: &Peer| peer.agent.selected().map(|selected| selected.path);
        (path(&self.a), path(&self.b))
    }

    fn next_event(&self) -> Option<Instant> {
        let now = self.network.now();
        let peers = [&self.a, &self.b].into_iter();
        let mail = peers.clone().flat_map(|peer| peer.mail.iter().map(|(at, _)| *at));
        let timers = peers.filter_map(|peer| peer.poll_timeout(now));
        let servers = self.servers.iter().filter_map(Server::poll_timeout);
        let next = mail.chain(timers).chain(servers).chain(self.network.next_event()).min()?;
        Some(next.max(now))
    }

    fn step(&mut self, until: Instant) {
        while let Some((host, arrival)) = self.network.advance(until) {
            self.deliver(host, arrival);
            self.drain();
        }
        let now = self.network.now();
        for server in &mut self.servers {
            server.handle_timeout(&mut self.network);
        }
        for side in [Side::A, Side::B] {
            let due: Vec<_> = self.peer(side).mail.extract_if(.., |(at, _)| *at <= now).collect();
            for (_, mail) in due {
                self.peer(side.other()).take_mail(now, mail);
            }
            let peer = if side == Side::A { &mut self.a } else { &mut self.b };
            peer.handle_timeout(&mut self.network);
        }
    }

    fn deliver(&mut self, host: HostId, arrival: Arrival) {
        let Pair { network, servers, proxies, a, b, .. } = self;
        if let Some(server) = servers.iter_mut().find(|server| server.host() == host) {
            server.handle(network, arrival);
        } else if let Some(proxy) = proxies.iter_mut().find(|proxy| proxy.host() == host) {
            proxy.handle(network, arrival);
        } else if let Some(peer) = [a, b].into_iter().find(|peer| peer.host == host) {
            peer.take(network, arrival);
        }
    }

    /// Moves what the agents have to say into the network and to each other.
    fn drain(&mut self) {
        for peer in [&mut self.a, &mut self.b] {
            peer.drain(&mut self.network, self.start, self.signalling);
        }
    }
}
