use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use super::super::{
    Action, Agent, AgentConfig, Event, Framing, ListenerId, PairState, PathKind, Role, SocketId, State,
    StreamId, Via, message,
};
use super::{MAX_UNPROVEN, PROOF_PATIENCE, UNUSED};
use crate::candidate::{Candidate, CandidateKind, CandidateTransport, TcpType};
use thirl_common::wire::{Message, XorMappedAddress};

const SERVER: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(192, 0, 2, 99)), 3478);
const PORT: u16 = 5000;

/// A host with an agent.
struct Host {
    agent: Agent,
    ip: Ipv4Addr,
    udp: Option<SocketId>,
    listener: Option<ListenerId>,
    /// The local and the far address of each connection, as this host knows them.
    streams: BTreeMap<StreamId, (SocketAddr, SocketAddr)>,
    received: Vec<Vec<u8>>,
    changes: Vec<String>,
    next_port: u16,
}

/// Two hosts whose packets arrive at once.
struct World {
    now: Instant,
    hosts: [Host; 2],
    udp_passes: bool,
    /// Behind NATs that map each port to itself at 198.51.100.x, and let in what answers alone.
    natted: bool,
    /// The NATs refuse what they do not let in.
    refuses: bool,
}

fn config(role: Role) -> AgentConfig {
    AgentConfig::new(role)
}

impl World {
    #[expect(clippy::disallowed_methods, reason = "any origin will do")]
    fn new(udp: bool, configs: [AgentConfig; 2]) -> World {
        let now = Instant::now();
        let host = |(config, last)| {
            let ip = Ipv4Addr::new(10, 0, last, 1);
            let mut agent = Agent::new(config, [last; 32]);
            let local = SocketAddr::from((ip, PORT));
            let udp = udp.then(|| agent.add_local_socket(now, local, 255));
            let listener = Some(agent.add_tcp_listener(now, local, 255));
            Host {
                agent,
                ip,
                udp,
                listener,
                streams: BTreeMap::new(),
                received: Vec::new(),
                changes: Vec::new(),
                next_port: 40_000,
            }
        };
        let [a, b] = configs;
        let hosts = [host((a, 1)), host((b, 2))];
        World { now, hosts, udp_passes: true, natted: false, refuses: false }
    }

    fn start(&mut self) {
        let [a, b] = &mut self.hosts;
        let (of_a, of_b) = (a.agent.local_credentials().clone(), b.agent.local_credentials().clone());
        a.agent.set_remote_credentials(self.now, of_b).unwrap();
        b.agent.set_remote_credentials(self.now, of_a).unwrap();
        a.agent.gather(self.now);
        b.agent.gather(self.now);
    }

    fn outside(&self, local: SocketAddr) -> SocketAddr {
        match local {
            SocketAddr::V4(local) if self.natted && local.ip().octets()[0] == 10 => {
                SocketAddr::from(([198, 51, 100, local.ip().octets()[2]], local.port()))
            }
            local => local,
        }
    }

    /// Lets both do what they have to do now.
    fn drain(&mut self) {
        while self.hosts.iter_mut().any(|host| host.agent.poll_timeout().is_some()) {
            let acted = (0..2).any(|side| self.act(side));
            if !acted {
                return;
            }
        }
    }

    fn act(&mut self, side: usize) -> bool {
        let now = self.now;
        if let Some(event) = self.hosts[side].agent.poll_event() {
            match event {
                Event::LocalCandidate(candidate) => {
                    self.hosts[1 - side].agent.add_remote_candidate(now, candidate);
                }
                Event::PathChanged { why, .. } => self.hosts[side].changes.push(why),
                Event::RemoteRestarted => self.describe(side),
                _ => {}
            }
        } else if let Some(transmit) = self.hosts[side].agent.poll_transmit() {
            match transmit.via {
                Via::Socket(_) => self.deliver_udp(side, transmit.to, &transmit.payload),
                Via::Stream(stream) => self.deliver(side, stream, transmit.to, &transmit.payload),
            }
        } else if let Some(action) = self.hosts[side].agent.poll_action() {
            match action {
                Action::ConnectTcp { stream, local, to, framing } => {
                    self.connect(side, stream, local, to, framing);
                }
                Action::Close { stream } => self.close(side, stream),
                Action::Connect { .. } => panic!("there are no TURN servers"),
                Action::OpenSocket { .. } | Action::CloseSocket { .. } => {
                    panic!("no mapping is known to be hard")
                }
            }
        } else {
            return false;
        }
        true
    }

