//! The simulated network itself: that what it does to packets is what the RFCs say of such networks.
#![expect(clippy::unwrap_used, reason = "a test may fail by panicking")]

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use thirl_common::net::{Nat64Prefix, Transport};
use thirl_tests::sim::{
    Arrival, BoxId, Contention, DualStack, Filtering, Firewall, FirewallSpec, Hairpin, HostId, Lifetimes,
    Link, Mapping, Middlebox, Nat, NatSpec, Network, Packet, Pooling, PortAllocation, Refresh, StreamEvent,
    TcpPolicy,
};

const EIM: Mapping = Mapping::EndpointIndependent;
const APDM: Mapping = Mapping::AddressAndPortDependent;
const EIF: Filtering = Filtering::EndpointIndependent;
const APDF: Filtering = Filtering::AddressAndPortDependent;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

/// A link of 10 ms.
fn link() -> Link {
    Link::delayed(Duration::from_millis(10))
}

/// A host behind a NAT, one more there, and one in the core.
struct World {
    network: Network,
    nat: BoxId,
    inside: [HostId; 2],
    outside: HostId,
}

const INSIDE: [&str; 2] = ["192.168.1.2:4000", "192.168.1.3:4000"];
const OUTSIDE: &str = "9.9.9.9:1000";

impl World {
    fn new(spec: NatSpec) -> World {
        World::with(1, Nat::new(spec, &[ip("5.5.5.1")]))
    }

    fn with(seed: u64, nat: Nat) -> World {
        let mut network = Network::new(seed);
        let nat = network.add_box(Middlebox::Nat(nat), None, link());
        let inside = INSIDE.map(|local| network.add_host(&[at(local).ip()], Some(nat), link()));
        let outside = network.add_host(&[at(OUTSIDE).ip()], None, link());
        World { network, nat, inside, outside }
    }

    /// What comes to a host within a second, in order.
    fn arrivals(&mut self) -> Vec<(HostId, Arrival)> {
        let until = self.network.now() + secs(1);
        std::iter::from_fn(|| self.network.advance(until)).collect()
    }

    /// Sends a datagram; whom it comes to, from where, and what it is sent to there.
    fn send(
        &mut self,
        host: HostId,
        from: SocketAddr,
        to: SocketAddr,
    ) -> Option<(HostId, SocketAddr, SocketAddr)> {
        self.network.send(host, Packet::udp(from, to, b"x".to_vec()));
        match self.arrivals().as_slice() {
            [] => None,
            [(host, Arrival::Datagram(packet))] => Some((*host, packet.from, packet.to)),
            other => panic!("{other:?}"),
        }
    }

    /// The external endpoint of an inside host as the outside one sees it.
    fn external(&mut self, of: usize, to: &str) -> SocketAddr {
        self.send(self.inside[of], at(INSIDE[of]), at(to)).unwrap().1
    }

    fn pass(&mut self, time: Duration) {
        let until = self.network.now() + time;
        assert!(self.network.advance(until).is_none());
    }
}

#[test]
fn mappings_and_filters_are_those_of_rfc_4787() {
    for (mapping, same_address, same_port) in
        [(EIM, true, true), (Mapping::AddressDependent, true, false), (APDM, false, false)]
    {
        for filtering in Filtering::ALL {
            let mut world = World::new(NatSpec::new(mapping, filtering));
            let external = world.external(0, OUTSIDE);
            assert_eq!(world.external(0, OUTSIDE), external);
            // From where it was sent to; from another port of that; from another host.
            let elsewhere = world.network.add_host(&[ip("8.8.8.8")], None, link());
            let cases = [
                (world.outside, OUTSIDE, true),
                (world.outside, "9.9.9.9:1001", filtering != APDF),
                (elsewhere, "8.8.8.8:1000", filtering == EIF),
            ];
            for (host, from, let_in) in cases {
                assert_eq!(
                    world.send(host, at(from), external).is_some(),
                    let_in,
                    "{mapping:?} {filtering:?} {from}"
                );
            }
            let mut world = World::new(NatSpec::new(mapping, filtering));
            world.network.add_host(&[ip("8.8.8.8")], None, link());
            let external = world.external(0, OUTSIDE);
            assert_eq!(world.external(0, "9.9.9.9:1001") == external, same_address, "{mapping:?}");
            assert_eq!(world.external(0, "8.8.8.8:1000") == external, same_port, "{mapping:?}");
        }
    }
}

