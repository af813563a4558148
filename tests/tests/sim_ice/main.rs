//! The ICE agent in the simulated network: who connects, over what, and how fast, in virtual time.
#![expect(clippy::unwrap_used, reason = "a test may fail by panicking")]

mod kept;
mod trickle;

use std::net::IpAddr;
use std::time::Duration;

use proptest::prelude::*;
use thirl_common::net::Transport;
use thirl_ice_agent::agent::{AgentConfig, HardNats, PathKind, Policy, Role, State};
use thirl_ice_agent::candidate::{Candidate, CandidateKind, ComponentId};
use thirl_tests::sim::{Filtering, Link, Mapping, NatSpec, Packet, Pair, PeerSpec, PortAllocation};

const EIM: Mapping = Mapping::EndpointIndependent;
const ADM: Mapping = Mapping::AddressDependent;
const APDM: Mapping = Mapping::AddressAndPortDependent;
const EIF: Filtering = Filtering::EndpointIndependent;
const ADF: Filtering = Filtering::AddressDependent;
const APDF: Filtering = Filtering::AddressAndPortDependent;

const DIRECT: (Option<PathKind>, Option<PathKind>) = (Some(PathKind::Direct), Some(PathKind::Direct));
const RELAYED: (Option<PathKind>, Option<PathKind>) = (Some(PathKind::Relayed), Some(PathKind::Relayed));

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn link() -> Link {
    Link::delayed(ms(10))
}

/// A host on the open network.
fn open(role: Role, address: &str) -> PeerSpec {
    let config = AgentConfig::new(role);
    PeerSpec::new(config, &[ip(address)])
}

/// A host behind a NAT of its own.
fn behind(role: Role, nat: NatSpec, number: u8) -> PeerSpec {
    let mut spec = open(role, &format!("192.168.{number}.2"));
    spec.nat = Some((nat, ip(&format!("5.5.5.{number}"))));
    spec
}

fn both_behind(seed: u64, a: NatSpec, b: NatSpec, turn: bool) -> Pair {
    let mut pair = Pair::new(seed, behind(Role::Controlling, a, 1), behind(Role::Controlled, b, 2), turn);
    pair.start();
    pair
}

fn open_pair(seed: u64) -> Pair {
    Pair::new(seed, open(Role::Controlling, "5.5.5.1"), open(Role::Controlled, "5.5.5.2"), false)
}

/// Whether a standard punch works: whether a packet of one side's gets in where the other told. The answer goes back by there.
fn direct_is_possible(a: NatSpec, b: NatSpec) -> bool {
    let gets_in = |from: NatSpec, to: NatSpec| match to.filtering {
        EIF => true,
        // The other side must have sent to this address from the mapping that it told ...
        ADF => to.mapping == EIM,
        // ... and to this port, which it knows only if it does not depend on the destination.
        APDF => to.mapping == EIM && from.mapping == EIM,
    };
    gets_in(a, b) || gets_in(b, a)
}

#[test]
fn every_pair_of_nats_connects_directly_where_that_is_possible() {
    let nats: Vec<NatSpec> = [EIM, ADM, APDM]
        .into_iter()
        .flat_map(|mapping| [EIF, ADF, APDF].map(|filtering| NatSpec::new(mapping, filtering)))
        .collect();
    for (i, &a) in nats.iter().enumerate() {
        for (j, &b) in nats.iter().enumerate() {
            let [mut a_side, mut b_side] = [behind(Role::Controlling, a, 1), behind(Role::Controlled, b, 2)];
            a_side.config.hard_nats = HardNats::OFF;
            b_side.config.hard_nats = HardNats::OFF;
            let mut pair = Pair::new((i * 9 + j) as u64, a_side, b_side, true);
            pair.start();
            assert!(pair.connect(Duration::from_secs(10)), "{a:?} {b:?}: {}", pair.a.agent.report());
            pair.run_for(Duration::from_secs(5));
            let expected = if direct_is_possible(a, b) { DIRECT } else { RELAYED };
            assert_eq!(pair.paths(), expected, "{a:?} {b:?}:\n{}", pair.a.agent.report());
            assert!(pair.data_flows(), "{a:?} {b:?}");
        }
    }
}