    /// Tells the other side all that a description says.
    fn describe(&mut self, side: usize) {
        let credentials = self.hosts[side].agent.local_credentials().clone();
        let candidates: Vec<Candidate> = self.hosts[side].agent.local_candidates().cloned().collect();
        let other = &mut self.hosts[1 - side].agent;
        other.set_remote_credentials(self.now, credentials).unwrap();
        candidates.into_iter().for_each(|candidate| other.add_remote_candidate(self.now, candidate));
    }

    fn deliver_udp(&mut self, side: usize, to: SocketAddr, payload: &[u8]) {
        let from = SocketAddr::from((self.hosts[side].ip, PORT));
        let other = &mut self.hosts[1 - side];
        let Some(socket) = other.udp.filter(|_| self.udp_passes && to.ip() == other.ip) else { return };
        let received = other.agent.handle_datagram(self.now, socket, from, payload);
        other.received.extend(received.map(|received| received.data.to_vec()));
    }

    fn deliver(&mut self, side: usize, stream: StreamId, to: SocketAddr, payload: &[u8]) {
        if to == SERVER {
            let request = Message::parse(payload).unwrap();
            let mapped = self.outside(self.hosts[side].streams[&stream].0);
            let key = thirl_common::wire::IntegrityKey::new(b"nobody looks");
            let answer = message::success(request.transaction_id(), mapped, &key);
            assert_eq!(Message::parse(&answer).unwrap().require::<XorMappedAddress>().unwrap().0, mapped);
            self.hosts[side].agent.handle_stream_frame(self.now, stream, &answer);
            return;
        }
        let Some(there) = self.other_end(side, stream) else { return };
        let (header, packet) = payload.split_at(2);
        assert_eq!(usize::from(header[0]) << 8 | usize::from(header[1]), packet.len());
        let other = &mut self.hosts[1 - side];
        let received = other.agent.handle_stream_frame(self.now, there, packet);
        assert!(received.is_none_or(|received| received.path == PathKind::Direct));
        other.received.extend(received.map(|received| received.data.to_vec()));
    }

    fn other_end(&self, side: usize, stream: StreamId) -> Option<StreamId> {
        let (local, to) = *self.hosts[side].streams.get(&stream)?;
        let outside = (to, self.outside(local));
        let ends = self.hosts[1 - side].streams.iter();
        let mut ends = ends.filter(|(_, (local, to))| (self.outside(*local), *to) == outside);
        ends.next().map(|(stream, _)| *stream)
    }

    fn connect(
        &mut self,
        side: usize,
        stream: StreamId,
        mut local: SocketAddr,
        to: SocketAddr,
        framing: Framing,
    ) {
        let host = &mut self.hosts[side];
        if local.port() == 0 {
            host.next_port += 1;
            local.set_port(host.next_port);
        }
        host.streams.insert(stream, (local, to));
        if to == SERVER {
            assert_eq!((framing, local.port()), (Framing::Stun, PORT));
            return host.agent.stream_connected(self.now, stream, Ok(local));
        }
        assert_eq!(framing, Framing::Packets);
        if let Some(there) = self.other_end(side, stream) {
            // The two have met on the way.
            let far = self.hosts[1 - side].streams[&there].0;
            self.hosts[side].agent.stream_connected(self.now, stream, Ok(local));
            self.hosts[1 - side].agent.stream_connected(self.now, there, Ok(far));
        } else if self.natted {
            if self.refuses {
                self.hosts[side].streams.remove(&stream);
                self.hosts[side].agent.stream_connected(self.now, stream, Err("refused".to_owned()));
            }
        } else {
            let other = &mut self.hosts[1 - side];
            let listener = other.listener.filter(|_| to == SocketAddr::from((other.ip, PORT)));
            match listener.and_then(|listener| other.agent.stream_accepted(self.now, listener, local)) {
                Some(accepted) => {
                    other.streams.insert(accepted, (to, local));
                    self.hosts[side].agent.stream_connected(self.now, stream, Ok(local));
                }
                None => {
                    self.hosts[side].streams.remove(&stream);
                    self.hosts[side].agent.stream_connected(self.now, stream, Err("refused".to_owned()));
                }
            }
        }
    }

