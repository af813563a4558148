//! The TURN client of the agent in the simulated network: several ways to one server, several servers, and what becomes of an
//! allocation whose server, socket or credentials go. In virtual time.
#![expect(clippy::unwrap_used, reason = "a test may fail by panicking")]

use std::net::SocketAddr;
use std::time::Duration;

use thirl_common::net::Transport;
use thirl_common::uri::Host;
use thirl_ice_agent::agent::{AgentConfig, HardNats, PathKind, Policy, Role, State, TurnServer};
use thirl_ice_agent::candidate::CandidateKind;
use thirl_ice_agent::turn::TurnCredentials;
use thirl_tests::sim::{Filtering, Mapping, NatSpec, Pair, PeerSpec, Side};

/// The servers of the simulation.
const FIRST: &str = "9.9.9.10:3478";
const SECOND: &str = "9.9.9.11:3478";

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn server(address: &str, transport: Transport) -> TurnServer {
    let credentials = TurnCredentials::password("user", "secret");
    TurnServer { address: address.parse().unwrap(), host: None, transport, credentials }
}

/// A host behind a NAT of its own that uses relays alone, with these ways to them.
fn peer(role: Role, number: u8, turn: &[(&str, Transport)]) -> PeerSpec {
    let mut config = AgentConfig::new(role);
    config.policy = Policy::Relay;
    config.turn = turn.iter().map(|(address, transport)| server(address, *transport)).collect();
    let nat = NatSpec::new(Mapping::EndpointIndependent, Filtering::AddressAndPortDependent);
    let spec = PeerSpec::new(config, &[[192, 168, number, 2].into()]);
    PeerSpec { nat: Some((nat, [5, 5, 5, number].into())), ..spec }
}

fn pair(turn: &[(&str, Transport)]) -> Pair {
    Pair::new(1, peer(Role::Controlling, 1, turn), peer(Role::Controlled, 2, turn), false)
}

const THREE_WAYS: &[(&str, Transport)] =
    &[(FIRST, Transport::Tls), (FIRST, Transport::Udp), (FIRST, Transport::Tcp)];

fn relayed(pair: &Pair) -> Vec<String> {
    let relayed =
        pair.a.agent.local_candidates().filter(|candidate| candidate.kind == CandidateKind::Relayed);
    relayed.map(|candidate| candidate.address.to_string()).collect()
}

#[test]
fn of_three_ways_to_one_server_udp_is_enough() {
    let mut pair = pair(THREE_WAYS);
    pair.start();
    assert!(pair.connect(ms(1000)), "{}", pair.a.agent.report());
    pair.run_for(Duration::from_secs(5));
    assert_eq!((relayed(&pair).len(), pair.a.connects.as_slice()), (1, &[][..]));
    assert_eq!(pair.servers[0].allocations(), 2);
}

#[test]
fn a_stream_is_tried_when_udp_does_not_answer_and_the_next_only_after_that() {
    let mut pair = pair(THREE_WAYS);
    pair.servers[0].udp_blocked = true;
    pair.start();
    assert!(pair.connect(ms(1500)), "{}", pair.a.agent.report());
    pair.run_for(Duration::from_secs(5));
    // In the order of the servers, but UDP first. Over TLS there are the same frames in the simulation.
    assert_eq!(pair.a.connects, [(ms(500), Transport::Tls)]);
    assert_eq!(relayed(&pair).len(), 1);
}

#[test]
fn a_dead_server_does_not_delay_the_other() {
    for dead in [0, 1] {
        let mut pair = pair(&[(FIRST, Transport::Udp), (SECOND, Transport::Udp)]);
        pair.servers[dead].down = true;
        pair.start();
        assert!(pair.connect(ms(600)), "{dead}: {}", pair.a.agent.report());
        assert!(pair.data_flows());
    }
}

#[test]
fn one_address_for_stun_and_turn_gives_a_reflexive_candidate_too() {
    for ways in [&[(FIRST, Transport::Udp)][..], &[(FIRST, Transport::Tcp)], THREE_WAYS] {
        let mut a = peer(Role::Controlling, 1, ways);
        a.config.policy = Policy::All;
        // Nothing is told on a guess.
        a.config.hard_nats = HardNats::OFF;
        let mut pair = Pair::new(1, a, peer(Role::Controlled, 2, ways), false);
        pair.servers[1].down = true;
        pair.start();
        pair.run_for(ms(300));
        let kinds: Vec<_> = pair.a.agent.local_candidates().map(|candidate| candidate.kind).collect();
        let count = |kind| kinds.iter().filter(|known| **known == kind).count();
        assert_eq!(count(CandidateKind::ServerReflexive), 1, "{kinds:?}");
        assert_eq!(count(CandidateKind::Relayed), 1, "{kinds:?}");
    }
}

