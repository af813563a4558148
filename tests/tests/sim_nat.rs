//! The NAT diagnosis in the simulated network: every kind of NAT, loss, and servers that lie; and whether its table of
//! who reaches whom is what two agents do.
#![expect(clippy::unwrap_used, reason = "a test may fail by panicking")]

use std::net::IpAddr;
use std::time::Duration;

use thirl_ice_agent::agent::{AgentConfig, HardNats, PathKind, Role};
use thirl_ice_agent::nat::{
    self, Confidence, Facts, FamilyReport, HostNetwork, Options, PairPath, Report, ServerFault, UdpReport,
    direct_path, predict,
};
use thirl_tests::behaviour::{Filtering, Mapping, PortAllocation, combinations};
use thirl_tests::sim::{Lie, Link, NatSpec, Pair, PeerSpec, Scene};

/// So many times as many runs as usual: `THIRL_RUNS=50 cargo test --release --test sim_nat`.
fn runs(usual: u64) -> u64 {
    let times = std::env::var("THIRL_RUNS").ok().and_then(|times| times.parse().ok());
    usual * times.unwrap_or(1)
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn in_the_agents_words(spec: NatSpec) -> (nat::Mapping, nat::Filtering) {
    (nat::Mapping::ALL[spec.mapping as usize], nat::Filtering::ALL[spec.filtering as usize])
}

/// Runs a diagnosis behind a NAT.
fn diagnose(seed: u64, spec: NatSpec, loss: f64, lies: &[Lie]) -> FamilyReport {
    diagnose_at(1, seed, spec, loss, lies)
}

/// The same at one of several places, each with addresses of its own.
fn diagnose_at(place: u8, seed: u64, spec: NatSpec, loss: f64, lies: &[Lie]) -> FamilyReport {
    let link = Link { loss, ..Link::delayed(Duration::from_millis(10)) };
    Scene { place, link, servers: lies.to_vec(), ..Scene::new(seed, spec) }.diagnose()
}

fn every_nat() -> impl Iterator<Item = NatSpec> {
    combinations().map(|(mapping, filtering)| NatSpec::new(mapping, filtering))
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
fn stopped_at_any_time_it_is_right_or_not_measurable() {
    for (n, spec) in (0..).zip(every_nat()) {
        let (mapping, filtering) = in_the_agents_words(spec);
        let mut measured = Vec::new();
        for events in (1..600).step_by(11) {
            let udp = Scene { stopped_after: Some(events), ..Scene::new(5000 + n, spec) }.diagnose().udp;
            assert!(udp.mapping.is_none_or(|found| found == mapping), "{spec:?} {events}: {udp:?}");
            assert!(udp.filtering.is_none_or(|found| found == filtering), "{spec:?} {events}: {udp:?}");
            measured.push(udp.mapping.is_some());
        }
        assert_eq!((measured.first(), measured.last()), (Some(&false), Some(&true)), "{spec:?}");
    }
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

/// Whether nothing is wrong; what could not be measured is not.
fn is_never_wrong(spec: NatSpec, udp: &UdpReport) -> bool {
    let (mapping, filtering) = in_the_agents_words(spec);
    let allocation = match spec.allocation {
        PortAllocation::Preserving => nat::PortAllocation::Preserving,
        PortAllocation::Random => nat::PortAllocation::Random,
        PortAllocation::Sequential => nat::PortAllocation::Sequential,
    };
    let depends = mapping.depends_on_destination();
    let ports = udp.allocation.as_ref().is_none_or(|found| {
        found.ports.is_none_or(|ports| ports == allocation)
            && found.step.is_none_or(|step| step == 1)
            && found
                .parity_preserved
                .is_none_or(|kept| kept == (spec.allocation == PortAllocation::Preserving))
            && found.pooling.is_none_or(|pooling| pooling == nat::Pooling::Paired)
    });
    let punched = !depends || spec.filtering == Filtering::EndpointIndependent;
    udp.mapping.is_none_or(|found| found == mapping)
        && udp.mapping_depends_on_destination.is_none_or(|found| found == depends)
        && udp.filtering.is_none_or(|found| found == filtering)
        && udp.translated != Some(false)
        && ports
        && udp.hairpin.as_ref().and_then(|hairpin| hairpin.works).is_none_or(|works| works == punched)
}

/// Every NAT with every allocation that goes with it.
fn every_nat_and_allocation() -> impl Iterator<Item = NatSpec> {
    let with_each = |spec: NatSpec| {
        let all = [PortAllocation::Preserving, PortAllocation::Random, PortAllocation::Sequential];
        let possible = move |allocation: &PortAllocation| {
            *allocation != PortAllocation::Preserving || spec.mapping == EIM
        };
        all.into_iter().filter(possible).map(move |allocation| NatSpec { allocation, ..spec })
    };
    every_nat().flat_map(with_each)
}

const EIM: Mapping = Mapping::EndpointIndependent;

/// Loss, delay, packets that overtake others and packets that come twice.
#[test]
fn on_bad_lines_nothing_is_named_wrong() {
    const PERCENT: [u64; 4] = [0, 5, 10, 20];
    // Mapping, filtering, allocation: how often they were measured at each loss.
    let mut measured = [[0; 3]; PERCENT.len()];
    let mut of = 0;
    for seed in 0..runs(4) {
        for (n, spec) in (0..).zip(every_nat_and_allocation()) {
            of += 1;
            for (k, percent) in PERCENT.into_iter().enumerate() {
                let run = (seed * 100 + n) * 10 + percent / 5;
                let delay = Duration::from_millis([10, 60, 150, 280][(run % 4) as usize]);
                #[expect(clippy::cast_precision_loss, reason = "they are small")]
                let loss = percent as f64 / 100.0;
                let jitter = Duration::from_millis([0, 20, 200][(run % 3) as usize]);
                let mut scene = Scene::new(run, spec);
                scene.link = Link { jitter, loss, duplication: 0.1, ..Link::delayed(delay) };
                scene.servers = vec![Lie::None; 1 + (run % 2) as usize];
                scene.options = Options { hairpin: true, ..Options::default() };
                let udp = scene.diagnose().udp;
                assert!(is_never_wrong(spec, &udp), "{scene:?}: {udp:#?}");
                assert_eq!(udp.faulty, [], "{scene:?}");
                measured[k][0] += usize::from(udp.mapping.is_some());
                measured[k][1] += usize::from(udp.filtering.is_some());
                measured[k][2] += usize::from(udp.allocation.is_some_and(|found| found.ports.is_some()));
            }
        }
    }
    println!("of {of} runs each at {PERCENT:?} % loss: {measured:?}");
    assert_eq!(measured[0], [of; 3], "without loss everything is measured");
    assert!(
        measured[2].iter().all(|count| *count * 10 > of * 9),
        "with a tenth lost most of it is: {measured:?}"
    );
}

#[test]
fn a_server_that_dies_or_a_nat_that_restarts_meanwhile_makes_nothing_wrong() {
    for seed in 0..runs(5) {
        for (n, spec) in (0..).zip(every_nat_and_allocation()) {
            let mut scene = Scene::new(seed * 100 + n, spec);
            scene.link.delay = Duration::from_millis(5 + seed * 13 % 90);
            scene.link.loss = [0.0, 0.1][(seed % 2) as usize];
            let when = Some(Duration::from_millis((seed * 577 + n * 97) % 7000));
            scene.servers = vec![Lie::None; 1 + (seed / 2 % 2) as usize];
            scene.dies_after = when;
            let udp = scene.diagnose().udp;
            assert!(is_never_wrong(spec, &udp), "{scene:?}: {udp:#?}");
            (scene.dies_after, scene.reboots_after) = (None, when);
            let udp = scene.diagnose().udp;
            assert!(is_never_wrong(spec, &udp), "{scene:?}: {udp:#?}");
        }
    }
}

#[test]
fn whatever_a_server_does_wrong_nothing_is_named_wrong() {
    for seed in 0..runs(1) {
        for (n, spec) in (0..).zip(every_nat_and_allocation()) {
            for (k, lie) in (0..).zip(Lie::ALL) {
                // Where the mapping depends on the destination, no filter can be opened to see whether such a server answers
                // at all: silence is all that there is, and the confidence says so.
                let undetectable = lie == Lie::DropsChange && spec.mapping != EIM;
                for (m, servers) in (0..).zip([vec![lie], vec![lie, Lie::None], vec![Lie::None, lie]]) {
                    let alone = servers.len() == 1;
                    let mut scene = Scene::new(((seed * 100 + n) * 100 + k) * 10 + m, spec);
                    scene.link.loss = [0.0, 0.1][(seed % 2) as usize];
                    scene.servers = servers;
                    let mut udp = scene.diagnose().udp;
                    if undetectable && alone {
                        assert!(udp.filtering_confidence < Some(Confidence::High), "{scene:?}: {udp:#?}");
                        udp.filtering = None;
                    }
                    assert!(is_never_wrong(spec, &udp), "{scene:?}: {udp:#?}");
                    if !alone && scene.link.loss == 0.0 {
                        let (mapping, filtering) = in_the_agents_words(spec);
                        let found = (udp.mapping, udp.filtering);
                        assert_eq!(
                            found,
                            (Some(mapping), Some(filtering)),
                            "one is honest, {scene:?}: {udp:#?}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn reflexive_addresses_that_cannot_be_true_are_named() {
    for (seed, lie) in (0..).zip([Lie::RandomReflexive, Lie::SameReflexive, Lie::NobodysReflexive]) {
        let spec = NatSpec::new(Mapping::AddressDependent, Filtering::AddressDependent);
        let mut scene = Scene::new(seed, spec);
        scene.servers = vec![lie, Lie::None];
        let udp = scene.diagnose().udp;
        let named: Vec<_> =
            udp.faulty.iter().map(|faulty| (faulty.server.to_string(), faulty.fault)).collect();
        let [(server, ServerFault::WrongReflexiveAddress { .. })] = named.as_slice() else {
            panic!("{lie:?}: {udp:#?}");
        };
        assert_eq!(server, "9.9.1.10:3478");
    }
}

#[test]
fn the_open_network_is_open() {
    for servers in [vec![Lie::None], vec![Lie::RandomReflexive, Lie::None], vec![Lie::OneAddress, Lie::None]]
    {
        let mut scene = Scene::new(9, NatSpec::new(EIM, Filtering::EndpointIndependent));
        (scene.nat, scene.servers) = (None, servers);
        let udp = scene.diagnose().udp;
        let (mapping, filtering) = (nat::Mapping::EndpointIndependent, nat::Filtering::EndpointIndependent);
        assert_eq!((udp.mapping, udp.filtering), (Some(mapping), Some(filtering)), "{udp:#?}");
        assert_eq!((udp.translated, udp.layers.at_least), (Some(false), Some(0)), "{udp:#?}");
    }
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
    let config = AgentConfig { hard_nats: HardNats::OFF, ..AgentConfig::new(role) };
    let spec = PeerSpec::new(config, &[ip(&format!("192.168.{number}.2"))]);
    PeerSpec { nat: Some((nat, ip(&format!("5.5.5.{number}")))), ..spec }
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
            // What a search finds beyond that is for `sim_hard_nats`.
            let expected = match (direct, prediction.search) {
                (true, _) => (PairPath::Direct, Some(Confidence::High)),
                (false, None) => (PairPath::Relay, Some(Confidence::High)),
                (false, Some(_)) => (PairPath::Direct, Some(Confidence::Medium)),
            };
            assert_eq!((prediction.path, prediction.confidence), expected, "{prediction:?}");
        }
    }
}
