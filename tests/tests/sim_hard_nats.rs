//! Hard NATs in the simulated network: how often a direct path is found behind a relayed one, how fast, and at what cost.
#![expect(clippy::unwrap_used, reason = "a test may fail by panicking")]

use std::net::IpAddr;
use std::time::Duration;

use thirl_ice_agent::agent::{AgentConfig, HardNats, PathKind, Role, State};
use thirl_tests::sim::{Filtering, Mapping, NatSpec, Pair, PeerSpec, PortAllocation};

const EIM: Mapping = Mapping::EndpointIndependent;
const ADM: Mapping = Mapping::AddressDependent;
const APDM: Mapping = Mapping::AddressAndPortDependent;
const ADF: Filtering = Filtering::AddressDependent;
const APDF: Filtering = Filtering::AddressAndPortDependent;

type Paths = (Option<PathKind>, Option<PathKind>);
const DIRECT: Paths = (Some(PathKind::Direct), Some(PathKind::Direct));
const RELAYED: Paths = (Some(PathKind::Relayed), Some(PathKind::Relayed));

/// Lets in only whom it was sent to, but has one mapping for all: standard ICE gets through to others of its kind.
fn easy() -> NatSpec {
    NatSpec::new(EIM, APDF)
}

fn random() -> NatSpec {
    NatSpec::new(APDM, APDF)
}

fn sequential() -> NatSpec {
    NatSpec { allocation: PortAllocation::Sequential, ..random() }
}

fn behind(role: Role, nat: NatSpec) -> PeerSpec {
    let number = if role == Role::Controlling { 1 } else { 2 };
    let ip = |text: String| text.parse::<IpAddr>().unwrap();
    let inside = ip(format!("192.168.{number}.2"));
    PeerSpec {
        nat: Some((nat, ip(format!("5.5.5.{number}")))),
        ..PeerSpec::new(AgentConfig::new(role), &[inside])
    }
}

fn peers(a: NatSpec, b: NatSpec) -> [PeerSpec; 2] {
    [behind(Role::Controlling, a), behind(Role::Controlled, b)]
}

/// What is common to some runs.
struct Runs {
    count: u64,
    limit: Duration,
    turn: bool,
    loss: f64,
    /// How long a candidate may be on its way.
    signalling: Duration,
}

impl Default for Runs {
    fn default() -> Self {
        let limit = Duration::from_secs(35);
        Runs { count: 50, limit, turn: true, loss: 0.0, signalling: Duration::from_millis(200) }
    }
}

impl Runs {
    /// Runs them with one seed after another; says how many of a hundred had a direct path in the end, and when half of them
    /// had it.
    fn direct(&self, nats: [NatSpec; 2]) -> (u64, Duration) {
        let mut found = Vec::new();
        for seed in 0..self.count {
            let [mut a, mut b] = peers(nats[0], nats[1]);
            (a.link.loss, b.link.loss) = (self.loss, self.loss);
            let mut pair = Pair::new(seed, a, b, self.turn);
            pair.signalling = (Duration::ZERO, self.signalling);
            pair.start();
            let direct = pair.run_until(self.limit, |pair| pair.paths() == DIRECT);
            if !direct {
                println!("seed {seed}:\n{}\n{}", pair.a.agent.report(), pair.b.agent.report());
                continue;
            }
            found.push(pair.elapsed());
            assert!(self.loss > 0.0 || pair.data_flows(), "seed {seed}: {}", pair.a.agent.report());
        }
        found.sort_unstable();
        let median = found.get(found.len() / 2).copied().unwrap_or(Duration::MAX);
        (100 * found.len() as u64 / self.count, median)
    }
}

/// `least` of a hundred are direct, half of them within `median`.
#[track_caller]
fn assert_direct((percent, found): (u64, Duration), least: u64, median: Duration) {
    println!("{percent} % direct, median {found:?}");
    assert!(percent >= least && found <= median, "{percent} % direct, median {found:?}");
}

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn random_ports_on_one_side() {
    assert_direct(Runs::default().direct([random(), easy()]), 98, 5 * SECOND);
    assert_direct(Runs::default().direct([easy(), random()]), 98, 5 * SECOND);
}

#[test]
fn random_ports_on_one_side_without_a_relay() {
    let runs = Runs { turn: false, ..Runs::default() };
    assert_direct(runs.direct([random(), easy()]), 98, 6 * SECOND);
}

#[test]
fn random_ports_by_address_on_one_side() {
    let by_address = NatSpec { mapping: ADM, ..random() };
    assert_direct(Runs::default().direct([by_address, easy()]), 98, 5 * SECOND);
}