#[test]
fn two_symmetric_nats_without_a_relay_fail_and_say_why() {
    let nat = NatSpec::new(APDM, APDF);
    let mut pair = both_behind(1, nat, nat, false);
    pair.a.agent.set_remote_hint(pair.network.now(), true);
    assert!(
        pair.run_until(Duration::from_secs(100), |pair| pair.a.failure.is_some() && pair.b.failure.is_some())
    );
    assert!(pair.elapsed() > Duration::from_secs(39), "{:?}", pair.elapsed());
    let report = pair.a.failure.clone().unwrap();
    assert_eq!(report.why_not_direct, ["both sides: mapping depends on destination"]);
    let words = report.to_string();
    assert!(words.starts_with("not connected: no candidate pair works"), "{words}");
    assert_eq!(pair.a.agent.poll_timeout(), None, "a failed agent rests");
}

#[test]
fn with_udp_blocked_a_relay_over_tcp_is_the_way() {
    let blocked = NatSpec { blocks_udp: true, ..NatSpec::new(EIM, EIF) };
    for other in [NatSpec::new(EIM, EIF), NatSpec::new(APDM, APDF), blocked] {
        let mut a = behind(Role::Controlling, blocked, 1);
        let mut b = behind(Role::Controlled, other, 2);
        a.turn = Transport::Tcp;
        b.turn = Transport::Tcp;
        let mut pair = Pair::new(2, a, b, true);
        pair.start();
        assert!(pair.connect(Duration::from_secs(5)), "{other:?}:\n{}", pair.a.agent.report());
        assert_eq!(pair.paths(), RELAYED, "{other:?}");
        assert!(pair.data_flows(), "{other:?}");
        pair.run_for(Duration::from_secs(1200));
        assert!(pair.data_flows(), "permissions, channels and allocations are refreshed");
        assert_eq!(pair.a.agent.is_udp_blocked(), Some(true));
        assert_eq!(pair.b.agent.is_udp_blocked(), Some(other.blocks_udp));
    }
}

#[test]
fn with_udp_blocked_and_no_relay_over_tcp_the_report_says_so() {
    let blocked = NatSpec { blocks_udp: true, ..NatSpec::new(EIM, EIF) };
    let mut pair = both_behind(2, blocked, NatSpec::new(EIM, EIF), true);
    assert!(pair.run_until(Duration::from_secs(100), |pair| pair.a.failure.is_some()));
    let why = pair.a.failure.clone().unwrap().why_not_direct;
    assert!(why.iter().any(|why| why.contains("UDP")), "{why:?}");
}

#[test]
fn the_mapping_hint_is_right() {
    for (mapping, hint) in [(EIM, Some(false)), (ADM, Some(true)), (APDM, Some(true))] {
        let mut pair = both_behind(3, NatSpec::new(mapping, EIF), NatSpec::new(EIM, EIF), false);
        pair.run_for(Duration::from_secs(1));
        assert_eq!(pair.a.agent.local_nat_hint(), hint, "{mapping:?}");
    }
    let preserving = NatSpec { allocation: PortAllocation::Preserving, ..NatSpec::new(EIM, APDF) };
    let mut pair = both_behind(3, preserving, preserving, false);
    assert!(pair.connect(Duration::from_secs(2)));
    assert_eq!(pair.paths(), DIRECT);
}

#[test]
fn relay_policy_tells_no_address_of_the_host() {
    let nat = NatSpec::new(EIM, EIF);
    let mut a = behind(Role::Controlling, nat, 1);
    a.config.policy = Policy::Relay;
    let mut pair = Pair::new(4, a, behind(Role::Controlled, nat, 2), true);
    pair.start();
    assert!(pair.connect(Duration::from_secs(5)));
    assert_eq!(pair.paths(), RELAYED);
    assert!(pair.a.agent.local_candidates().all(|candidate| candidate.kind == CandidateKind::Relayed));
    assert!(pair.data_flows());
    let selected = pair.a.agent.selected().unwrap();
    assert_eq!(selected.relay, Some(pair.servers[0].address()));
    // Closing gives the allocations back.
    let now = pair.network.now();
    pair.a.agent.close(now);
    pair.b.agent.close(now);
    assert!(pair.run_until(Duration::from_secs(1), |pair| pair.servers[0].allocations() == 0));
}

#[test]
fn peers_on_one_lan_take_the_lan() {
    let nat = NatSpec::new(APDM, APDF);
    let a = behind(Role::Controlling, nat, 1);
    let mut b = behind(Role::Controlled, nat, 1);
    b.addresses = vec![ip("192.168.1.3")];
    let mut pair = Pair::new(5, a, b, true);
    pair.b.nat = pair.a.nat;
    pair.network.move_host(pair.b.host, pair.a.nat);
    pair.start();
    assert!(pair.connect(Duration::from_secs(2)));
    assert_eq!(pair.paths(), DIRECT);
    assert_eq!(pair.a.agent.selected().unwrap().remote.kind, CandidateKind::Host);
}

