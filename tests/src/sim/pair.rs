//! Two agents in a network, their signalling, and the loop that runs all of it.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use rand::Rng;
use thirl_common::net::Transport;
use thirl_common::wire::{FrameLen, frame_len};
use thirl_ice_agent::agent::{
    Action, Agent, AgentConfig, Credentials, Event, PathKind, Report, SelectedPair, SocketId, State,
    StreamId, TurnServer, Via,
};
use thirl_ice_agent::candidate::{Candidate, ComponentId};

use super::nat::NatSpec;
use super::network::{HostId, Link, Network, Packet};
use super::server::{IPV6, Server};

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

/// How one side is placed.
#[derive(Clone, Debug)]
pub struct PeerSpec {
    /// The agent's configuration; servers are added to it.
    pub config: AgentConfig,
    /// The addresses of its host.
    pub addresses: Vec<IpAddr>,
    /// Its NAT, and that NAT's address.
    pub nat: Option<(NatSpec, IpAddr)>,
    /// Its link.
    pub link: Link,
    /// What carries packets to its TURN server, if it has one.
    pub turn: Transport,
    /// Candidates that lead nowhere, which are told beside the true ones.
    pub dead: Vec<Candidate>,
}

/// What one side tells the other.
#[derive(Debug)]
enum Mail {
    Candidate(Candidate),
    /// All at once, as in an offer or an answer.
    Description(Credentials, Vec<Candidate>),
}

/// One side.
#[derive(Debug)]
pub struct Peer {
    /// The agent.
    pub agent: Agent,
    /// Its host.
    pub host: HostId,
    /// Its NAT.
    pub nat: Option<usize>,
    asleep: bool,
    address: IpAddr,
    link: Link,
    sockets: BTreeMap<SocketId, SocketAddr>,
    by_address: BTreeMap<SocketAddr, SocketId>,
    /// The local and the far end of each stream, or socket of its own, and what it is.
    streams: BTreeMap<StreamId, (SocketAddr, SocketAddr, Transport)>,
    /// Streams that were asked for and not yet answered: the server accepts them after a round trip.
    connecting: Vec<(Instant, StreamId)>,
    /// What it connected by, with the time since the start.
    pub connects: Vec<(Duration, Transport)>,
    next_port: u16,
    /// What it has received, with the way that it came.
    pub received: Vec<(Vec<u8>, PathKind)>,
    /// For which component each of these was.
    pub received_for: Vec<ComponentId>,
    /// The states that it went through, with the time since the start.
    pub states: Vec<(Duration, State)>,
    /// The pairs that were selected, with the time since the start.
    pub selections: Vec<(Duration, SelectedPair)>,
    /// The data streams that failed while others went on.
    pub failed_streams: Vec<u8>,
    /// The report that came with its failure.
    pub failure: Option<Report>,
    dead: Vec<Candidate>,
    /// What waits to be told to the other side, and when.
    mail: Vec<(Instant, Mail)>,
    /// Why data went another way than before.
    pub changes: Vec<String>,
    /// How often the other side has restarted, as its agent noticed.
    pub remote_restarts: u32,
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
    start: Instant,
    /// How long a candidate is on its way to the other side: each between these.
    pub signalling: (Duration, Duration),
}

/// How the hosts' interfaces are ranked.
pub const PREFERENCE: u8 = 200;

/// The servers' addresses: public ones, since the engine refuses the test networks as peers.
const SERVERS: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::new(9, 9, 9, 10)), IpAddr::V4(Ipv4Addr::new(9, 9, 9, 11))];

impl Pair {
    /// Two sides that are not started yet, and two servers; with `turn` the first is a TURN server.
    pub fn new(seed: u64, a: PeerSpec, b: PeerSpec, turn: bool) -> Pair {
        let mut network = Network::new(seed);
        let servers = SERVERS.map(|ip| {
            let addresses = if ip == SERVERS[0] { vec![ip, IPV6.into()] } else { vec![ip] };
            let host = network.add_host(&addresses, None, Link::delayed(Duration::ZERO));
            Server::new(host, ip, "user", "secret")
        });
        let start = network.now();
        let a = Peer::new(&mut network, a, &servers, turn);
        let b = Peer::new(&mut network, b, &servers, turn);
        let signalling = (Duration::ZERO, Duration::ZERO);
        Pair { network, a, b, servers: servers.into(), start, signalling }
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
        let peer = self.peer(side);
        let local = SocketAddr::new(address, 50_000);
        let socket = peer.agent.add_local_socket(now, local, preference);
        peer.sockets.insert(socket, local);
        peer.by_address.insert(local, socket);
    }