#[test]
fn random_ports_on_one_side_and_every_tenth_packet_lost() {
    let runs = Runs { loss: 0.1, ..Runs::default() };
    assert_direct(runs.direct([random(), easy()]), 95, 7 * SECOND);
}

#[test]
fn random_ports_on_one_side_and_a_peer_that_is_told_late() {
    let runs = Runs { signalling: 3 * SECOND, ..Runs::default() };
    assert_direct(runs.direct([easy(), random()]), 95, 9 * SECOND);
}

#[test]
fn sequential_ports_on_one_side() {
    for turn in [true, false] {
        let runs = Runs { turn, ..Runs::default() };
        assert_direct(runs.direct([sequential(), easy()]), 98, SECOND);
        assert_direct(runs.direct([easy(), sequential()]), 98, SECOND);
    }
    let backwards = NatSpec { step: 2, ..sequential() };
    assert_direct(Runs::default().direct([backwards, easy()]), 98, 3 * SECOND);
}

#[test]
fn sequential_ports_that_others_use_as_well() {
    let busy = NatSpec { noise: 50, ..sequential() };
    assert_direct(Runs::default().direct([busy, easy()]), 95, 6 * SECOND);
}

/// A filter that looks at addresses only lets in what comes from just any port: so its side opens the many.
#[test]
fn random_ports_on_both_sides_one_of_which_filters_by_address() {
    let lenient = NatSpec { filtering: ADF, ..random() };
    let by_address = NatSpec { mapping: ADM, ..lenient };
    for nats in [[lenient, random()], [random(), lenient], [by_address, lenient]] {
        assert_direct(Runs::default().direct(nats), 95, 6 * SECOND);
    }
    assert_direct(Runs::default().direct([sequential(), by_address]), 95, 6 * SECOND);
    let in_sequence = NatSpec { filtering: ADF, ..sequential() };
    assert_direct(Runs::default().direct([random(), in_sequence]), 95, 2 * SECOND);
    let lossy = Runs { loss: 0.1, ..Runs::default() };
    assert_direct(lossy.direct([lenient, random()]), 95, 8 * SECOND);
}

/// The ports of a block are near to each other. What is taken for two sequences turns out to be none.
#[test]
fn random_ports_that_look_like_a_sequence() {
    let of_block = NatSpec { block: Some(128), mapping: ADM, filtering: ADF, ..random() };
    assert_direct(Runs::default().direct([of_block, sequential()]), 95, 6 * SECOND);
    assert_direct(Runs::default().direct([sequential(), of_block]), 95, 6 * SECOND);
}

#[test]
fn sequential_ports_on_both_sides() {
    for turn in [true, false] {
        let runs = Runs { turn, ..Runs::default() };
        assert_direct(runs.direct([sequential(), sequential()]), 98, 4 * SECOND);
    }
    let lossy = Runs { loss: 0.1, ..Runs::default() };
    assert_direct(lossy.direct([sequential(), sequential()]), 95, 6 * SECOND);
}

#[test]
fn sequential_ports_on_both_sides_that_others_use_as_well() {
    let busy = NatSpec { noise: 20, ..sequential() };
    assert_direct(Runs::default().direct([busy, busy]), 95, 8 * SECOND);
}

/// A carrier gives each customer a block of ports, and any of these to each mapping.
#[test]
fn random_ports_of_a_block() {
    for size in [64, 512, 2048] {
        let of_block = NatSpec { block: Some(size), ..random() };
        assert_direct(Runs::default().direct([of_block, easy()]), 98, 3 * SECOND);
    }
}

/// Standard ICE, with a peer that does no more or does more.
#[test]
fn a_peer_that_does_not_know_it_connects_as_before() {
    for nats in [[random(), easy()], [easy(), random()], [sequential(), sequential()]] {
        for unaware in [true, false] {
            let [mut a, b] = peers(nats[0], nats[1]);
            if unaware {
                a.config.hard_nats = HardNats::OFF;
            }
            let mut pair = Pair::new(1, a, b, true);
            pair.start();
            assert!(pair.connect(Duration::from_secs(5)), "{}", pair.a.agent.report());
            pair.run_for(Duration::from_secs(40));
            assert_eq!(pair.paths(), if unaware { RELAYED } else { DIRECT }, "{nats:?}");
            let sent = pair.network.sent;
            if unaware {
                assert!(sent < 600, "{sent} packets are those of ordinary checks");
                let why = pair.b.agent.report().hard_nats.unwrap();
                assert_eq!(why, "no search: the peer does not say that it can");
                assert_eq!(
                    pair.a.agent.report().hard_nats.unwrap(),
                    "no search: it is switched off on this side"
                );
            }
        }
    }
}