#[test]
fn equal_roles_are_settled() {
    for role in [Role::Controlling, Role::Controlled] {
        for seed in 0..20 {
            let mut pair = Pair::new(seed, open(role, "5.5.5.1"), open(role, "5.5.5.2"), false);
            pair.start();
            assert!(pair.connect(Duration::from_secs(5)), "{role:?} {seed}");
            assert_ne!(pair.a.agent.role(), pair.b.agent.role());
            assert!(pair.data_flows());
        }
    }
}

/// Two streams, the first with two components.
fn with_streams(mut spec: PeerSpec) -> PeerSpec {
    spec.config.streams = vec![2, 1];
    spec
}

fn components() -> [ComponentId; 3] {
    let second = ComponentId::new(2).unwrap();
    [ComponentId::ONE, second, ComponentId::ONE.in_stream(1)]
}

#[test]
fn each_component_of_each_stream_gets_a_path_of_its_own() {
    for (nat, expected) in [(NatSpec::new(EIM, APDF), DIRECT), (NatSpec::new(APDM, APDF), RELAYED)] {
        let a = with_streams(behind(Role::Controlling, nat, 1));
        let b = with_streams(behind(Role::Controlled, nat, 2));
        let mut pair = Pair::new(20, a, b, true);
        pair.start();
        assert!(pair.connect(Duration::from_secs(10)), "{}", pair.a.agent.report());
        for component in components() {
            let ours = pair.a.agent.selected_on(component).unwrap();
            assert_eq!(ours.component, component);
            assert_eq!(Some(ours.path), expected.0, "{component:?}");
            assert_eq!((ours.local.component, ours.remote.component), (component, component));
            assert!(pair.data_flows_on(component), "{component:?}");
        }
        let foundations = |component| {
            let of_it = pair.a.agent.local_candidates().filter(move |known| known.component == component);
            of_it.map(|known| known.foundation.clone()).collect::<Vec<_>>()
        };
        for component in components() {
            assert_eq!(foundations(component), foundations(ComponentId::ONE), "{component:?}");
        }
        pair.run_for(Duration::from_secs(60));
        assert!(components().into_iter().all(|component| pair.data_flows_on(component)));
        let now = pair.network.now();
        assert!(pair.a.agent.send_on(now, ComponentId::new(3).unwrap(), b"x").is_err());
    }
}

#[test]
fn a_stream_without_an_answer_fails_and_the_others_go_on() {
    let mut b = with_streams(open(Role::Controlled, "5.5.5.2"));
    b.config.streams = vec![2];
    let a = with_streams(open(Role::Controlling, "5.5.5.1"));
    let mut pair = Pair::new(21, a, b, false);
    pair.start();
    let [one, two, other] = components();
    let of_first = |pair: &Pair| [one, two].map(|component| pair.a.agent.component_state(component).unwrap());
    assert!(pair.run_until(Duration::from_secs(5), |pair| of_first(pair) == [State::Completed; 2]));
    assert_eq!(pair.a.agent.state(), State::Checking, "the other stream is behind");
    assert!(pair.run_until(Duration::from_secs(60), |pair| pair.a.agent.state() == State::Completed));
    assert_eq!(pair.a.agent.component_state(other), Some(State::Failed));
    assert_eq!(pair.a.failed_streams, [1]);
    assert!(pair.a.failure.is_none());
    assert!(pair.data_flows_on(two));
    // The last stream takes the agent with it.
    pair.network.set_down(pair.b.host, true);
    assert!(pair.run_until(Duration::from_secs(60), |pair| pair.a.failure.is_some()));
}

#[test]
fn patience_outlasts_slow_signalling() {
    let mut pair = open_pair(72);
    // The peer's candidates are told when others have long given up (RFC 8863).
    pair.signalling = (Duration::from_secs(35), Duration::from_secs(36));
    pair.start();
    assert!(pair.connect(Duration::from_secs(37)), "{}", pair.a.agent.report());
    assert!(pair.data_flows());
}