#[test]
fn answers_leave_by_where_others_came_in() {
    let mut world = World::new(NatSpec::new(APDM, EIF));
    let external = world.external(0, OUTSIDE);
    let [stranger, local] = ["9.9.9.9:2000", INSIDE[0]].map(at);
    assert_eq!(world.send(world.outside, stranger, external), Some((world.inside[0], stranger, local)));
    assert_eq!(world.external(0, "9.9.9.9:2000"), external);
    // One that the host has sent to by another mapping looks like another, and is answered by where it came in.
    let other = world.external(0, "9.9.9.9:3000");
    assert_ne!(other, external);
    let (_, seen, _) = world.send(world.outside, at("9.9.9.9:3000"), external).unwrap();
    assert_eq!((seen.ip(), seen.port() == 3000), (ip("9.9.9.9"), false));
    assert_eq!(world.send(world.inside[0], local, seen), Some((world.outside, external, at("9.9.9.9:3000"))));
    assert_eq!(world.external(0, "9.9.9.9:3000"), other);
    assert_eq!(world.send(world.outside, at("9.9.9.9:3000"), external).unwrap().1, seen);
}

#[test]
fn ports_are_given_as_specified() {
    let spec = NatSpec { allocation: PortAllocation::Preserving, ..NatSpec::new(EIM, APDF) };
    for (contention, second) in
        [(Contention::Next, Some(4001)), (Contention::Random, None), (Contention::Overload, Some(4000))]
    {
        let mut world = World::new(NatSpec { contention, ..spec });
        assert_eq!(world.external(0, OUTSIDE).port(), 4000);
        let other = world.external(1, OUTSIDE).port();
        assert_eq!((second.unwrap_or(other), other != 4000), (other, contention != Contention::Overload));
        let first = world.send(world.outside, at(OUTSIDE), at("5.5.5.1:4000")).unwrap().0;
        assert_eq!(first == world.inside[0], contention != Contention::Overload);
    }
    let spec = NatSpec { allocation: PortAllocation::Sequential, step: 2, ..NatSpec::new(APDM, APDF) };
    let ports = |world: &mut World| {
        [1000, 1001, 1002].map(|port| world.external(0, &format!("9.9.9.9:{port}")).port())
    };
    assert_eq!(ports(&mut World::new(spec)), [20_000, 20_002, 20_004]);
    let [first, second, third] = ports(&mut World::new(NatSpec { noise: 20, ..spec }));
    let jumps = [(second - first) / 2, (third - second) / 2];
    assert!(jumps.iter().all(|jump| (8..40).contains(jump)), "some 20 others in a second: {jumps:?}");
}

#[test]
fn external_addresses_are_pooled() {
    let externals: Vec<_> = (1..=8).map(|n| ip(&format!("5.5.5.{n}"))).collect();
    for (pooling, several) in [(Pooling::Paired, false), (Pooling::Arbitrary, true)] {
        let mut world = World::with(2, Nat::new(NatSpec { pooling, ..NatSpec::new(APDM, APDF) }, &externals));
        let mut seen: Vec<_> =
            (1..=20).map(|port| world.external(0, &format!("9.9.9.9:{port}")).ip()).collect();
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len() > 1, several, "{pooling:?}: {seen:?}");
    }
}

#[test]
fn hairpins_come_back_as_specified() {
    for hairpin in [Hairpin::None, Hairpin::ExternalSource, Hairpin::InternalSource] {
        let mut world = World::new(NatSpec { hairpin, ..NatSpec::new(EIM, EIF) });
        let (one, other) = (world.external(0, OUTSIDE), world.external(1, OUTSIDE));
        let came = world.send(world.inside[0], at(INSIDE[0]), other);
        let source = if hairpin == Hairpin::ExternalSource { one } else { at(INSIDE[0]) };
        let expected = (hairpin != Hairpin::None).then_some((world.inside[1], source, at(INSIDE[1])));
        assert_eq!(came, expected, "{hairpin:?}");
    }
    // The filter is for them too.
    let mut world = World::new(NatSpec::new(EIM, APDF));
    let (_, other) = (world.external(0, OUTSIDE), world.external(1, OUTSIDE));
    assert_eq!(world.send(world.inside[0], at(INSIDE[0]), other), None);
}

