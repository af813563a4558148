//! The NAT diagnosis in the simulated network: every kind of NAT, loss, and servers that lie; and whether its table of
//! who reaches whom is what two agents do.
#![expect(clippy::unwrap_used, reason = "a test may fail by panicking")]

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use thirl_common::net::Transport;
use thirl_common::wire::{
    ChangeRequest, Class, ErrorCode, Message, MessageWriter, Method, OtherAddress, ResponseOrigin,
    XorMappedAddress,
};
use thirl_ice_agent::agent::{AgentConfig, PathKind, Role};
use thirl_ice_agent::nat::{
    self, Action, Confidence, Diagnosis, Facts, FamilyReport, HostNetwork, Options, PairPath, Report,
    SocketId, direct_path, predict,
};
use thirl_tests::sim::{
    Filtering, HostId, Link, Mapping, NatSpec, Network, Packet, Pair, PeerSpec, PortAllocation,
};

const MAPPINGS: [Mapping; 3] =
    [Mapping::EndpointIndependent, Mapping::AddressDependent, Mapping::AddressAndPortDependent];
const FILTERINGS: [Filtering; 3] =
    [Filtering::EndpointIndependent, Filtering::AddressDependent, Filtering::AddressAndPortDependent];

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn in_the_agents_words(spec: NatSpec) -> (nat::Mapping, nat::Filtering) {
    (nat::Mapping::ALL[spec.mapping as usize], nat::Filtering::ALL[spec.filtering as usize])
}

/// What a server does wrong.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Lie {
    None,
    SameIp,
    Origin,
    IgnoresChange,
    WrongSource,
    /// It has a second address that nothing comes from or goes to.
    DeadOther,
    RefusesChange,
}

/// A server of RFC 5780 on two addresses of a host.
struct Server {
    host: HostId,
    ips: [IpAddr; 2],
    lie: Lie,
}

const PORTS: [u16; 2] = [3478, 3479];

impl Server {
    fn new(network: &mut Network, ips: [IpAddr; 2], lie: Lie) -> Server {
        Server { host: network.add_host(&ips, None, Link::delayed(Duration::from_millis(5))), ips, lie }
    }

    fn address(&self) -> SocketAddr {
        SocketAddr::new(self.ips[0], PORTS[0])
    }

    fn answer(&self, network: &mut Network, packet: &Packet) {
        let dead = self.lie == Lie::DeadOther && packet.to.ip() == self.ips[1];
        if packet.transport != Transport::Udp || dead {
            return;
        }
        let request = Message::parse(&packet.payload).unwrap();
        let change: ChangeRequest = request.get().unwrap().unwrap_or_default();
        let asked = [packet.to.ip() == self.ips[1], packet.to.port() == PORTS[1]].map(usize::from);
        let other = [1 - asked[0], 1 - asked[1]];
        let obeys = self.lie != Lie::IgnoresChange && self.lie != Lie::RefusesChange;
        let from = [obeys && change.ip, obeys && change.port];
        let place = |n: usize| if from[n] { other[n] } else { asked[n] };
        let mut from = SocketAddr::new(self.ips[place(0)], PORTS[place(1)]);
        if self.lie == Lie::WrongSource {
            from.set_port(9);
        }
        let refuses = self.lie == Lie::RefusesChange && (change.ip || change.port);
        let class = if refuses { Class::Error } else { Class::Success };
        let mut buffer = [0; 128];
        let id = request.transaction_id();
        let mut writer = MessageWriter::new(&mut buffer, class, Method::BINDING, id).unwrap();
        if refuses {
            writer.attribute(&ErrorCode::UNKNOWN_ATTRIBUTE).unwrap();
        } else {
            let told = if self.lie == Lie::SameIp { self.ips[asked[0]] } else { self.ips[other[0]] };
            let origin = if self.lie == Lie::Origin { "10.0.0.1:3478".parse().unwrap() } else { from };
            writer.attribute(&XorMappedAddress(packet.from)).unwrap();
            writer.attribute(&ResponseOrigin(origin)).unwrap();
            writer.attribute(&OtherAddress(SocketAddr::new(told, PORTS[other[1]]))).unwrap();
        }
        let dead = self.lie == Lie::DeadOther && from.ip() == self.ips[1];
        if !dead {
            let payload = writer.finish().to_vec();
            network.send(self.host, Packet::udp(from, packet.from, payload));
        }
    }
}

/// Runs a diagnosis behind a NAT.
fn diagnose(seed: u64, spec: NatSpec, loss: f64, lies: &[Lie]) -> FamilyReport {
    diagnose_at(1, seed, spec, loss, lies)
}

