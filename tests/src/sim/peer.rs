//! One of two agents: what a driver does for it, in the simulated network.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use rand::Rng;
use thirl_common::net::{Nat64Prefix, Transport};
use thirl_common::wire::{FrameLen, frame_len};
use thirl_ice_agent::agent::{
    Action, Agent, AgentConfig, Credentials, Event, Framing, ListenerId, PathKind, Received, Report,
    SelectedPair, SocketId, State, StreamId, TurnServer, Via,
};
use thirl_ice_agent::candidate::{Candidate, ComponentId};
use thirl_ice_agent::turn::TurnCredentials;

use super::link::Link;
use super::mapper::Mapper;
use super::nat::NatSpec;
use super::network::{Arrival, Behind, BoxId, HostId, Network};
use super::packet::Packet;
use super::proxy;
use super::server::Server;
use super::tcp::{ConnectionId, StreamEvent};

/// How one side is placed.
#[derive(Clone, Debug)]
pub struct PeerSpec {
    /// The agent's configuration; servers are added to it.
    pub config: AgentConfig,
    /// The addresses of its host.
    pub addresses: Vec<IpAddr>,
    /// The network that it is in.
    pub behind: Behind,
    /// A NAT of its own in that network, and that NAT's address.
    pub nat: Option<(NatSpec, IpAddr)>,
    /// Its link.
    pub link: Link,
    /// What carries packets to its TURN server, if it has one.
    pub turn: Transport,
    /// Whether the agent has a TCP port at each address.
    pub tcp: bool,
    /// An HTTP proxy that its streams to servers go by.
    pub proxy: Option<SocketAddr>,
    /// Who is asked for port mappings.
    pub gateway: Option<IpAddr>,
    /// Candidates that lead nowhere, which are told beside the true ones.
    pub dead: Vec<Candidate>,
}

impl PeerSpec {
    /// In the core, 10 ms from everything.
    pub fn new(config: AgentConfig, addresses: &[IpAddr]) -> PeerSpec {
        PeerSpec {
            config,
            addresses: addresses.to_vec(),
            behind: None,
            nat: None,
            link: Link::delayed(Duration::from_millis(10)),
            turn: Transport::Udp,
            tcp: false,
            proxy: None,
            gateway: None,
            dead: Vec::new(),
        }
    }
}

/// What one side tells the other.
#[derive(Debug)]
pub(super) enum Mail {
    Candidate(Candidate),
    /// All at once, as in an offer or an answer.
    Description(Credentials, Vec<Candidate>),
}

/// What is under a stream of an agent's.
#[derive(Clone, Copy, Debug)]
enum Carrier {
    /// A socket of its own.
    Socket { local: SocketAddr, server: SocketAddr, transport: Transport },
    /// A TCP connection, and where a proxy is still to connect it to.
    Connection {
        id: ConnectionId,
        local: SocketAddr,
        by_proxy: Option<SocketAddr>,
        framing: Framing,
        open: bool,
        /// When it is given up unless it is open.
        until: Option<Instant>,
    },
}

/// So long the agent's driver waits for a stream to a server, a proxy on the way included.
const CONNECT_PATIENCE: Duration = Duration::from_secs(10);

impl Carrier {
    /// When it is given up.
    fn until(&self) -> Option<Instant> {
        match self {
            Carrier::Connection { open: false, until, .. } => *until,
            _ => None,
        }
    }
}

/// One side.
#[derive(Debug)]
pub struct Peer {
    /// The agent.
    pub agent: Agent,
    /// Its host.
    pub host: HostId,
    /// Its NAT.
    pub nat: Option<BoxId>,
    pub(super) asleep: bool,
    addresses: Vec<IpAddr>,
    pub(super) sockets: BTreeMap<SocketId, SocketAddr>,
    pub(super) by_address: BTreeMap<SocketAddr, SocketId>,
    /// Those that the agent has asked for; no port is mapped for them.
    beside: BTreeSet<SocketId>,
    listeners: BTreeMap<SocketAddr, ListenerId>,
    streams: BTreeMap<StreamId, Carrier>,
    /// Sockets that were asked for in place of streams, and are told next.
    opened: Vec<(StreamId, Result<SocketAddr, String>)>,
    proxy: Option<SocketAddr>,
    nat64: Option<Nat64Prefix>,
    pub(super) mapper: Option<Mapper>,
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
    pub(super) mail: Vec<(Instant, Mail)>,
    /// Why data went another way than before.
    pub changes: Vec<String>,
    /// How often the other side has restarted, as its agent noticed.
    pub remote_restarts: u32,
}