#[test]
fn mappings_end_when_their_time_is_over() {
    let idle = |refresh, absolute| {
        let lifetimes = Lifetimes { idle: secs(30), refresh, absolute, ..Lifetimes::default() };
        World::new(NatSpec { lifetimes, ..NatSpec::new(EIM, APDF) })
    };
    for (refresh, inbound_keeps) in [(Refresh::Outbound, false), (Refresh::Both, true)] {
        let mut world = idle(refresh, None);
        let external = world.external(0, OUTSIDE);
        for _ in 0..10 {
            world.pass(secs(20));
            assert_eq!(world.external(0, OUTSIDE), external, "what leaves keeps it");
        }
        world.pass(secs(20));
        assert!(world.send(world.outside, at(OUTSIDE), external).is_some());
        world.pass(secs(20));
        assert_eq!(world.send(world.outside, at(OUTSIDE), external).is_some(), inbound_keeps, "{refresh:?}");
        world.pass(secs(31));
        assert_eq!(world.send(world.outside, at(OUTSIDE), external), None);
        assert_ne!(world.external(0, OUTSIDE), external);
    }
    let mut world = idle(Refresh::Both, Some(secs(100)));
    let external = world.external(0, OUTSIDE);
    for n in 0..12 {
        world.pass(secs(9));
        assert_eq!(world.external(0, OUTSIDE) == external, n < 9, "after {} s", 10 * n + 10);
        if n == 9 {
            break;
        }
    }
}

#[test]
fn a_nat_that_reboots_or_is_renumbered_forgets() {
    let mut world = World::new(NatSpec::new(EIM, EIF));
    let external = world.external(0, OUTSIDE);
    world.network.nat_mut(world.nat).reboot();
    assert_eq!(world.send(world.outside, at(OUTSIDE), external), None);
    world.network.nat_mut(world.nat).renumber(&[ip("5.5.5.2")]);
    let external = world.external(0, OUTSIDE);
    assert_eq!(external.ip(), ip("5.5.5.2"));
    assert!(world.send(world.outside, at(OUTSIDE), external).is_some());
}

#[test]
fn a_home_nat_behind_a_carriers_hairpins_there() {
    let mut network = Network::new(3);
    let nat = |external: &str| Middlebox::Nat(Nat::new(NatSpec::new(EIM, EIF), &[ip(external)]));
    let cgn = network.add_box(nat("5.5.5.1"), None, link());
    let homes =
        ["100.64.0.2", "100.64.0.3"].map(|external| network.add_box(nat(external), Some(cgn), link()));
    let inside = homes.map(|home| network.add_host(&[ip("192.168.1.2")], Some(home), link()));
    let outside = network.add_host(&[ip("9.9.9.9")], None, link());
    let mut world = World { network, nat: cgn, inside, outside };
    let local = at("192.168.1.2:4000");
    let externals = inside.map(|host| world.send(host, local, at(OUTSIDE)).unwrap().1);
    assert!(externals.iter().all(|external| external.ip() == ip("5.5.5.1")));
    let came = world.send(inside[0], local, externals[1]).unwrap();
    assert_eq!(came, (inside[1], externals[0], local));
    // What is private at the carrier's is reached there, and not from outside.
    assert!(world.send(outside, at(OUTSIDE), at("100.64.0.2:4000")).is_none());
}

#[test]
fn links_lose_double_and_bound_what_they_carry() {
    let mut world = World::new(NatSpec::new(EIM, EIF));
    let (host, local) = (world.inside[0], at(INSIDE[0]));
    world.network.set_link(host, Link { mtu: 1280, ..link() });
    for (len, arrives) in [(1252, true), (1253, false)] {
        world.network.send(host, Packet::udp(local, at(OUTSIDE), vec![0; len]));
        assert_eq!(!world.arrivals().is_empty(), arrives, "{len}");
    }
    world.network.set_link(host, Link { loss: 0.3, duplication: 0.3, jitter: secs(1) / 2, ..link() });
    for n in 0..1000_u32 {
        world.network.send(host, Packet::udp(local, at(OUTSIDE), n.to_be_bytes().to_vec()));
    }
    let came: Vec<_> = world
        .arrivals()
        .into_iter()
        .map(|(_, arrival)| match arrival {
            Arrival::Datagram(packet) => packet.payload,
            Arrival::Stream(..) => panic!("there is no TCP"),
        })
        .collect();
    assert!((850..970).contains(&came.len()), "0.7 of them, 1.3 times: {}", came.len());
    assert!(!came.is_sorted());
}