    /// Takes the socket from a side that is on this address.
    pub fn lose_socket(&mut self, side: Side, address: IpAddr) {
        let now = self.network.now();
        let peer = self.peer(side);
        let lost = peer.by_address.iter().find(|(local, _)| local.ip() == address).map(|(_, id)| *id);
        if let Some(lost) = lost {
            peer.by_address.retain(|_, socket| *socket != lost);
            peer.sockets.remove(&lost);
            peer.agent.local_socket_lost(now, lost);
        }
    }

    /// Puts a side to sleep, or wakes it: nothing is received and no timer runs meanwhile.
    pub fn set_asleep(&mut self, side: Side, asleep: bool) {
        self.peer(side).asleep = asleep;
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
        let peers = [&self.a, &self.b].into_iter();
        let mail = peers.clone().flat_map(|peer| peer.mail.iter().map(|(at, _)| *at));
        let connecting = peers.clone().flat_map(|peer| peer.connecting.iter().map(|(at, _)| *at));
        let awake = peers.filter(|peer| !peer.asleep);
        let timers = awake.filter_map(|peer| peer.agent.poll_timeout());
        let servers = self.servers.iter().filter_map(Server::poll_timeout);
        let next =
            mail.chain(connecting).chain(timers).chain(servers).chain(self.network.next_event()).min()?;
        Some(next.max(self.network.now()))
    }

    fn step(&mut self, until: Instant) {
        while let Some((host, packet)) = self.network.advance(until) {
            self.deliver(host, &packet);
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
            let peer = self.peer(side);
            if peer.asleep {
                continue;
            }
            let connected: Vec<_> = peer.connecting.extract_if(.., |(at, _)| *at <= now).collect();
            for (_, stream) in connected {
                if let Some(&(local, ..)) = peer.streams.get(&stream) {
                    peer.agent.stream_connected(now, stream, Ok(local));
                }
            }
            peer.agent.handle_timeout(now);
        }
    }

    fn deliver(&mut self, host: HostId, packet: &Packet) {
        let now = self.network.now();
        if let Some(server) = self.servers.iter_mut().find(|server| server.host() == host) {
            server.handle(&mut self.network, packet);
            return;
        }
        let peer = if self.a.host == host { &mut self.a } else { &mut self.b };
        if peer.asleep {
            return;
        }
        let ends = (packet.to, packet.from, packet.transport);
        let stream = peer.streams.iter().find(|(_, known)| **known == ends).map(|(stream, _)| *stream);
        let received = if let Some(stream) = stream {
            let frame = match frame_len(&packet.payload) {
                Ok(FrameLen::Complete { frame, .. }) if packet.transport.is_reliable() => frame,
                _ => packet.payload.len(),
            };
            peer.agent.handle_stream_frame(now, stream, &packet.payload[..frame])
        } else if packet.transport.is_reliable() {
            return;
        } else {
            let Some(&socket) = peer.by_address.get(&packet.to) else { return };
            peer.agent.handle_datagram(now, socket, packet.from, &packet.payload)
        };
        if let Some(received) = received {
            peer.received.push((received.data.to_vec(), received.path));
            peer.received_for.push(received.component);
        }
    }