#[test]
fn both_families_of_an_allocation_are_candidates() {
    let mut pair = pair(&[(FIRST, Transport::Udp)]);
    pair.servers[0].relays_ipv6 = true;
    pair.start();
    assert!(pair.connect(ms(1000)), "{}", pair.a.agent.report());
    assert!(pair.data_flows());
    let candidates = relayed(&pair);
    let families: Vec<_> = candidates.iter().map(|address| address.parse::<SocketAddr>().is_ok()).collect();
    assert_eq!(candidates.len(), 2, "{candidates:?} {families:?}");
    assert_eq!(pair.servers[0].allocations(), 2, "one for each side");
    // Over IPv6 data flows as well.
    let locals: Vec<_> = pair.a.agent.report().pairs.iter().map(|pair| pair.local.address.clone()).collect();
    assert!(locals.iter().any(|local| local.contains("2a00::10")), "{locals:?}");
    pair.run_for(Duration::from_secs(700));
    assert!(pair.data_flows(), "refreshed");
}

/// A stream is asked for once; that nobody takes it, it learns after ten seconds.
#[test]
fn a_relay_that_comes_back_while_both_sides_connect_is_used() {
    let spec = |role, number| {
        let mut spec = peer(role, number, &[(FIRST, Transport::Tcp)]);
        spec.config.policy = Policy::All;
        spec.config.hard_nats = HardNats::OFF;
        let nat = NatSpec::new(Mapping::AddressAndPortDependent, Filtering::AddressAndPortDependent);
        PeerSpec { nat: Some((nat, [5, 5, 5, number].into())), ..spec }
    };
    let mut pair = Pair::new(1, spec(Role::Controlling, 1), spec(Role::Controlled, 2), false);
    let server = pair.servers[0].host();
    pair.network.set_down(server, true);
    pair.start();
    pair.run_for(Duration::from_secs(12));
    assert!(relayed(&pair).is_empty());
    pair.network.set_down(server, false);
    assert!(pair.connect(Duration::from_secs(20)), "{}", pair.a.agent.report());
    assert!(pair.data_flows());
}

#[test]
fn a_relay_that_restarts_is_used_again() {
    for transport in [Transport::Udp, Transport::Tcp] {
        let mut pair = pair(&[(FIRST, transport)]);
        pair.start();
        assert!(pair.connect(ms(1000)), "{}", pair.a.agent.report());
        pair.servers[0].restart();
        pair.run_for(ms(100));
        assert!(!pair.data_flows(), "the relay knows nothing of them");
        pair.run_for(Duration::from_secs(25));
        let report = pair.a.agent.report();
        assert!(pair.data_flows(), "{transport}: {report}\n{}", pair.b.agent.report());
        assert_eq!(pair.a.agent.state(), State::Completed, "{transport}: {report}");
        assert_eq!(pair.servers[0].allocations(), 2);
    }
}

#[test]
fn a_connection_that_a_nat_has_forgotten_is_found_out_while_the_peer_restarts() {
    for side in [Side::A, Side::B] {
        let mut pair = pair(&[(FIRST, Transport::Tcp)]);
        pair.start();
        assert!(pair.connect(ms(1000)), "{}", pair.a.agent.report());
        pair.run_for(Duration::from_secs(20));
        // Nobody resets the connection: what is written to it is just not answered.
        let nat = pair.peer(side).nat.unwrap();
        pair.network.nat_mut(nat).reboot();
        // The other side sees no more than silence, and restarts again and again. A request over TCP is waited for as long as
        // 39.5 s (RFC 8489, section 6.2.2).
        for _ in 0..4 {
            pair.restart(side.other());
            pair.run_for(Duration::from_secs(20));
        }
        assert!(pair.data_flows(), "{side:?}: {}\n{}", pair.a.agent.report(), pair.b.agent.report());
    }
}

#[test]
fn new_credentials_make_another_allocation_while_the_old_one_lives() {
    for transport in [Transport::Udp, Transport::Tcp] {
        let mut pair = pair(&[(FIRST, transport)]);
        pair.servers[0].restart_with(&[("user", "secret"), ("user2", "secret2")]);
        pair.start();
        assert!(pair.connect(ms(1000)), "{}", pair.a.agent.report());
        let before = relayed(&pair);
        let now = pair.network.now();
        let host = Host::Ip(FIRST.parse::<SocketAddr>().unwrap().ip());
        pair.a.agent.set_turn_credentials(now, &host, &TurnCredentials::password("user2", "secret2"));
        for _ in 0..20 {
            assert!(pair.data_flows(), "{transport}");
            pair.run_for(ms(100));
        }
        let both = relayed(&pair);
        assert_eq!((both.len(), both[0].as_str()), (2, before[0].as_str()), "{both:?}");
        assert_eq!(pair.servers[0].allocations(), 3);
        assert_eq!(pair.paths(), (Some(PathKind::Relayed), Some(PathKind::Relayed)));
    }
}

#[test]
fn an_allocation_moves_when_its_socket_is_gone() {
    let mut pair = pair(&[(FIRST, Transport::Udp)]);
    pair.start();
    assert!(pair.connect(ms(1000)), "{}", pair.a.agent.report());
    let before = relayed(&pair);
    pair.lose_sockets(Side::A);
    pair.run_for(ms(200));
    assert!(pair.data_flows(), "{}", pair.a.agent.report());
    assert_eq!(relayed(&pair), before);
    assert_eq!(pair.a.connects.iter().map(|(_, transport)| *transport).collect::<Vec<_>>(), [Transport::Udp]);
    assert_eq!((pair.servers[0].allocations(), pair.a.agent.state()), (2, State::Completed));
    pair.run_for(Duration::from_secs(700));
    assert!(pair.data_flows(), "refreshed from there");
}