#[test]
fn firewalls_let_out_what_they_are_told_to() {
    let run = |spec: FirewallSpec| {
        let mut network = Network::new(4);
        let wall = network.add_box(Middlebox::Firewall(Firewall::new(spec)), None, link());
        let inside = INSIDE.map(|local| network.add_host(&[at(local).ip()], Some(wall), link()));
        let outside = network.add_host(&[at(OUTSIDE).ip()], None, link());
        World { network, nat: wall, inside, outside }
    };
    let mut world = run(FirewallSpec::stateful(APDF));
    let [inside, outside] = [at(INSIDE[0]), at(OUTSIDE)];
    assert_eq!(world.send(world.outside, outside, inside), None);
    assert_eq!(world.send(world.inside[0], inside, outside), Some((world.outside, inside, outside)));
    assert!(world.send(world.outside, outside, inside).is_some());
    assert_eq!(world.send(world.outside, at("9.9.9.9:1001"), inside), None);
    let proxy = at("9.9.9.9:3128");
    for (tcp, ports) in [(TcpPolicy::All, 3), (TcpPolicy::Port(443), 1), (TcpPolicy::Only(proxy), 1)] {
        let mut world = run(FirewallSpec::tcp_only(tcp));
        assert_eq!(world.send(world.inside[0], inside, outside), None, "{tcp:?}");
        let mut connected = 0;
        for to in [at("9.9.9.9:443"), at("9.9.9.9:80"), proxy] {
            world.network.listen(world.outside, to, true);
            let id = world.network.connect(world.inside[0], inside, to, Transport::Tcp).unwrap();
            let events = world.arrivals();
            connected +=
                usize::from(events.contains(&(world.inside[0], Arrival::Stream(id, StreamEvent::Connected))));
        }
        assert_eq!(connected, ports, "{tcp:?}");
    }
}

#[test]
fn a_nat64_translates_what_has_its_prefix() {
    let prefix: Nat64Prefix = "64:ff9b::/96".parse().unwrap();
    let mut network = Network::new(5);
    let nat64 = Box::new(DualStack {
        prefix: Some(prefix),
        nat: Nat::new(NatSpec::new(EIM, APDF), &[ip("5.5.5.1")]),
        native: Firewall::new(FirewallSpec::stateful(APDF)),
    });
    let nat = network.add_box(Middlebox::DualStack(nat64), None, link());
    let inside = ["2001:db8::2", "2001:db8::3"].map(|own| network.add_host(&[ip(own)], Some(nat), link()));
    let outside = network.add_host(&[ip("9.9.9.9"), ip("2a00::9")], None, link());
    let mut world = World { network, nat, inside, outside };
    let (local, synthesised) = (at("[2001:db8::2]:4000"), at("[64:ff9b::909:909]:1000"));
    let (host, from, to) = world.send(inside[0], local, synthesised).unwrap();
    assert_eq!((host, from.ip(), to), (outside, ip("5.5.5.1"), at(OUTSIDE)));
    assert_eq!(world.send(outside, at(OUTSIDE), from), Some((inside[0], synthesised, local)));
    assert_eq!(world.send(outside, at("9.9.9.9:1001"), from), None);
    // IPv6 is not translated, but firewalled.
    let native = at("[2a00::9]:1000");
    assert_eq!(world.send(outside, native, local), None);
    assert_eq!(world.send(inside[0], local, native), Some((outside, local, native)));
    assert_eq!(world.send(outside, native, local), Some((inside[0], native, local)));
}

/// What happened to the connections of each host.
fn streams(world: &mut World, time: Duration) -> Vec<(HostId, StreamEvent)> {
    let until = world.network.now() + time;
    std::iter::from_fn(|| world.network.advance(until))
        .filter_map(|(host, arrival)| match arrival {
            Arrival::Stream(_, event) => Some((host, event)),
            Arrival::Datagram(_) => None,
        })
        .collect()
}

#[test]
fn streams_carry_frames_in_order_over_bad_links() {
    let mut world = World::new(NatSpec::new(APDM, APDF));
    let bad = Link { loss: 0.2, duplication: 0.1, jitter: Duration::from_millis(50), ..link() };
    world.network.set_link(world.inside[0], bad);
    world.network.listen(world.outside, at(OUTSIDE), true);
    let id = world.network.connect(world.inside[0], at(INSIDE[0]), at(OUTSIDE), Transport::Tcp).unwrap();
    let frames: Vec<_> = (0..200_u32).map(|n| n.to_be_bytes().to_vec()).collect();
    frames.iter().for_each(|frame| world.network.write(id, frame.clone()));
    world.network.close(id);
    // It was closed before it was there.
    assert_eq!(streams(&mut world, secs(60)), []);
    let id = world.network.connect(world.inside[0], at(INSIDE[0]), at(OUTSIDE), Transport::Tcp).unwrap();
    frames.iter().for_each(|frame| world.network.write(id, frame.clone()));
    let mut events = streams(&mut world, secs(60));
    world.network.close(id);
    events.extend(streams(&mut world, secs(60)));
    let came = events.iter().filter(|(host, _)| *host == world.outside).map(|(_, event)| event.clone());
    let frames = frames.into_iter().map(StreamEvent::Frame);
    let closed = StreamEvent::Closed("closed by the other side");
    let expected = [StreamEvent::Accepted].into_iter().chain(frames).chain([closed]);
    assert!(came.eq(expected), "{events:?}");
}