#[test]
fn lite_sides_are_controlled_and_keep_the_path() {
    let nat = NatSpec::new(APDM, APDF);
    // The full side is told that the other is lite, or finds out by the conflict, or has the right role already.
    let cases = [(62, Role::Controlling, false), (63, Role::Controlled, true), (64, Role::Controlled, false)];
    for (seed, role, told) in cases {
        let mut a = open(role, "5.5.5.1");
        a.config.lite = true;
        let mut pair = Pair::new(seed, a, behind(role, nat, 2), false);
        if told {
            pair.exchange_capabilities();
        }
        pair.start();
        assert!(pair.connect(Duration::from_secs(2)), "{}", pair.b.agent.report());
        assert_eq!((pair.a.agent.role(), pair.b.agent.role()), (Role::Controlled, Role::Controlling));
        assert!(pair.a.agent.local_candidates().all(|candidate| candidate.kind == CandidateKind::Host));
        let report = pair.a.agent.report();
        assert!(report.pairs.iter().all(|pair| pair.stats.requests_sent == 0), "{report}");
        assert!(pair.data_flows());
        pair.run_for(Duration::from_secs(120));
        assert_eq!((pair.a.agent.state(), pair.b.agent.state()), (State::Completed, State::Completed));
        assert!(pair.data_flows());
        pair.network.set_down(pair.b.host, true);
        assert!(pair.run_until(Duration::from_secs(60), |pair| pair.a.failure.is_some()));
    }
}

#[test]
fn two_lite_sides_take_their_best_pair() {
    let [a, b] = [(Role::Controlling, "5.5.5.1"), (Role::Controlled, "5.5.5.2")].map(|(role, address)| {
        let mut spec = open(role, address);
        spec.config.lite = true;
        spec
    });
    let mut pair = Pair::new(65, a, b, false);
    pair.exchange_capabilities();
    pair.start();
    assert!(pair.connect(Duration::from_secs(1)));
    assert_eq!((pair.a.agent.role(), pair.b.agent.role()), (Role::Controlling, Role::Controlled));
    pair.run_for(Duration::from_secs(100));
    assert!(pair.data_flows());
}

#[test]
fn a_tenth_of_packets_lost_is_no_obstacle() {
    let mut times = Vec::new();
    for seed in 0..40 {
        let mut a = behind(Role::Controlling, NatSpec::new(EIM, APDF), 1);
        let mut b = behind(Role::Controlled, NatSpec::new(EIM, APDF), 2);
        a.link.loss = 0.1;
        b.link.loss = 0.1;
        let mut pair = Pair::new(seed, a, b, true);
        pair.start();
        assert!(pair.connect(Duration::from_secs(20)), "seed {seed}:\n{}", pair.a.agent.report());
        times.push(pair.elapsed());
        pair.run_for(Duration::from_secs(10));
        assert_eq!(pair.paths(), DIRECT, "seed {seed}:\n{}", pair.a.agent.report());
    }
    times.sort_unstable();
    println!("a tenth lost each way: median {:?}, worst {:?}", times[20], times[39]);
    assert!(times[20] < ms(1500), "median {:?}", times[20]);
}

#[test]
fn dead_candidates_hardly_delay_the_live_one() {
    // The live pair is of the lowest priority, as in facts.md; in its own subnet, or in one as far as the dead ones. A
    // round trip is 40 ms: one for the check, one for the nomination.
    for b in ["5.5.5.2", "6.6.6.2"] {
        for dead in [0, 5, 10, 20] {
            let elapsed = connect_among_dead(b, dead, 0);
            println!("live one last, {dead} dead candidates: {elapsed:?}");
            assert!(elapsed <= ms(95), "{b}, {dead} dead candidates: {elapsed:?}");
        }
    }
    // Nothing tells it from the others, and it stands in their midst: the burst reaches it.
    for (dead, bound) in [(5, 120), (10, 150), (20, 200)] {
        let elapsed = connect_among_dead("6.6.6.2", dead, dead / 2);
        println!("live one in the middle, {dead} dead candidates: {elapsed:?}");
        assert!(elapsed <= ms(bound), "{dead} dead candidates, half of them worse: {elapsed:?}");
    }
    // Beyond the burst the pace is all there is.
    let elapsed = connect_among_dead("6.6.6.2", 60, 30);
    println!("live one in the middle, 60 dead candidates: {elapsed:?}");
    assert!(elapsed > ms(200) && elapsed <= ms(1600), "{elapsed:?}");
}