#[test]
fn nothing_is_tried_that_cannot_help() {
    let both = "no search: both sides' mappings depend on the destination, not both give out ports in sequence, and no \
                filter is known to let in what comes from any port of the other side";
    for nats in [[random(), random()], [random(), sequential()]] {
        let [a, b] = peers(nats[0], nats[1]);
        let mut pair = Pair::new(2, a, b, true);
        pair.start();
        assert!(pair.connect(Duration::from_secs(5)));
        pair.run_for(Duration::from_secs(40));
        assert_eq!(pair.paths(), RELAYED);
        assert!(pair.network.sent < 900, "{}", pair.network.sent);
        for agent in [&pair.a.agent, &pair.b.agent] {
            assert_eq!(agent.report().hard_nats.as_deref(), Some(both));
        }
    }
    // Where ordinary checks get through nobody hears of it.
    let [a, b] = peers(random(), NatSpec { filtering: ADF, ..easy() });
    let mut pair = Pair::new(2, a, b, true);
    pair.start();
    pair.run_for(Duration::from_secs(10));
    assert_eq!((pair.paths(), pair.a.agent.report().hard_nats), (DIRECT, None));
    assert!(pair.network.sent < 400, "{}", pair.network.sent);
}

#[test]
fn sockets_are_given_back() {
    let [a, b] = peers(random(), easy());
    let mut pair = Pair::new(3, a, b, true);
    pair.start();
    assert!(pair.connect(Duration::from_secs(5)));
    let mut most = 0;
    for _ in 0..400 {
        pair.run_for(Duration::from_millis(100));
        most = most.max(pair.a.open_sockets());
    }
    assert_eq!(pair.paths(), DIRECT);
    assert!(most <= 1 + 256, "{most}");
    assert!(pair.a.open_sockets() <= 3, "{} sockets are left", pair.a.open_sockets());
    assert_eq!(pair.b.open_sockets(), 1);
}

/// Both sides send a datagram every 20 ms all the time, over the relay as soon as that works, and directly later. None is lost.
#[test]
fn nothing_is_lost_on_the_way_from_the_relay_to_a_direct_path() {
    let sides = [[random(), easy()], [easy(), random()], [sequential(), sequential()]];
    for (seed, nats) in sides.into_iter().cycle().take(12).enumerate() {
        let [a, b] = peers(nats[0], nats[1]);
        let mut pair = Pair::new(seed as u64, a, b, true);
        pair.start();
        let works = |state| matches!(state, State::Connected | State::Completed);
        assert!(pair.run_until(Duration::from_secs(5), |pair| {
            works(pair.a.agent.state()) && works(pair.b.agent.state())
        }));
        let first = pair.elapsed();
        assert!(first < Duration::from_millis(500), "data can flow after {first:?}");
        let mut sent = 0u32;
        while pair.paths() != DIRECT || sent < 500 {
            assert!(sent < 2000, "{nats:?}: {}", pair.a.agent.report());
            let now = pair.network.now();
            pair.a.agent.send(now, &sent.to_be_bytes()).unwrap();
            pair.b.agent.send(now, &sent.to_be_bytes()).unwrap();
            sent += 1;
            pair.run_for(Duration::from_millis(20));
        }
        pair.run_for(Duration::from_secs(1));
        for peer in [&pair.a, &pair.b] {
            let mut got: Vec<_> = peer.received.iter().map(|(data, _)| data.clone()).collect();
            got.sort_unstable();
            let all: Vec<_> = (0..sent).map(|number| number.to_be_bytes().to_vec()).collect();
            assert_eq!(got, all, "seed {seed}");
            let ways = [PathKind::Relayed, PathKind::Direct];
            assert!(ways.iter().all(|way| peer.received.iter().any(|(_, came)| came == way)), "seed {seed}");
        }
    }
}

/// A restart finds the direct path that there is at once, since the socket on which it was found is still there.
#[test]
fn a_restart_keeps_what_was_found() {
    let [a, b] = peers(random(), easy());
    let mut pair = Pair::new(4, a, b, true);
    pair.start();
    assert!(pair.run_until(Duration::from_secs(35), |pair| pair.paths() == DIRECT));
    pair.run_for(Duration::from_secs(5));
    let sent = pair.network.sent;
    pair.restart(thirl_tests::sim::Side::A);
    pair.run_for(Duration::from_secs(5));
    assert_eq!(pair.paths(), DIRECT, "{}", pair.a.agent.report());
    assert!(pair.network.sent - sent < 300, "{} packets", pair.network.sent - sent);
    assert!(pair.data_flows());
}