#[test]
fn streams_are_refused_reset_and_time_out() {
    let mut world = World::new(NatSpec::new(EIM, APDF));
    let (host, local) = (world.inside[0], at(INSIDE[0]));
    world.network.connect(host, local, at(OUTSIDE), Transport::Tcp).unwrap();
    assert_eq!(streams(&mut world, secs(1)), [(host, StreamEvent::Closed("refused"))]);
    world.network.connect(host, local, at("1.2.3.4:1"), Transport::Tcp).unwrap();
    assert!(world.network.connect(host, local, at("1.2.3.4:1"), Transport::Tcp).is_none(), "there is one");
    assert_eq!(streams(&mut world, secs(120)), []);
    assert_eq!(streams(&mut world, secs(10)), [(host, StreamEvent::Closed("timed out"))]);
    world.network.listen(world.outside, at(OUTSIDE), true);
    world.network.connect(host, local, at(OUTSIDE), Transport::Tcp).unwrap();
    assert_eq!(streams(&mut world, secs(1)).len(), 2);
    world.network.abort_all(world.outside);
    assert_eq!(streams(&mut world, secs(1)), [(host, StreamEvent::Closed("reset"))]);
    // A NAT that has rebooted knows the connection no more.
    let id = world.network.connect(host, local, at(OUTSIDE), Transport::Tcp).unwrap();
    assert_eq!(streams(&mut world, secs(1)).len(), 2);
    world.network.nat_mut(world.nat).reboot();
    world.network.write(id, b"x".to_vec());
    assert_eq!(streams(&mut world, secs(600)), []);
    assert_eq!(streams(&mut world, secs(1800)), [(host, StreamEvent::Closed("timed out"))]);
}

/// Two hosts, each behind a NAT of its own, connect to each other's external endpoint at about the same time.
fn simultaneous_open(specs: [NatSpec; 2], after: Duration) -> Vec<StreamEvent> {
    let mut network = Network::new(6);
    let externals = ["5.5.5.1", "5.5.5.2"].map(ip);
    let locals = ["192.168.1.2:4000", "192.168.2.2:4000"].map(at);
    let mut hosts = Vec::new();
    for (n, spec) in specs.into_iter().enumerate() {
        let nat = network.add_nat(spec, externals[n]);
        hosts.push(network.add_host(&[locals[n].ip()], Some(nat), link()));
    }
    let mut events = Vec::new();
    let mut pass = |network: &mut Network, time| {
        let until = network.now() + time;
        while let Some((_, arrival)) = network.advance(until) {
            if let Arrival::Stream(_, event) = arrival {
                events.push(event);
            }
        }
    };
    let to = |n: usize| SocketAddr::new(externals[n], 4000);
    let first = network.connect(hosts[0], locals[0], to(1), Transport::Tcp).unwrap();
    pass(&mut network, after);
    network.connect(hosts[1], locals[1], to(0), Transport::Tcp).unwrap();
    pass(&mut network, secs(20));
    network.write(first, b"hello".to_vec());
    pass(&mut network, secs(1));
    events
}

#[test]
fn a_simultaneous_open_passes_nats_that_keep_to_rfc_5382() {
    use StreamEvent::{Closed, Connected, Frame};
    let nat = NatSpec { allocation: PortAllocation::Preserving, ..NatSpec::new(EIM, APDF) };
    for millis in [0, 5, 300, 5000] {
        let events = simultaneous_open([nat, nat], Duration::from_millis(millis));
        assert_eq!(events, [Connected, Connected, Frame(b"hello".to_vec())], "{millis} ms");
    }
    let resets = NatSpec { resets: true, ..nat };
    let events = simultaneous_open([nat, resets], secs(1));
    assert!(events.contains(&Closed("refused")) && !events.contains(&Connected), "{events:?}");
    let symmetric = NatSpec::new(APDM, APDF);
    assert_eq!(simultaneous_open([nat, symmetric], Duration::ZERO), []);
}