#[test]
fn what_is_lost_does_not_cost_an_rto() {
    let mut times: Vec<_> = (0..40).map(connect_with_loss).collect();
    times.sort_unstable();
    println!(
        "a tenth lost: median {:?}, nine of ten below {:?}, worst {:?}",
        times[20], times[36], times[39]
    );
    assert!(times[20] <= ms(100) && times[36] <= ms(300), "median {:?}, 90 % {:?}", times[20], times[36]);
}

/// The time until both have a nominated pair, over a round trip of 40 ms.
fn connect_with_loss(seed: u64) -> Duration {
    let mut a = open(Role::Controlling, "5.5.5.1");
    a.link.loss = 0.1;
    let mut pair = Pair::new(seed, a, open(Role::Controlled, "5.5.5.2"), false);
    pair.start();
    assert!(pair.connect(Duration::from_secs(10)), "seed {seed}:\n{}", pair.a.agent.report());
    pair.elapsed()
}

#[test]
fn a_peer_that_proposes_a_pace_sets_it() {
    let mut pair = Pair::new(
        6,
        with_dead(open(Role::Controlling, "5.5.5.1"), 10, 5),
        with_dead(open(Role::Controlled, "6.6.6.2"), 10, 5),
        false,
    );
    pair.a.agent.set_remote_pacing(ms(200));
    pair.b.agent.set_remote_pacing(ms(200));
    pair.start();
    assert!(pair.connect(Duration::from_secs(10)));
    assert!(pair.elapsed() > ms(600), "{:?}", pair.elapsed());
}

fn connect_among_dead(b: &str, dead: u8, worse: u8) -> Duration {
    let a = with_dead(open(Role::Controlling, "5.5.5.1"), dead, worse);
    let b = with_dead(open(Role::Controlled, b), dead, worse);
    let mut pair = Pair::new(6, a, b, false);
    pair.start();
    assert!(pair.connect(Duration::from_secs(10)), "{dead} dead candidates");
    pair.elapsed()
}

/// Adds host candidates that lead nowhere: so many of lower priority than the live one, the rest of higher.
fn with_dead(mut spec: PeerSpec, dead: u8, worse: u8) -> PeerSpec {
    let priority = |n: u8| if n < worse { 2_000_000_000 } else { 2_130_706_431 } - u32::from(n);
    let line = |n: u8| format!("candidate:d{n} 1 udp {} 7.7.{n}.9 9 typ host", priority(n));
    spec.dead = (0..dead).map(|n| Candidate::parse(&line(n)).unwrap()).collect();
    spec
}

#[test]
fn a_peer_that_never_answers_fails_after_patience_with_a_report() {
    let mut pair = open_pair(7);
    pair.network.set_down(pair.b.host, true);
    pair.start();
    assert!(pair.run_until(Duration::from_secs(100), |pair| pair.a.failure.is_some()));
    assert!(pair.elapsed() > ms(39_500) && pair.elapsed() < Duration::from_secs(60), "{:?}", pair.elapsed());
    let report = pair.a.failure.clone().unwrap();
    assert!(report.to_string().contains("no check of the peer's came in"), "{report}");
    assert_eq!(pair.a.agent.state(), State::Failed);
}

#[test]
fn a_candidate_told_late_replaces_the_reflexive_one_without_a_break() {
    let mut pair = open_pair(10);
    pair.signalling = (ms(500), ms(1000));
    pair.start();
    // Only B is told in time: its check reaches A before its candidate does.
    let now = pair.network.now();
    let a = pair.a.agent.local_candidates().next().unwrap().clone();
    pair.b.agent.add_remote_candidate(now, a);
    assert!(pair.connect(ms(400)));
    assert_eq!(pair.a.agent.selected().unwrap().remote.kind, CandidateKind::PeerReflexive);
    pair.run_for(Duration::from_secs(3));
    assert_eq!(pair.a.agent.selected().unwrap().remote.kind, CandidateKind::Host);
    let states: Vec<_> = pair.a.states.iter().map(|(_, state)| *state).collect();
    assert_eq!(states, [State::Checking, State::Connected, State::Completed]);
    assert!(pair.data_flows());
}

#[test]
fn checks_before_the_answer_are_kept() {
    let mut pair = open_pair(11);
    let now = pair.network.now();
    let (a, b) = (pair.a.agent.local_credentials().clone(), pair.b.agent.local_credentials().clone());
    pair.a.agent.set_remote_credentials(now, b).unwrap();
    pair.a.agent.gather(now);
    pair.b.agent.gather(now);
    // B hears A's checks, but has not been told A's credentials.
    pair.run_for(ms(300));
    assert_eq!(pair.b.agent.state(), State::New);
    pair.b.agent.set_remote_credentials(pair.network.now(), a).unwrap();
    assert!(pair.connect(ms(200)), "{}", pair.b.agent.report());
}