    fn close(&mut self, side: usize, stream: StreamId) {
        let there = self.other_end(side, stream);
        self.hosts[side].streams.remove(&stream);
        if let Some(there) = there {
            self.hosts[1 - side].streams.remove(&there);
            self.hosts[1 - side].agent.stream_closed(self.now, there);
        }
    }

    fn run_until(&mut self, limit: Duration, mut done: impl FnMut(&World) -> bool) -> bool {
        let end = self.now + limit;
        loop {
            self.drain();
            if done(self) {
                return true;
            }
            let next = self.hosts.iter().filter_map(|host| host.agent.poll_timeout()).min();
            let Some(next) = next.filter(|next| *next <= end) else {
                self.now = end;
                return false;
            };
            self.now = self.now.max(next);
            let now = self.now;
            self.hosts.iter_mut().for_each(|host| host.agent.handle_timeout(now));
        }
    }

    fn run_for(&mut self, time: Duration) {
        self.run_until(time, |_| false);
    }

    fn connect_within(&mut self, limit: Duration) -> bool {
        self.run_until(limit, World::is_complete)
    }

    fn is_complete(&self) -> bool {
        self.hosts.iter().all(|host| host.agent.state() == State::Completed)
    }

    fn data_flows(&mut self) -> bool {
        let now = self.now;
        for (host, data) in self.hosts.iter_mut().zip([&b"from a"[..], b"from b"]) {
            host.received.clear();
            host.agent.send(now, data).unwrap();
        }
        let (a, b) = (b"from b".to_vec(), b"from a".to_vec());
        self.run_until(Duration::from_secs(1), |world| {
            world.hosts[0].received.contains(&a) && world.hosts[1].received.contains(&b)
        })
    }

    /// How each side's selected candidates are carried.
    fn transports(&self) -> [(CandidateTransport, CandidateTransport); 2] {
        [0, 1].map(|side| {
            let selected = self.hosts[side].agent.selected().unwrap();
            (selected.local.transport, selected.remote.transport)
        })
    }
}

const SECOND: Duration = Duration::from_secs(1);

fn tcp(ty: TcpType) -> CandidateTransport {
    CandidateTransport::Tcp(ty)
}

fn pair_of(configs: [Role; 2], udp: bool) -> World {
    World::new(udp, configs.map(config))
}

const ROLES: [Role; 2] = [Role::Controlling, Role::Controlled];

#[test]
fn a_port_is_told_as_three_candidates_below_those_of_udp() {
    let mut world = pair_of(ROLES, true);
    world.start();
    let told: Vec<_> = world.hosts[0].agent.local_candidates().cloned().collect();
    let lines: Vec<_> = told.iter().map(ToString::to_string).collect();
    assert!(lines[1].ends_with("10.0.1.1 9 typ host tcptype active"), "{lines:?}");
    assert!(lines[2].ends_with("10.0.1.1 5000 typ host tcptype passive"), "{lines:?}");
    assert!(lines[3].ends_with("10.0.1.1 5000 typ host tcptype so"), "{lines:?}");
    assert!(told.is_sorted_by(|one, other| one.priority > other.priority), "{lines:?}");
    let foundations: std::collections::BTreeSet<_> = told.iter().map(|told| &told.foundation).collect();
    assert_eq!(foundations.len(), 4);
}

