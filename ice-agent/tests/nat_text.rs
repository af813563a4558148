//! What `thirl nat` tells people, at three widths: typical reports as text. `INSTA_UPDATE=always cargo test -p
//! thirl-ice-agent --test nat_text` writes what it says now; read the difference before it is committed.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use thirl_ice_agent::nat::{
    AllocationReport, Answer, Confidence, Facts, FamilyReport, FaultyServer, Filtering, HairpinReport,
    HostNetwork, Lifetime, LifetimeReport, Mapping, PairPath, PairReport, Pooling, PortAllocation, Report,
    ServerFault, TcpFailure, Trial,
};

const WIDTHS: [usize; 3] = [40, 80, 120];

const SERVERS: [&str; 2] = ["203.0.113.10:3478", "203.0.113.11:3478"];

/// The text at each width, no line of which is longer unless it is one address.
fn assert_text(name: &str, to_text: impl Fn(usize) -> String) {
    let mut all = String::new();
    for width in WIDTHS {
        let text = to_text(width);
        for line in text.lines().filter(|line| line.split_whitespace().count() > 2) {
            assert!(line.chars().count() <= width, "{name}: {line:?} is longer than {width}");
        }
        assert!(!text.contains('\u{1b}'), "{name}: colour or the like");
        all += &format!("{:=<width$}\n{text}", "");
    }
    insta::assert_snapshot!(name, all);
}

fn none() -> FamilyReport {
    FamilyReport::unavailable("no server with an address of this family")
}

fn answer(server: &str, reflexive: &str) -> Answer {
    Answer { server: server.parse().unwrap(), reflexive: reflexive.parse().unwrap(), rtt_ms: Some(23.4) }
}

/// Behind such a NAT, all measured.
fn behind(mapping: Mapping, filtering: Filtering) -> FamilyReport {
    let mut report = none();
    let udp = &mut report.udp;
    udp.local = Some("192.168.1.2:54321".parse().unwrap());
    udp.reachable = true;
    udp.translated = Some(true);
    let symmetric = mapping.depends_on_destination();
    let second = if symmetric { "198.51.100.10:40002" } else { "198.51.100.10:54321" };
    udp.answers = vec![answer(SERVERS[0], "198.51.100.10:54321"), answer(SERVERS[1], second)];
    udp.mapping = Some(mapping);
    udp.mapping_depends_on_destination = Some(symmetric);
    udp.mapping_confidence = Some(Confidence::High);
    udp.reason = match symmetric {
        true => "two ports of one server saw different addresses".to_owned(),
        false => "4 destinations saw the same address".to_owned(),
    };
    udp.filtering = Some(filtering);
    udp.filtering_confidence = Some(Confidence::Medium);
    udp.filtering_reason = "an answer from another address did not come in".to_owned();
    udp.allocation = Some(AllocationReport {
        ports: Some(if symmetric { PortAllocation::Random } else { PortAllocation::Preserving }),
        step: None,
        parity_preserved: Some(!symmetric),
        pooling: Some(Pooling::Paired),
        addresses: vec!["198.51.100.10".parse().unwrap()],
        reason: "9 sockets".to_owned(),
    });
    udp.layers.at_least = Some(1);
    udp.layers.reason = "the provider's NAT cannot be seen from here".to_owned();
    let tcp = &mut report.tcp;
    tcp.local = Some("192.168.1.2:43210".parse().unwrap());
    tcp.reachable = true;
    tcp.answers = vec![answer(SERVERS[0], "198.51.100.10:43210")];
    tcp.failed = vec![TcpFailure {
        server: SERVERS[1].parse().unwrap(),
        reason: "Connection refused (os error 111)".to_owned(),
    }];
    report
}

fn home() -> FamilyReport {
    behind(Mapping::EndpointIndependent, Filtering::AddressAndPortDependent)
}

fn symmetric() -> FamilyReport {
    behind(Mapping::AddressAndPortDependent, Filtering::AddressAndPortDependent)
}

fn blocked(tcp: bool) -> FamilyReport {
    let mut report = none();
    report.udp.local = Some("192.168.1.2:54321".parse().unwrap());
    report.udp.silent = SERVERS.map(|server| server.parse().unwrap()).to_vec();
    report.udp.reason = "none of 2 servers answered".to_owned();
    report.udp.filtering_reason = "not measurable: none of 2 servers answered".to_owned();
    report.tcp = home().tcp;
    if !tcp {
        report.tcp.reachable = false;
        report.tcp.answers.clear();
    }
    report
}

fn ipv6() -> FamilyReport {
    let mut report = home();
    let own = |port: u16| format!("[2001:db8:1::2]:{port}").parse().unwrap();
    report.udp.local = Some(own(54321));
    report.udp.translated = Some(false);
    report.udp.answers = vec![Answer {
        server: "[2001:db8:53::10]:3478".parse().unwrap(),
        reflexive: own(54321),
        rtt_ms: Some(21.0),
    }];
    report.udp.layers.at_least = Some(0);
    report.udp.layers.carrier_grade = Some(false);
    report.udp.allocation = None;
    report.tcp.local = Some(own(43210));
    report.tcp.answers.clear();
    report
}

#[track_caller]
fn assert_report(name: &str, ipv4: FamilyReport, ipv6: FamilyReport) {
    let report = Report::new(ipv4, ipv6);
    assert_text(name, |width| report.to_text(width));
}