/// Stands before each packet over TCP (RFC 4571, section 2), bytes.
const RFC_4571_HEADER: usize = 2;

/// Where agents listen for TCP.
const TCP_PORT: u16 = 45_000;

/// How the hosts' interfaces are ranked.
pub const PREFERENCE: u8 = 200;

impl Peer {
    pub(super) fn new(network: &mut Network, mut spec: PeerSpec, servers: &[Server], turn: bool) -> Peer {
        let nat = spec.nat.map(|(nat, external)| network.add_nat(nat, external));
        let host = network.add_host(&spec.addresses, nat.or(spec.behind), spec.link);
        let ipv6 = spec.addresses.iter().any(IpAddr::is_ipv6);
        let known = servers.iter().flat_map(Server::addresses);
        spec.config.stun.extend(known.filter(|address| ipv6 || address.is_ipv4()));
        if turn {
            spec.config.turn.push(TurnServer {
                address: servers[0].address(),
                host: None,
                transport: spec.turn,
                credentials: TurnCredentials::password("user", "secret"),
            });
        }
        let nat64 = spec.config.nat64;
        let seed = network.rng().random();
        let components = components(&spec.config.streams);
        let mut agent = Agent::new(spec.config, seed);
        let mut sockets = BTreeMap::new();
        for (component, port) in components.into_iter().zip(40_000..) {
            for address in &spec.addresses {
                let local = SocketAddr::new(*address, port);
                sockets
                    .insert(agent.add_local_socket_for(network.now(), component, local, PREFERENCE), local);
            }
        }
        let mut listeners = BTreeMap::new();
        for address in spec.addresses.iter().filter(|_| spec.tcp) {
            let local = SocketAddr::new(*address, TCP_PORT);
            network.listen(host, local, true);
            listeners.insert(local, agent.add_tcp_listener(network.now(), local, PREFERENCE));
        }
        let by_address = sockets.iter().map(|(id, local)| (*local, *id)).collect();
        let mapper = spec.gateway.and_then(|gateway| Mapper::new(network, gateway, &spec.addresses));
        Peer {
            agent,
            host,
            nat,
            asleep: false,
            addresses: spec.addresses,
            sockets,
            by_address,
            beside: BTreeSet::new(),
            listeners,
            streams: BTreeMap::new(),
            opened: Vec::new(),
            proxy: spec.proxy,
            nat64,
            mapper,
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

    /// How many UDP sockets it has.
    pub fn open_sockets(&self) -> usize {
        self.sockets.len()
    }

    /// Tells the other side everything at once, after what it is being told already.
    pub(super) fn tell_description(&mut self, at: Instant) {
        let candidates = self.agent.local_candidates().cloned().collect();
        let description = Mail::Description(self.agent.local_credentials().clone(), candidates);
        let last = self.mail.iter().map(|(at, _)| *at).max();
        self.mail.push((last.map_or(at, |last| last.max(at)), description));
    }

    #[expect(clippy::expect_used, reason = "the agents made these credentials themselves")]
    pub(super) fn take_mail(&mut self, now: Instant, mail: Mail) {
        match mail {
            Mail::Candidate(candidate) => self.agent.add_remote_candidate(now, candidate),
            Mail::Description(credentials, candidates) => {
                self.agent.set_remote_credentials(now, credentials).expect("they are good");
                candidates.into_iter().for_each(|candidate| self.agent.add_remote_candidate(now, candidate));
            }
        }
    }

    pub(super) fn add_socket(&mut self, now: Instant, local: SocketAddr, preference: u8) {
        let socket = self.agent.add_local_socket(now, local, preference);
        self.sockets.insert(socket, local);
        self.by_address.insert(local, socket);
        if !self.addresses.contains(&local.ip()) {
            self.addresses.push(local.ip());
        }
    }

    pub(super) fn lose_address(&mut self, now: Instant, address: IpAddr) {
        self.addresses.retain(|known| *known != address);
        let lost = self.by_address.iter().find(|(local, _)| local.ip() == address).map(|(_, id)| *id);
        if let Some(lost) = lost {
            self.by_address.retain(|_, socket| *socket != lost);
            self.sockets.remove(&lost);
            self.agent.local_socket_lost(now, lost);
        }
    }

    /// When something is to be done for it.
    pub(super) fn poll_timeout(&self, now: Instant) -> Option<Instant> {
        if self.asleep {
            return None;
        }
        let opened = (!self.opened.is_empty()).then_some(now);
        let mapper = self.mapper.as_ref().and_then(Mapper::poll_timeout);
        let given_up = self.streams.values().filter_map(Carrier::until).min();
        [opened, mapper, given_up, self.agent.poll_timeout()].into_iter().flatten().min()
    }

    pub(super) fn handle_timeout(&mut self, network: &mut Network) {
        if self.asleep {
            return;
        }
        let now = network.now();
        self.give_up_streams(network);
        for (stream, result) in std::mem::take(&mut self.opened) {
            if result.is_err() || self.streams.contains_key(&stream) {
                self.agent.stream_connected(now, stream, result);
            }
        }
        if let Some(mapper) = &mut self.mapper {
            mapper.handle_timeout(now);
        }
        self.agent.handle_timeout(now);
    }

    fn give_up_streams(&mut self, network: &mut Network) {
        let is_late = |carrier: &Carrier| carrier.until().is_some_and(|until| until <= network.now());
        let late = self.streams.iter().filter(|(_, carrier)| is_late(carrier)).map(|(stream, _)| *stream);
        for stream in late.collect::<Vec<_>>() {
            self.hang_up(network, stream);
            self.opened.push((stream, Err("it takes too long".to_owned())));
        }
    }

    fn hang_up(&mut self, network: &mut Network, stream: StreamId) {
        if let Some(Carrier::Connection { id, .. }) = self.streams.remove(&stream) {
            network.close(id);
        }
    }

    /// Takes what has come to its host.
    pub(super) fn take(&mut self, network: &mut Network, arrival: Arrival) {
        if self.asleep {
            return;
        }
        match arrival {
            Arrival::Datagram(packet) => self.take_datagram(network.now(), &packet),
            Arrival::Stream(connection, event) => self.take_stream(network, connection, event),
        }
    }

    fn take_datagram(&mut self, now: Instant, packet: &Packet) {
        if let Some(mapper) = self.mapper.as_mut().filter(|mapper| mapper.is_for(packet)) {
            return mapper.take(now, packet);
        }
        let ends = (packet.to, packet.from, packet.transport);
        let is_of = |carrier: &Carrier| match *carrier {
            Carrier::Socket { local, server, transport } => (local, server, transport) == ends,
            Carrier::Connection { .. } => false,
        };
        let stream = self.streams.iter().find(|(_, carrier)| is_of(carrier)).map(|(stream, _)| *stream);
        let received = if let Some(stream) = stream {
            self.agent.handle_stream_frame(now, stream, &packet.payload)
        } else if let Some(&socket) = self.by_address.get(&packet.to) {
            self.agent.handle_datagram(now, socket, packet.from, &packet.payload)
        } else {
            None
        };
        keep((&mut self.received, &mut self.received_for), received);
    }

    fn take_stream(&mut self, network: &mut Network, connection: ConnectionId, event: StreamEvent) {
        let now = network.now();
        if event == StreamEvent::Accepted {
            return self.accept(network, connection);
        }
        let is_of =
            |carrier: &Carrier| matches!(carrier, Carrier::Connection { id, .. } if *id == connection);
        let found = self.streams.iter_mut().find(|(_, carrier)| is_of(carrier));
        let Some((&stream, Carrier::Connection { local, by_proxy, open, framing, .. })) = found else {
            return;
        };
        match event {
            StreamEvent::Accepted => {}
            StreamEvent::Connected => match *by_proxy {
                Some(server) => network.write(connection, proxy::request(server)),
                None => {
                    *open = true;
                    let local = *local;
                    self.agent.stream_connected(now, stream, Ok(local));
                }
            },
            StreamEvent::Frame(response) if by_proxy.take().is_some() => {
                let local = *local;
                if proxy::is_connected(&response) {
                    *open = true;
                    self.agent.stream_connected(now, stream, Ok(local));
                } else {
                    self.streams.remove(&stream);
                    network.close(connection);
                    self.agent.stream_connected(now, stream, Err("the proxy refuses".to_owned()));
                }
            }
            StreamEvent::Frame(payload) => {
                let packet = match framing {
                    Framing::Stun => match frame_len(&payload) {
                        Ok(FrameLen::Complete { frame, .. }) => &payload[..frame],
                        _ => &payload,
                    },
                    Framing::Packets => payload.get(RFC_4571_HEADER..).unwrap_or_default(),
                };
                let received = self.agent.handle_stream_frame(now, stream, packet);
                keep((&mut self.received, &mut self.received_for), received);
            }
            StreamEvent::Closed(why) => {
                let open = *open;
                self.streams.remove(&stream);
                match open {
                    true => self.agent.stream_closed(now, stream),
                    false => self.agent.stream_connected(now, stream, Err(why.to_owned())),
                }
            }
        }
    }

    fn accept(&mut self, network: &mut Network, id: ConnectionId) {
        let now = network.now();
        let ends = network.ends(id);
        let listener = ends.and_then(|(local, ..)| self.listeners.get(&local));
        let (Some((local, from, _)), Some(listener)) = (ends, listener) else { return network.abort(id) };
        match self.agent.stream_accepted(now, *listener, from) {
            Some(stream) => {
                let framing = Framing::Packets;
                let carrier =
                    Carrier::Connection { id, local, by_proxy: None, framing, open: true, until: None };
                self.streams.insert(stream, carrier);
            }
            None => network.close(id),
        }
    }

    /// Moves what it has to say into the network, and to the other side.
    pub(super) fn drain(&mut self, network: &mut Network, start: Instant, signalling: (Duration, Duration)) {
        let (now, elapsed) = (network.now(), network.now() - start);
        let (least, most) = signalling;
        if let Some(mapper) = &mut self.mapper {
            let own = self.sockets.iter().filter(|(socket, _)| !self.beside.contains(socket));
            mapper.drain(network, self.host, own, &self.listeners, &mut self.agent);
        }
        while let Some(event) = self.agent.poll_event() {
            match event {
                Event::LocalCandidate(candidate) => {
                    let dead = std::mem::take(&mut self.dead);
                    for candidate in dead.into_iter().chain([candidate]) {
                        let delay = network.rng().random_range(least..=most);
                        self.mail.push((now + delay, Mail::Candidate(candidate)));
                    }
                }
                Event::StateChanged(state) => self.states.push((elapsed, state)),
                Event::Selected(selected) => self.selections.push((elapsed, selected)),
                Event::RemoteRestarted => {
                    self.remote_restarts += 1;
                    let delay = network.rng().random_range(least..=most);
                    self.tell_description(now + delay);
                }
                Event::PathChanged { why, .. } => self.changes.push(why),
                Event::StreamFailed { stream, .. } => self.failed_streams.push(stream),
                Event::Failed(report) => self.failure = Some(*report),
                _ => {}
            }
        }
        self.send_all(network);
        while let Some(action) = self.agent.poll_action() {
            self.act(network, elapsed, &action);
            self.send_all(network);
        }
    }

    fn send_all(&mut self, network: &mut Network) {
        while let Some(transmit) = self.agent.poll_transmit() {
            match transmit.via {
                Via::Socket(socket) => {
                    if let Some(local) = self.sockets.get(&socket) {
                        network.send(self.host, Packet::udp(*local, transmit.to, transmit.payload));
                    }
                }
                Via::Stream(stream) => self.send_over(network, stream, transmit.payload),
            }
        }
    }

    fn send_over(&self, network: &mut Network, stream: StreamId, payload: Vec<u8>) {
        match self.streams.get(&stream) {
            Some(&Carrier::Socket { local, server, transport }) => {
                let packet = Packet { from: local, to: server, transport, segment: None, payload };
                network.send(self.host, packet);
            }
            Some(Carrier::Connection { id, .. }) => network.write(*id, payload),
            None => {}
        }
    }

    fn act(&mut self, network: &mut Network, elapsed: Duration, action: &Action) {
        match *action {
            Action::Connect { stream, server, transport, local, .. } => {
                self.connects.push((elapsed, transport));
                let to = self.proxy.filter(|_| transport.is_reliable()).unwrap_or(server);
                let to = self.reachable(to);
                let of_family = |own: &&IpAddr| own.is_ipv4() == to.is_ipv4();
                let Some(ip) = local.or_else(|| self.addresses.iter().find(of_family).copied()) else {
                    return self.opened.push((stream, Err("no address of that family".to_owned())));
                };
                self.next_port += 1;
                let local = SocketAddr::new(ip, self.next_port);
                if !transport.is_reliable() {
                    self.streams.insert(stream, Carrier::Socket { local, server: to, transport });
                    return self.opened.push((stream, Ok(local)));
                }
                let by_proxy = self.proxy.map(|_| server);
                self.connect(network, stream, (local, to, transport), by_proxy, Framing::Stun);
            }
            Action::ConnectTcp { stream, mut local, to, framing } => {
                if local.port() == 0 {
                    self.next_port += 1;
                    local.set_port(self.next_port);
                }
                self.connect(network, stream, (local, to, Transport::Tcp), None, framing);
            }
            Action::Close { stream } => self.hang_up(network, stream),
            Action::OpenSocket { beside } => {
                let Some(ip) = self.sockets.get(&beside).map(SocketAddr::ip) else { return };
                self.next_port += 1;
                let local = SocketAddr::new(ip, self.next_port);
                if let Some(socket) = self.agent.socket_opened(network.now(), Ok(local)) {
                    self.sockets.insert(socket, local);
                    self.by_address.insert(local, socket);
                    self.beside.insert(socket);
                }
            }
            Action::CloseSocket { socket } => {
                self.beside.remove(&socket);
                if let Some(local) = self.sockets.remove(&socket) {
                    self.by_address.remove(&local);
                }
            }
            _ => {}
        }
    }

    /// Where an endpoint is reached: through the NAT64, if there is no IPv4 here.
    fn reachable(&self, to: SocketAddr) -> SocketAddr {
        match (to.ip(), self.nat64) {
            (IpAddr::V4(ip), Some(prefix)) if self.addresses.iter().all(IpAddr::is_ipv6) => {
                SocketAddr::new(prefix.synthesize(ip).into(), to.port())
            }
            _ => to,
        }
    }

    fn connect(
        &mut self,
        network: &mut Network,
        stream: StreamId,
        (local, to, transport): (SocketAddr, SocketAddr, Transport),
        by_proxy: Option<SocketAddr>,
        framing: Framing,
    ) {
        match network.connect(self.host, local, to, transport) {
            Some(id) => {
                let until = (framing == Framing::Stun).then(|| network.now() + CONNECT_PATIENCE);
                let carrier = Carrier::Connection { id, local, by_proxy, framing, open: false, until };
                self.streams.insert(stream, carrier);
            }
            None => self.opened.push((stream, Err("the port is in use".to_owned()))),
        }
    }
}

fn keep(
    (all, components): (&mut Vec<(Vec<u8>, PathKind)>, &mut Vec<ComponentId>),
    received: Option<Received<'_>>,
) {
    if let Some(received) = received {
        all.push((received.data.to_vec(), received.path));
        components.push(received.component);
    }
}

/// All components of these data streams.
fn components(streams: &[u16]) -> Vec<ComponentId> {
    let of_stream = |(stream, count): (u8, &u16)| {
        (1..=*count).filter_map(move |number| Some(ComponentId::new(number)?.in_stream(stream)))
    };
    (0..=u8::MAX).zip(streams).flat_map(of_stream).collect()
}