#[test]
fn without_udp_a_connection_carries_data() {
    for roles in [ROLES, [Role::Controlled, Role::Controlling]] {
        let mut world = pair_of(roles, false);
        world.start();
        assert!(world.connect_within(5 * SECOND), "{}", world.hosts[0].agent.report());
        assert!(world.data_flows());
        for (local, remote) in world.transports() {
            assert_eq!(local.tcp_type().map(TcpType::counterpart), remote.tcp_type());
        }
        let report = world.hosts[0].agent.report();
        let selected = report.pairs.iter().find(|pair| pair.selected).unwrap();
        assert_eq!(selected.local.transport, "tcp");
        assert!(report.to_string().starts_with("connected, direct over TCP: "), "{report}");
        // What is not needed is closed, and what carries data lives on consent.
        world.run_for(120 * SECOND);
        assert_eq!(world.hosts[0].streams.len(), 1);
        assert!(world.is_complete() && world.data_flows());
        let now = world.now;
        world.hosts[0].agent.close(now);
        world.run_for(SECOND);
        assert!(world.hosts.iter().all(|host| host.streams.is_empty()));
    }
}

#[test]
fn udp_is_taken_where_it_works() {
    let mut world = pair_of(ROLES, true);
    world.start();
    assert!(world.connect_within(SECOND));
    let udp = (CandidateTransport::Udp, CandidateTransport::Udp);
    assert_eq!(world.transports(), [udp.clone(), udp]);
    world.run_for(UNUSED + SECOND);
    assert!(world.hosts.iter().all(|host| host.streams.is_empty()), "connections are closed");
}

#[test]
fn a_connection_is_left_for_udp_when_that_works_later() {
    let mut world = pair_of(ROLES, true);
    world.udp_passes = false;
    world.start();
    assert!(world.connect_within(5 * SECOND), "{}", world.hosts[0].agent.report());
    assert!(world.transports()[0].0.tcp_type().is_some());
    world.udp_passes = true;
    let udp = (CandidateTransport::Udp, CandidateTransport::Udp);
    assert!(world.run_until(20 * SECOND, |world| world.transports() == [udp.clone(), udp.clone()]));
    assert_eq!(world.hosts[0].changes, ["a path over UDP was found after one over TCP"]);
    assert!(world.data_flows());
}

#[test]
fn a_lost_connection_is_made_anew_and_leaves_nothing_behind() {
    let mut world = pair_of(ROLES, false);
    world.start();
    assert!(world.connect_within(5 * SECOND));
    let mut candidates = Vec::new();
    for _ in 0..20 {
        world.run_for(UNUSED + SECOND);
        let before: Vec<_> = world.hosts[0].streams.keys().copied().collect();
        assert_eq!(before.len(), 1);
        let now = world.now;
        let there = world.other_end(0, before[0]).unwrap();
        world.hosts.iter_mut().for_each(|host| host.streams.clear());
        world.hosts[0].agent.stream_closed(now, before[0]);
        world.hosts[1].agent.stream_closed(now, there);
        assert_eq!(world.hosts[0].agent.state(), State::Disconnected);
        assert!(world.connect_within(5 * SECOND), "{}", world.hosts[0].agent.report());
        assert!(world.data_flows());
        candidates.push(world.hosts.each_ref().map(|host| host.agent.report().local_candidates.len()));
    }
    assert!(candidates.iter().flatten().all(|count| *count <= 6), "{candidates:?}");
}

#[test]
fn a_restart_goes_over_tcp_too() {
    let mut world = pair_of(ROLES, false);
    world.start();
    assert!(world.connect_within(5 * SECOND));
    let now = world.now;
    world.hosts[0].agent.restart(now);
    world.describe(0);
    assert!(world.data_flows(), "over the former path");
    assert!(world.connect_within(10 * SECOND), "{}", world.hosts[0].agent.report());
    world.run_for(60 * SECOND);
    assert!(world.is_complete() && world.data_flows());
}

fn behind_nats(refuses: bool) -> World {
    let configs = ROLES.map(|role| AgentConfig { stun: vec![SERVER], ..config(role) });
    let mut world = World::new(false, configs);
    (world.natted, world.refuses) = (true, refuses);
    world
}