    /// Moves what the agents have to say into the network and to each other.
    fn drain(&mut self) {
        let (now, elapsed) = (self.network.now(), self.elapsed());
        let (least, most) = self.signalling;
        for side in [Side::A, Side::B] {
            let peer = match side {
                Side::A => &mut self.a,
                Side::B => &mut self.b,
            };
            while let Some(event) = peer.agent.poll_event() {
                match event {
                    Event::LocalCandidate(candidate) => {
                        let dead = std::mem::take(&mut peer.dead);
                        for candidate in dead.into_iter().chain([candidate]) {
                            let delay = self.network.rng().random_range(least..=most);
                            peer.mail.push((now + delay, Mail::Candidate(candidate)));
                        }
                    }
                    Event::StateChanged(state) => peer.states.push((elapsed, state)),
                    Event::Selected(selected) => peer.selections.push((elapsed, selected)),
                    Event::RemoteRestarted => {
                        peer.remote_restarts += 1;
                        let delay = self.network.rng().random_range(least..=most);
                        peer.tell_description(now + delay);
                    }
                    Event::PathChanged { why, .. } => peer.changes.push(why),
                    Event::StreamFailed { stream, .. } => peer.failed_streams.push(stream),
                    Event::Failed(report) => peer.failure = Some(*report),
                    _ => {}
                }
            }
            while let Some(transmit) = peer.agent.poll_transmit() {
                let packet = match transmit.via {
                    Via::Socket(socket) => match peer.sockets.get(&socket) {
                        Some(local) => Packet::udp(*local, transmit.to, transmit.payload),
                        None => continue,
                    },
                    Via::Stream(stream) => {
                        let Some(&(from, to, transport)) = peer.streams.get(&stream) else { continue };
                        Packet { from, to, transport, payload: transmit.payload }
                    }
                };
                self.network.send(peer.host, packet);
            }
            while let Some(action) = peer.agent.poll_action() {
                match action {
                    Action::Connect { stream, server, transport, .. } => {
                        peer.next_port += 1;
                        let local = SocketAddr::new(peer.address, peer.next_port);
                        peer.streams.insert(stream, (local, server, transport));
                        let wait = if transport.is_reliable() { 2 * peer.link.delay } else { Duration::ZERO };
                        peer.connecting.push((now + wait, stream));
                        peer.connects.push((elapsed, transport));
                    }
                    Action::Close { stream } => drop(peer.streams.remove(&stream)),
                    _ => {}
                }
            }
        }
    }
}

impl Peer {
    /// Tells the other side everything at once, after what it is being told already.
    fn tell_description(&mut self, at: Instant) {
        let candidates = self.agent.local_candidates().cloned().collect();
        let description = Mail::Description(self.agent.local_credentials().clone(), candidates);
        let last = self.mail.iter().map(|(at, _)| *at).max();
        self.mail.push((last.map_or(at, |last| last.max(at)), description));
    }

    #[expect(clippy::expect_used, reason = "the agents made these credentials themselves")]
    fn take_mail(&mut self, now: Instant, mail: Mail) {
        match mail {
            Mail::Candidate(candidate) => self.agent.add_remote_candidate(now, candidate),
            Mail::Description(credentials, candidates) => {
                self.agent.set_remote_credentials(now, credentials).expect("they are good");
                candidates.into_iter().for_each(|candidate| self.agent.add_remote_candidate(now, candidate));
            }
        }
    }

    fn new(network: &mut Network, mut spec: PeerSpec, servers: &[Server], turn: bool) -> Peer {
        let nat = spec.nat.map(|(nat, external)| network.add_nat(nat, external));
        let host = network.add_host(&spec.addresses, nat, spec.link);
        spec.config.stun = servers.iter().map(Server::address).collect();
        if turn {
            spec.config.turn.push(TurnServer {
                address: servers[0].address(),
                host: None,
                transport: spec.turn,
                username: "user".to_owned(),
                password: "secret".to_owned(),
            });
        }
        let seed = network.rng().random();
        let components = components(&spec.config.streams);
        let mut agent = Agent::new(spec.config, seed);
        let first = spec.addresses[0];
        let mut sockets = BTreeMap::new();
        for (component, port) in components.into_iter().zip(40_000..) {
            for address in &spec.addresses {
                let local = SocketAddr::new(*address, port);
                sockets
                    .insert(agent.add_local_socket_for(network.now(), component, local, PREFERENCE), local);
            }
        }
        let by_address = sockets.iter().map(|(id, local)| (*local, *id)).collect();
        Peer {
            agent,
            host,
            nat,
            asleep: false,
            address: first,
            link: spec.link,
            sockets,
            by_address,
            streams: BTreeMap::new(),
            connecting: Vec::new(),
            connects: Vec::new(),
            next_port: 30_000,
            received: Vec::new(),
            received_for: Vec::new(),
            states: Vec::new(),
            selections: Vec::new(),
            failed_streams: Vec::new(),
            failure: None,
            dead: spec.dead,
            mail: Vec::new(),
            changes: Vec::new(),
            remote_restarts: 0,
        }
    }
}

/// All components of these data streams.
fn components(streams: &[u16]) -> Vec<ComponentId> {
    let of_stream = |(stream, count): (u8, &u16)| {
        (1..=*count).filter_map(move |number| Some(ComponentId::new(number)?.in_stream(stream)))
    };
    (0..=u8::MAX).zip(streams).flat_map(of_stream).collect()
}