#[test]
fn a_stranger_changes_nothing() {
    let mut pair = open_pair(12);
    let stranger = pair.network.add_host(&[ip("6.6.6.6")], None, link());
    pair.start();
    assert!(pair.connect(Duration::from_secs(5)));
    let before = format!("{:?}", pair.a.agent.report().pairs);
    let to = "5.5.5.1:40000".parse().unwrap();
    let ufrag = pair.a.agent.local_credentials().ufrag.clone();
    let forged = forged_check(&format!("{ufrag}:abcd"));
    for payload in [b"data from nowhere".to_vec(), vec![0; 20], forged] {
        let packet = Packet::udp("6.6.6.6:1".parse().unwrap(), to, payload);
        pair.network.send(stranger, packet);
    }
    pair.run_for(ms(100));
    assert!(pair.a.received.is_empty());
    let report = pair.a.agent.report();
    assert_eq!(format!("{:?}", report.pairs), before);
    assert_eq!(report.rejected_checks, 1);
}

fn forged_check(username: &str) -> Vec<u8> {
    use thirl_common::wire::{
        Class, IntegrityAlgorithm, IntegrityKey, MessageWriter, Method, Priority, TransactionId,
        UseCandidate, Username,
    };
    let mut buffer = [0; 256];
    let id = TransactionId([3; 12]);
    let mut writer = MessageWriter::new(&mut buffer, Class::Request, Method::BINDING, id).unwrap();
    writer.attribute(&Username(username)).unwrap().attribute(&Priority(5)).unwrap();
    writer.attribute(&UseCandidate).unwrap();
    writer
        .integrity(IntegrityAlgorithm::Sha1, &IntegrityKey::new(b"a guess"))
        .unwrap()
        .fingerprint()
        .unwrap();
    writer.finish().to_vec()
}

#[test]
fn a_dead_server_does_not_hold_up_the_peers() {
    let nat = NatSpec::new(EIM, APDF);
    let mut pair = Pair::new(13, behind(Role::Controlling, nat, 1), behind(Role::Controlled, nat, 2), false);
    pair.servers[1].down = true;
    pair.start();
    assert!(pair.connect(Duration::from_secs(1)), "{}", pair.a.agent.report());
    assert_eq!(pair.paths(), DIRECT);
    // Those who wait for all candidates do not wait long either.
    pair.run_until(Duration::from_secs(9), |pair| pair.a.agent.is_gathering_complete());
    assert!(pair.elapsed() < ms(1200), "{:?}", pair.elapsed());
}

#[test]
fn a_run_is_its_seed() {
    let run = |seed| {
        let nat = NatSpec::new(EIM, ADF);
        let mut pair = both_behind(seed, nat, NatSpec::new(APDM, ADF), true);
        pair.a.agent.set_remote_end_of_candidates(pair.network.now());
        pair.run_for(Duration::from_secs(30));
        (
            pair.network.sent,
            pair.a.states.clone(),
            pair.b.states.clone(),
            format!("{}", pair.a.agent.report()),
        )
    };
    assert_eq!(run(5), run(5));
    assert_ne!(run(5).3, run(6).3);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn candidates_in_any_order_at_any_time_connect(
        seed in any::<u64>(),
        least in 0..500u64,
        spread in 0..3000u64,
        dead in 0..6u8,
        families in 0..4usize,
    ) {
        let nat = NatSpec::new(EIM, APDF);
        let mut a = with_dead(behind(Role::Controlling, nat, 1), dead, dead / 2);
        let b = with_dead(behind(Role::Controlled, nat, 2), dead, 0);
        a.addresses.extend((0..families).map(|n| ip(&format!("192.168.1.{}", 10 + n))));
        let mut pair = Pair::new(seed, a, b, true);
        pair.signalling = (ms(least), ms(least + spread));
        pair.start();
        prop_assert!(pair.connect(Duration::from_secs(10)), "{}", pair.a.agent.report());
        pair.run_for(Duration::from_secs(5));
        prop_assert_eq!(pair.paths(), DIRECT, "{}", pair.a.agent.report());
        prop_assert!(pair.data_flows());
    }
}