#[test]
fn a_server_says_where_the_port_is_seen() {
    let mut world = behind_nats(false);
    let now = world.now;
    world.hosts[0].agent.gather(now);
    world.run_until(SECOND, |world| world.hosts[0].agent.is_gathering_complete());
    let told: Vec<_> = world.hosts[0].agent.local_candidates().cloned().collect();
    let reflexive: Vec<_> = told
        .iter()
        .filter(|told| told.kind == CandidateKind::ServerReflexive)
        .map(ToString::to_string)
        .collect();
    let [so, passive] = &reflexive[..] else { panic!("{reflexive:?}") };
    let at = "198.51.100.1 5000 typ srflx raddr 10.0.1.1 rport 5000 tcptype";
    assert!(
        so.ends_with(&format!("{at} so")) && passive.ends_with(&format!("{at} passive")),
        "{reflexive:?}"
    );
    assert_eq!(world.hosts[0].streams.len(), 1, "which keeps the mapping");
    let servers = world.hosts[0].agent.report().servers;
    assert!(
        servers.iter().any(|server| server.transport == "tcp" && server.address.is_some()),
        "{servers:?}"
    );
}

#[test]
fn both_open_at_once_through_their_nats() {
    let mut world = behind_nats(false);
    world.start();
    assert!(world.connect_within(5 * SECOND), "{}", world.hosts[0].agent.report());
    let so = tcp(TcpType::SimultaneousOpen);
    assert_eq!(world.transports(), [(so.clone(), so.clone()), (so.clone(), so)]);
    assert!(world.data_flows());
    let selected = world.hosts[0].agent.selected().unwrap();
    assert_eq!(selected.local.address.to_string(), "198.51.100.1:5000");
}

#[test]
fn a_refused_simultaneous_open_is_tried_again() {
    let mut world = behind_nats(true);
    world.start();
    world.run_for(2 * SECOND);
    let report = world.hosts[0].agent.report();
    let opening = |pair: &&super::super::PairReport| {
        pair.local.tcp_type == Some("so") && pair.state == PairState::InProgress
    };
    assert!(report.pairs.iter().any(|pair| opening(&pair)), "{report}");
    world.refuses = false;
    assert!(world.connect_within(2 * SECOND), "{}", world.hosts[0].agent.report());
    assert!(world.data_flows());
}

#[test]
fn strangers_are_few_and_have_little_time() {
    let mut world = pair_of(ROLES, false);
    world.start();
    assert!(world.connect_within(5 * SECOND));
    world.run_for(UNUSED + SECOND);
    let (now, listener) = (world.now, world.hosts[0].listener.unwrap());
    let agent = &mut world.hosts[0].agent;
    let stranger = |port| SocketAddr::from(([192, 0, 2, 7], port));
    let accepted: Vec<_> =
        (1..=100).map(|port| agent.stream_accepted(now, listener, stranger(port)).unwrap()).collect();
    let mut closed = Vec::new();
    while let Some(Action::Close { stream }) = agent.poll_action() {
        closed.push(stream);
    }
    assert_eq!(closed, accepted[..100 - MAX_UNPROVEN], "the oldest go first, and the peer's stays");
    assert!(agent.handle_stream_frame(now, accepted[99], b"GET / HTTP/1.1").is_none());
    assert_eq!(agent.poll_action(), Some(Action::Close { stream: accepted[99] }));
    let later = now + PROOF_PATIENCE;
    agent.handle_timeout(later);
    let closed = std::iter::from_fn(|| agent.poll_action()).count();
    assert_eq!(closed, MAX_UNPROVEN - 1);
}

#[test]
fn a_lite_side_is_connected_to() {
    let lite = AgentConfig { lite: true, ..config(Role::Controlled) };
    let mut world = World::new(false, [config(Role::Controlling), lite]);
    world.start();
    assert!(world.hosts[1].agent.local_candidates().all(|told| told.transport == tcp(TcpType::Passive)));
    assert!(world.connect_within(5 * SECOND), "{}", world.hosts[0].agent.report());
    assert!(world.data_flows());
}