/// The same at one of several places, each with addresses of its own.
fn diagnose_at(place: u8, seed: u64, spec: NatSpec, loss: f64, lies: &[Lie]) -> FamilyReport {
    let mut network = Network::new(seed);
    let servers: Vec<_> = (1..)
        .zip(lies)
        .map(|(n, lie)| {
            let ips = [ip(&format!("9.9.{n}.10")), ip(&format!("9.9.{n}.11"))];
            Server::new(&mut network, ips, *lie)
        })
        .collect();
    let behind = network.add_nat(spec, ip(&format!("5.5.5.{place}")));
    let own = ip(&format!("192.168.{place}.2"));
    let link = Link { delay: Duration::from_millis(10), loss };
    let host = network.add_host(&[own], Some(behind), link);
    let addresses: Vec<_> = servers.iter().map(Server::address).collect();
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let mut diagnosis = Diagnosis::new(network.now(), &addresses, Options::default(), bytes);
    let mut sockets = BTreeMap::<SocketId, SocketAddr>::new();
    let mut port = 40_000;
    while !diagnosis.is_over() {
        while let Some(action) = diagnosis.poll_action() {
            match action {
                Action::Bind { socket, transport: Transport::Udp } => {
                    port += 7;
                    sockets.insert(socket, SocketAddr::new(own, port));
                    diagnosis.socket_bound(network.now(), socket, Ok(sockets[&socket]));
                }
                Action::Bind { socket, .. } => {
                    diagnosis.socket_bound(network.now(), socket, Err("no TCP in this test".to_owned()));
                }
                // Nothing is far, and nothing too large.
                Action::Travel { .. } => {}
                Action::Close { socket } => _ = sockets.remove(&socket),
            }
        }
        while let Some(transmit) = diagnosis.poll_transmit() {
            assert!(sockets.values().any(|local| *local == transmit.from), "from a socket that is open");
            network.send(host, Packet::udp(transmit.from, transmit.to, transmit.payload));
        }
        let deadline = [diagnosis.poll_timeout(), network.next_event()].into_iter().flatten().min();
        match network.advance(deadline.unwrap()) {
            Some((at, packet)) if at == host => {
                let now = network.now();
                diagnosis.handle_datagram(now, packet.transport, packet.to, packet.from, &packet.payload);
            }
            Some((at, packet)) => {
                servers.iter().find(|server| server.host == at).unwrap().answer(&mut network, &packet);
            }
            None => diagnosis.handle_timeout(network.now()),
        }
    }
    diagnosis.report()
}

fn every_nat() -> impl Iterator<Item = NatSpec> {
    MAPPINGS.into_iter().flat_map(|mapping| FILTERINGS.map(|filtering| NatSpec::new(mapping, filtering)))
}

#[test]
fn every_nat_is_named_right_each_time() {
    for (n, spec) in (0..).zip(every_nat()) {
        for run in 0..20 {
            let udp = diagnose(n * 20 + run, spec, 0.0, &[Lie::None]).udp;
            let (mapping, filtering) = in_the_agents_words(spec);
            assert_eq!((udp.mapping, udp.filtering), (Some(mapping), Some(filtering)), "{udp:?}");
            let ports = udp.allocation.unwrap().ports;
            assert_eq!(ports, Some(nat::PortAllocation::Random), "{spec:?}");
        }
    }
}

#[test]
fn with_loss_it_is_right_or_not_measurable_and_never_wrong() {
    let mut measured = [0; 2];
    for (n, spec) in (0..).zip(every_nat()) {
        for run in 0..40 {
            let udp = diagnose(1000 + n * 40 + run, spec, 0.1, &[Lie::None, Lie::None]).udp;
            let (mapping, filtering) = in_the_agents_words(spec);
            assert!(udp.mapping.is_none_or(|found| found == mapping), "{spec:?} {run}: {udp:?}");
            assert!(udp.filtering.is_none_or(|found| found == filtering), "{spec:?} {run}: {udp:?}");
            measured[0] += usize::from(udp.mapping.is_some());
            measured[1] += usize::from(udp.filtering.is_some());
        }
    }
    assert!(measured.iter().all(|count| *count > 340), "of 360 runs: {measured:?}");
}

#[test]
fn ports_that_are_preserved() {
    let nat = NatSpec::new(Mapping::EndpointIndependent, Filtering::AddressAndPortDependent);
    let nat = NatSpec { allocation: PortAllocation::Preserving, ..nat };
    let allocation = diagnose(3, nat, 0.0, &[Lie::None]).udp.allocation.unwrap();
    assert_eq!(allocation.ports, Some(nat::PortAllocation::Preserving));
    assert_eq!(allocation.parity_preserved, Some(true));
    assert_eq!(allocation.pooling, Some(nat::Pooling::Paired));
}