#[test]
fn a_home_router() {
    assert_report("home_router", home(), none());
}

#[test]
fn a_full_cone() {
    assert_report("full_cone", behind(Mapping::EndpointIndependent, Filtering::EndpointIndependent), none());
}

#[test]
fn a_symmetric_nat() {
    assert_report("symmetric", symmetric(), none());
}

#[test]
fn a_symmetric_nat_with_ipv6_beside_it() {
    assert_report("symmetric_and_ipv6", symmetric(), ipv6());
}

#[test]
fn servers_with_one_address() {
    let mut report = symmetric();
    report.udp.mapping = None;
    report.udp.mapping_confidence = None;
    report.udp.reason = "two servers saw different addresses".to_owned();
    report.udp.filtering = None;
    report.udp.filtering_confidence = None;
    report.udp.filtering_reason = "not measurable: no server here has a second address".to_owned();
    assert_report("servers_with_one_address", report, none());
}

#[test]
fn a_providers_nat() {
    let mut report = symmetric();
    report.udp.layers.at_least = Some(2);
    report.udp.layers.carrier_grade = Some(true);
    report.udp.layers.reason =
        "100.64.0.10 is of the range between a provider and its customers (RFC 6598)".to_owned();
    assert_report("provider", report, none());
}

#[test]
fn no_udp() {
    assert_report("no_udp", blocked(true), none());
}

#[test]
fn cut_off() {
    assert_report("cut_off", blocked(false), none());
}

#[test]
fn no_address_at_all() {
    assert_report("no_address", none(), none());
}

#[test]
fn a_public_address() {
    let mut report = behind(Mapping::EndpointIndependent, Filtering::EndpointIndependent);
    report.udp.translated = Some(false);
    report.udp.local = Some("198.51.100.10:54321".parse().unwrap());
    report.udp.layers.at_least = Some(0);
    report.udp.layers.carrier_grade = Some(false);
    assert_report("public_address", report, none());
}

#[test]
fn everything_measured_and_a_server_that_lies() {
    let mut report = home();
    report.udp.silent = vec!["192.0.2.1:3478".parse().unwrap()];
    report.udp.faulty = vec![FaultyServer {
        server: "192.0.2.2:3478".parse().unwrap(),
        fault: ServerFault::OtherAddressHasSameIp,
    }];
    report.udp.hairpin = Some(HairpinReport {
        works: Some(true),
        from_external: Some(false),
        reason: "the packet came back from the internal address".to_owned(),
    });
    let lifetime = |least, most| Lifetime {
        at_least_s: Some(least),
        at_most_s: most,
        reason: "18 sockets that kept quiet for different times".to_owned(),
    };
    report.udp.lifetime = Some(LifetimeReport {
        single: lifetime(28.0, Some(31.0)),
        conversation: lifetime(298.0, None),
        refreshed_by_outbound: Some(true),
        refreshed_by_inbound: None,
        refresh_reason: "packets every 14 s".to_owned(),
    });
    assert_report("everything", report, none());
}

/// The facts of a side, number `n`.
fn facts(ipv4: FamilyReport, n: u8) -> Facts {
    let ip = format!("192.168.{n}.2");
    let mut ipv4 = ipv4;
    ipv4.udp.local = Some(format!("{ip}:54321").parse().unwrap());
    for answer in ipv4.udp.answers.iter_mut().chain(&mut ipv4.tcp.answers) {
        answer.reflexive.set_ip(format!("198.51.100.{n}0").parse().unwrap());
    }
    Facts::new(&Report::new(ipv4, none()), &[HostNetwork { ip: ip.parse().unwrap(), prefix: 24 }])
}

fn trial(path: PairPath) -> Trial {
    let direct = path == PairPath::Direct;
    let address = |text: &str| direct.then(|| text.parse().unwrap());
    Trial {
        path,
        local: address("198.51.100.10:54321"),
        remote: address("198.51.100.20:40000"),
        relay: (path == PairPath::Relay).then(|| "203.0.113.10".parse().unwrap()),
        why: (!direct).then(|| "both sides: mapping depends on destination".to_owned()),
        connect_ms: Some(212.0),
        ice: None,
    }
}

#[track_caller]
fn assert_pair(name: &str, you: Facts, they: Result<Facts, String>, path: PairPath) {
    let report = PairReport::new("a-node".to_owned(), you, they, trial(path));
    assert_text(name, |width| report.to_text(width));
}

#[test]
fn a_direct_pair() {
    assert_pair("pair_direct", facts(home(), 1), Ok(facts(home(), 2)), PairPath::Direct);
}

#[test]
fn a_relayed_pair() {
    assert_pair("pair_relayed", facts(symmetric(), 1), Ok(facts(symmetric(), 2)), PairPath::Relay);
}

#[test]
fn a_pair_that_is_other_than_predicted() {
    assert_pair(
        "pair_other_than_predicted",
        facts(symmetric(), 1),
        Ok(facts(blocked(true), 2)),
        PairPath::Direct,
    );
}

#[test]
fn a_pair_of_which_one_side_tells_nothing() {
    let reason = "the node does not answer the question: it may be of an earlier build".to_owned();
    assert_pair("pair_untold", facts(home(), 1), Err(reason), PairPath::Direct);
}