/// What an agent of its own asks for and tells, in the order of asking.
fn connects(agent: &mut Agent) -> Vec<(StreamId, SocketAddr, SocketAddr)> {
    let actions = std::iter::from_fn(|| agent.poll_action());
    let connects = actions.filter_map(|action| match action {
        Action::ConnectTcp { stream, local, to, .. } => Some((stream, local, to)),
        _ => None,
    });
    connects.collect()
}

fn told(agent: &Agent) -> Vec<String> {
    agent.local_candidates().map(ToString::to_string).collect()
}

#[test]
#[expect(clippy::disallowed_methods, reason = "any origin will do")]
fn ipv4_peers_are_reached_through_nat64() {
    let now = Instant::now();
    let prefix: thirl_common::net::Nat64Prefix = "64:ff9b::/96".parse().unwrap();
    let mut agent = Agent::new(AgentConfig { stun: vec![SERVER], ..config(Role::Controlling) }, [1; 32]);
    let local = "[2001:db8::2]:5000".parse().unwrap();
    let listener = agent.add_tcp_listener(now, local, 255);
    agent.gather(now);
    assert!(connects(&mut agent).is_empty(), "there is no way to the server");
    agent.set_nat64(now, Some(prefix));
    agent.handle_timeout(now + Duration::from_millis(50));
    let [(stream, from, to)] = connects(&mut agent)[..] else { panic!("the server is asked") };
    assert_eq!((from, to), (local, prefix.to_ipv6(SERVER)));
    agent.stream_connected(now, stream, Ok(local));
    let request = agent.poll_transmit().unwrap();
    let id = Message::parse(&request.payload).unwrap().transaction_id();
    let key = thirl_common::wire::IntegrityKey::new(b"nobody looks");
    let answer = message::success(id, "198.51.100.1:7000".parse().unwrap(), &key);
    agent.handle_stream_frame(now, stream, &answer);
    let told = told(&agent);
    assert!(
        told.iter().any(|line| line.contains(" 198.51.100.1 7000 typ srflx") && line.contains("tcptype so"))
    );

    let peer: SocketAddr = "203.0.113.20:6000".parse().unwrap();
    let theirs = format!("candidate:1 1 tcp 1694498815 {} {} typ host tcptype so", peer.ip(), peer.port());
    agent
        .set_remote_credentials(now, super::super::Credentials { ufrag: "abcd".into(), pwd: "x".repeat(22) })
        .unwrap();
    agent.add_remote_candidate(now, Candidate::parse(&theirs).unwrap());
    agent.handle_timeout(now + Duration::from_millis(100));
    let [(_, from, to)] = connects(&mut agent)[..] else { panic!("the peer is connected to") };
    assert_eq!((from, to), (local, prefix.to_ipv6(peer)));
    // Its own SYN was first: this is the same peer.
    assert!(agent.stream_accepted(now, listener, prefix.to_ipv6(peer)).is_some());
    let report = agent.report().to_string();
    assert!(report.contains("203.0.113.20:6000 over TCP"), "{report}");
}

#[test]
#[expect(clippy::disallowed_methods, reason = "any origin will do")]
fn a_mapped_port_is_told_as_one_to_connect_to() {
    let now = Instant::now();
    let mut agent = Agent::new(config(Role::Controlling), [1; 32]);
    let listener = agent.add_tcp_listener(now, "10.0.0.1:5000".parse().unwrap(), 255);
    agent.gather(now);
    let before = told(&agent);
    for external in ["198.51.100.9:6000", "198.51.100.9:6000", "[2001:db8::9]:6000"] {
        agent.add_mapped_tcp_address(now, listener, external.parse().unwrap());
    }
    let new: Vec<_> = told(&agent).into_iter().filter(|line| !before.contains(line)).collect();
    let [line] = &new[..] else { panic!("{new:?}") };
    assert!(
        line.contains(" 198.51.100.9 6000 typ srflx raddr 10.0.0.1 rport 5000 tcptype passive"),
        "{line}"
    );
}