#[test]
fn blocked_udp_is_said_to_be_blocked() {
    let nat = NatSpec::new(Mapping::EndpointIndependent, Filtering::EndpointIndependent);
    let udp = diagnose(4, NatSpec { blocks_udp: true, ..nat }, 0.0, &[Lie::None, Lie::None]).udp;
    assert!(udp.is_blocked() && udp.mapping.is_none() && udp.filtering.is_none(), "{udp:?}");
    assert_eq!(udp.silent.len(), 2);
}

/// A strict NAT that a lying server would make look open, or an open one that a broken server would make look strict.
#[test]
fn a_server_that_lies_is_named_and_not_used() {
    let strict = NatSpec::new(Mapping::AddressAndPortDependent, Filtering::AddressAndPortDependent);
    let open = NatSpec::new(Mapping::EndpointIndependent, Filtering::EndpointIndependent);
    for spec in [strict, open] {
        for lie in [Lie::SameIp, Lie::Origin, Lie::IgnoresChange, Lie::WrongSource] {
            let alone = diagnose(5, spec, 0.0, &[lie]).udp;
            // What comes from elsewhere, a strict NAT does not let in: such a server is silent.
            let seen = lie != Lie::WrongSource || spec == open;
            assert_eq!(alone.reachable, seen, "{lie:?}: {alone:?}");
            assert_eq!((alone.mapping, alone.filtering), (None, None), "{lie:?}: {alone:?}");
            assert_eq!(alone.faulty.len(), usize::from(seen), "{lie:?}: {alone:?}");
            let beside = diagnose(6, spec, 0.0, &[lie, Lie::None]).udp;
            let (mapping, filtering) = in_the_agents_words(spec);
            assert_eq!(
                (beside.mapping, beside.filtering),
                (Some(mapping), Some(filtering)),
                "{lie:?}: {beside:?}"
            );
            let named: Vec<_> = beside.faulty.iter().map(|faulty| faulty.server.to_string()).collect();
            assert_eq!(named.contains(&"9.9.1.10:3478".to_owned()), seen, "{lie:?}: {beside:?}");
        }
    }
}

#[test]
fn silence_of_a_second_address_that_does_not_answer_anyway_tells_nothing() {
    let open = NatSpec::new(Mapping::EndpointIndependent, Filtering::EndpointIndependent);
    let udp = diagnose(7, open, 0.0, &[Lie::DeadOther]).udp;
    assert_eq!(udp.filtering, None, "{udp:?}");
    assert!(udp.filtering_reason.contains("does not answer when asked itself"), "{udp:?}");
    let udp = diagnose(8, open, 0.0, &[Lie::RefusesChange]).udp;
    assert_eq!(udp.filtering, None, "{udp:?}");
    assert!(udp.filtering_reason.contains("refuses CHANGE-REQUEST with error 420"), "{udp:?}");
}

fn behind(role: Role, nat: NatSpec, number: u8) -> PeerSpec {
    PeerSpec {
        config: AgentConfig::new(role),
        addresses: vec![ip(&format!("192.168.{number}.2"))],
        nat: Some((nat, ip(&format!("5.5.5.{number}")))),
        link: Link::delayed(Duration::from_millis(10)),
        turn: Transport::Udp,
        dead: Vec::new(),
    }
}

#[test]
fn the_table_of_who_reaches_whom_and_the_verdict_of_a_pair_are_what_agents_do() {
    let measured = |number: u8, seed, spec| {
        let unavailable = FamilyReport::unavailable("there is no IPv6 here");
        let report = Report::new(diagnose_at(number, seed, spec, 0.0, &[Lie::None]), unavailable);
        let network = HostNetwork { ip: ip(&format!("192.168.{number}.2")), prefix: 24 };
        Facts::new(&report, &[network])
    };
    for (i, a) in (0..).zip(every_nat()) {
        for (j, b) in (0..).zip(every_nat()) {
            let [one, other] = [behind(Role::Controlling, a, 1), behind(Role::Controlled, b, 2)];
            let mut pair = Pair::new(i * 9 + j, one, other, true);
            pair.start();
            assert!(pair.connect(Duration::from_secs(10)), "{a:?} {b:?}");
            pair.run_for(Duration::from_secs(5));
            let direct = direct_path(in_the_agents_words(a), in_the_agents_words(b));
            let kind = Some(if direct { PathKind::Direct } else { PathKind::Relayed });
            assert_eq!(pair.paths(), (kind, kind), "{a:?} {b:?}");
            let [you, they] = [measured(1, i, a), measured(2, j, b)];
            let prediction = predict(&you, &they);
            let path = if direct { PairPath::Direct } else { PairPath::Relay };
            assert_eq!(
                (prediction.path, prediction.confidence),
                (path, Some(Confidence::High)),
                "{prediction:?}"
            );
        }
    }
}
