//! The NAT lab judged by a prober of its own protocol: each NAT does what its name says, labs do not touch each
//! other, and nothing of them stays.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use serde_json::Value;
use thirl_tests::behaviour::combinations;
use thirl_tests::harness::{Deadline, Program};
use thirl_tests::natlab::{
    Filtering, Firewall, Ipv6, Lab, LabBuilder, LabError, Mapping, Nat, Network, Node, PortAllocation, SRV,
    SRV_ALTERNATE, SRV_ALTERNATE_V6, SRV_V6, Site, availability,
};
use thirl_tests::requires;

const PROBER: &str = env!("CARGO_BIN_EXE_lab-prober");
const LIMIT: Duration = Duration::from_secs(20);

/// A lab with the prober's server in it.
struct Probed {
    _servers: Vec<Program>,
    lab: Lab,
}

impl Probed {
    fn new(builder: LabBuilder) -> Self {
        let lab = builder.build().unwrap();
        let pairs = [
            [SRV.to_string(), SRV_ALTERNATE.to_string()],
            [SRV_V6.to_string(), SRV_ALTERNATE_V6.to_string()],
        ];
        let servers = pairs.map(|pair| {
            let mut command = lab.command(Node::Srv, PROBER);
            command.arg("server").args(pair);
            let mut server = Program::spawn(command).unwrap();
            server.wait_for_line("ready", LIMIT).unwrap();
            server
        });
        Self { _servers: servers.into(), lab }
    }

    fn prober(&self, node: Node, arguments: &[&str]) -> Value {
        let mut command = self.lab.command(node, PROBER);
        command.args(arguments);
        Program::spawn(command).unwrap().wait_for_json(LIMIT).unwrap()
    }

    fn examine(&self, node: Node) -> Value {
        self.prober(node, &["client", &SRV.to_string(), &SRV_ALTERNATE.to_string()])
    }

    /// The mapped addresses of `count` requests from one socket on `node`.
    fn ask(&self, node: Node, count: u32) -> Vec<Option<SocketAddr>> {
        let answer = self.prober(node, &["ask", &SRV.to_string(), &count.to_string()]);
        let seen = answer["seen"].as_array().unwrap();
        seen.iter().map(|seen| seen.as_str().map(|seen| seen.parse().unwrap())).collect()
    }

    /// A socket on `node` that stays open.
    fn hold(&self, node: Node) -> Held {
        let mut command = self.lab.command(node, PROBER);
        command.args(["hold", &SRV.to_string()]);
        let mut program = Program::spawn(command).unwrap();
        program.wait_for_line("ready", LIMIT).unwrap();
        Held(program)
    }
}

struct Held(Program);

impl Held {
    fn seen(&mut self) -> Option<SocketAddr> {
        self.0.write_line("").unwrap();
        self.0.wait_for("the mapped address", LIMIT, |line| Some(line.text().parse().ok())).unwrap()
    }
}

fn combination(mapping: Mapping, filtering: Filtering) {
    let nat = Nat::new().mapping(mapping).filtering(filtering).hairpin(true);
    let probed = Probed::new(Lab::builder().site(Site::A, nat));
    let found = probed.examine(Node::A);
    assert_eq!([&found["mapping"], &found["filtering"]], [mapping.name(), filtering.name()], "{found}");
    // With another mapping the client's own datagrams leave from a port that no filter but EIF has heard of.
    let punched = mapping == Mapping::EndpointIndependent || filtering == Filtering::EndpointIndependent;
    assert_eq!(found["hairpin"], if punched { "external" } else { "none" }, "{found}");
    let preserved = found["mapped"][0].as_str().unwrap().ends_with(&format!(":{}", found["local"]));
    assert_eq!(preserved, mapping == Mapping::EndpointIndependent, "{found}");
}

#[test]
fn each_combination_does_what_its_name_says() {
    requires!(availability());
    // All at once: a lab is cheap, and most of the time it waits.
    thread::scope(|scope| {
        for (mapping, filtering) in combinations() {
            scope.spawn(move || combination(mapping, filtering));
        }
    });
}

#[test]
fn several_external_addresses() {
    requires!(availability());
    for mapping in [Mapping::EndpointIndependent, Mapping::AddressAndPortDependent] {
        let nat = Nat::new().mapping(mapping).filtering(Filtering::AddressDependent).addresses(3);
        let probed = Probed::new(Lab::builder().site(Site::A, nat));
        let found = probed.examine(Node::A);
        assert_eq!([&found["mapping"], &found["filtering"]], [mapping.name(), "ADF"], "{found}");
        let seen: BTreeSet<_> = (0..40).map(|_| probed.ask(Node::A, 1)[0].unwrap().ip()).collect();
        let expected = [10, 11, 12].map(|host| IpAddr::from([198, 51, 100, host]));
        assert_eq!(seen, expected.into());
    }
}

#[test]
fn rate_of_the_line() {
    requires!(availability());
    let probed = Probed::new(Lab::builder().site(Site::A, Network::behind(Nat::new()).rate_kbit(256)));
    // 9 packets of 1042 bytes after a burst of 4 KiB: 160 ms at least, which no fast line takes.
    let ping = ["-q", "-c13", "-l13", "-i0.002", "-s1000", "-W5", "203.0.113.10"];
    let output = probed.lab.command(Node::A, "ping").args(ping).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let longest: f64 = text.rsplit('/').nth(1).unwrap().parse().unwrap();
    assert!(longest > 100.0, "{text}");
}

#[test]
fn random_and_sequential_ports() {
    requires!(availability());
    let sequential = Nat::symmetric().allocation(PortAllocation::Sequential);
    let random = Nat::new().allocation(PortAllocation::Random);
    let probed = Probed::new(Lab::builder().site(Site::A, sequential).site(Site::B, random));
    let ports = |found: &Value| -> Vec<u16> {
        let mapped = found["mapped"].as_array().unwrap().iter();
        mapped.map(|seen| seen.as_str().unwrap().parse::<SocketAddr>().unwrap().port()).collect()
    };
    assert_eq!(ports(&probed.examine(Node::A)), [20_000, 20_001, 20_002, 20_003]);
    let found = probed.examine(Node::B);
    assert_eq!(found["mapping"], "EIM", "{found}");
    assert_ne!(ports(&found)[0], u16::try_from(found["local"].as_u64().unwrap()).unwrap(), "{found}");
}

#[test]
fn hairpinning_is_off_unless_asked_for() {
    requires!(availability());
    let probed = Probed::new(Lab::builder().site(Site::A, Nat::new()));
    assert_eq!(probed.examine(Node::A)["hairpin"], "none");
}

#[test]
fn clients_of_one_lan_share_the_public_address() {
    requires!(availability());
    let probed = Probed::new(Lab::builder().site(Site::A, Network::behind(Nat::new()).clients(2)));
    for client in Site::A.clients() {
        assert_eq!(probed.ask(client, 1)[0].unwrap().ip(), probed.lab.public_address(Site::A).unwrap());
    }
    let other = probed.lab.client_address(Node::A2).unwrap().to_string();
    assert!(
        probed.lab.command(Node::A, "ping").args(["-c1", "-W2", &other]).output().unwrap().status.success()
    );
}

#[test]
fn carrier_grade_nat_before_a_site() {
    requires!(availability());
    let home = Network::behind(Nat::new().filtering(Filtering::EndpointIndependent)).behind_cgn();
    let probed = Probed::new(Lab::builder().site(Site::A, home).cgn(Nat::symmetric()));
    let found = probed.examine(Node::A);
    assert_eq!([&found["mapping"], &found["filtering"]], ["APDM", "APDF"], "{found}");
    assert_eq!(probed.lab.public_address(Site::A), Some(Ipv4Addr::new(198, 51, 100, 100)));
    assert_eq!(probed.ask(Node::A, 1)[0].unwrap().ip(), Ipv4Addr::new(198, 51, 100, 100));
}

#[test]
fn firewalls_let_through_what_they_say() {
    requires!(availability());
    let no_udp = Network::behind(Nat::new()).firewall(Firewall::NoUdp);
    let tcp443 = Network::behind(Nat::new()).firewall(Firewall::Tcp443Only);
    let probed = Probed::new(Lab::builder().site(Site::A, no_udp).site(Site::B, tcp443));
    let connects = |node, port: &str| {
        // Any answer will do, even a refusal: nothing listens on these ports.
        let script = format!("exec 3<>/dev/tcp/{SRV}/{port}");
        let output = probed.lab.command(node, "timeout").args(["1", "bash", "-c", &script]).output().unwrap();
        String::from_utf8_lossy(&output.stderr).contains("refused")
    };
    assert_eq!(probed.ask(Node::A, 1), [None]);
    assert!(connects(Node::A, "3478"));
    assert_eq!(probed.ask(Node::B, 1), [None]);
    assert!(connects(Node::B, "443"));
    assert!(!connects(Node::B, "3478"));
}

#[test]
fn ipv6_is_open_or_behind_a_firewall_or_absent() {
    requires!(availability());
    let network = Network::behind(Nat::new());
    let probe = |probed: &Probed, node| {
        probed.prober(node, &["client", &SRV_V6.to_string(), &SRV_ALTERNATE_V6.to_string()])
    };
    let firewalled = |filtering| network.ipv6(Ipv6::Firewalled(filtering));
    let [eif, adf, apdf] =
        [Filtering::EndpointIndependent, Filtering::AddressDependent, Filtering::AddressAndPortDependent];
    for (a, b, filterings) in [
        (network.ipv6(Ipv6::Open), firewalled(apdf), ["EIF", "APDF"]),
        (firewalled(eif), firewalled(adf), ["EIF", "ADF"]),
    ] {
        let probed = Probed::new(Lab::builder().site(Site::A, a).site(Site::B, b));
        for (node, filtering) in [Node::A, Node::B].into_iter().zip(filterings) {
            let found = probe(&probed, node);
            assert_eq!([&found["mapping"], &found["filtering"]], ["EIM", filtering], "{found}");
        }
    }
    let probed = Probed::new(Lab::builder().site(Site::A, network));
    assert_eq!(probe(&probed, Node::A)["mapping"], "blocked");
    let addresses = probed.lab.command(Node::A, "cat").arg("/proc/net/if_inet6").output().unwrap().stdout;
    assert_eq!(String::from_utf8_lossy(&addresses), "");
}

#[test]
fn loss_loses_about_as_much_as_it_says() {
    requires!(availability());
    // Both directions: 1 - 0.9² = 19 % of 300, within five standard deviations.
    let probed = Probed::new(Lab::builder().site(Site::A, Network::behind(Nat::new()).loss_per_mille(100)));
    let ping = ["-q", "-c300", "-i0.002", "-W1", "203.0.113.10"];
    let output = probed.lab.command(Node::A, "ping").args(ping).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let received = text.split(", ").find_map(|part| part.strip_suffix(" received")).unwrap();
    let received: u32 = received.parse().unwrap();
    assert!((209..=277).contains(&received), "{text}");
}

#[test]
fn mtu_of_the_line() {
    requires!(availability());
    let probed = Probed::new(Lab::builder().site(Site::A, Network::behind(Nat::new()).mtu(1300)));
    let fits = |size: &str| {
        let ping = ["-c1", "-W1", "-Mdo", "-s", size, "203.0.113.10"];
        probed.lab.command(Node::A, "ping").args(ping).output().unwrap().status.success()
    };
    assert!(fits("1272"));
    assert!(!fits("1273"));
}

#[test]
fn a_line_without_icmp_errors() {
    requires!(availability());
    let silent = Network::behind(Nat::new()).mtu(1300).without_icmp_errors();
    let probed = Probed::new(Lab::builder().site(Site::A, silent).site(Site::B, silent.mtu(1500)));
    let says = |node, arguments: &[&str]| {
        let output = probed.lab.command(node, "ping").args(arguments).arg("203.0.113.10").output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    assert!(says(Node::A, &["-c1", "-W1", "-Mdo", "-s", "1272"]).contains(" 1 received"));
    let too_big = says(Node::A, &["-c1", "-W1", "-Mdo", "-s", "1273"]);
    assert!(!too_big.contains("Frag needed") && !too_big.contains(" 1 received"), "{too_big}");
    for hops in ["1", "2"] {
        let expired = says(Node::B, &["-c1", "-W1", "-t", hops]);
        assert!(!expired.contains("exceeded") && !expired.contains(" 1 received"), "{expired}");
    }
    assert!(says(Node::B, &["-c1", "-W1", "-t", "3"]).contains(" 1 received"));
}

#[test]
fn mappings_end_after_their_timeout() {
    requires!(availability());
    let short = Nat::new().allocation(PortAllocation::Random).udp_timeout(Duration::from_secs(1));
    let long = Nat::new().allocation(PortAllocation::Random);
    let probed = Probed::new(Lab::builder().site(Site::A, short).site(Site::B, long));
    let (mut a, mut b) = (probed.hold(Node::A), probed.hold(Node::B));
    let (first_a, first_b) = (a.seen().unwrap(), b.seen().unwrap());
    // What shall end is seen in the NAT itself; asking through the mapping would keep it.
    let deadline = Deadline::after(LIMIT);
    let flows = |node| {
        let conntrack =
            probed.lab.command(node, "/usr/sbin/conntrack").args(["-L", "-p", "udp"]).output().unwrap();
        let learnt = probed
            .lab
            .command(node, "/usr/sbin/nft")
            .args(["list", "map", "ip", "nat", "by_source"])
            .output();
        let learnt = String::from_utf8(learnt.unwrap().stdout).unwrap();
        conntrack.stdout.len() + learnt.matches("expires").count()
    };
    while flows(Node::NatA) > 0 {
        assert!(!deadline.has_passed(), "the flow is still there after {LIMIT:?}");
    }
    assert!(deadline.elapsed() > Duration::from_millis(500), "{:?}", deadline.elapsed());
    assert_ne!(a.seen().unwrap(), first_a);
    assert_eq!(b.seen().unwrap(), first_b);
}

#[test]
fn a_rebooted_nat_has_forgotten_its_mappings() {
    requires!(availability());
    let mut probed = Probed::new(Lab::builder().site(Site::A, Nat::new().allocation(PortAllocation::Random)));
    let mut held = probed.hold(Node::A);
    let before = held.seen().unwrap();
    assert_eq!(held.seen(), Some(before));
    probed.lab.reboot_nat(Node::NatA).unwrap();
    let after = held.seen().unwrap();
    assert_eq!(after.ip(), before.ip());
    assert_ne!(after.port(), before.port());
}

#[test]
fn a_nat_with_a_new_public_address() {
    requires!(availability());
    let mut probed = Probed::new(Lab::builder().site(Site::A, Nat::new()));
    let mut held = probed.hold(Node::A);
    assert_eq!(held.seen().unwrap().ip(), Ipv4Addr::new(198, 51, 100, 10));
    let new = Ipv4Addr::new(198, 51, 100, 11);
    probed.lab.set_public_address(Node::NatA, new).unwrap();
    assert_eq!(held.seen().unwrap().ip(), new);
    assert_eq!(probed.lab.public_address(Site::A), Some(new));
    assert!(matches!(probed.lab.set_public_address(Node::Srv, new), Err(LabError::Spec(_))));
}

#[test]
fn a_client_roams_and_comes_home() {
    requires!(availability());
    let mut probed = Probed::new(Lab::builder().site(Site::A, Nat::new()).site(Site::B, Nat::new()));
    let mut held = probed.hold(Node::A);
    for (site, host) in [(Site::B, 12), (Site::A, 2)] {
        held.seen().unwrap();
        probed.lab.roam(Node::A, site).unwrap();
        assert_eq!(held.seen().unwrap().ip(), probed.lab.public_address(site).unwrap());
        assert_eq!(probed.lab.client_address(Node::A).unwrap().octets()[3], host);
    }
}

#[test]
fn two_labs_at_once_do_not_meet() {
    requires!(availability());
    let one = Probed::new(Lab::builder().site(Site::A, Nat::new()));
    let two = Probed::new(Lab::builder().site(Site::A, Nat::symmetric()));
    assert_eq!(one.examine(Node::A)["mapping"], "EIM");
    assert_eq!(two.examine(Node::A)["mapping"], "APDM");
    drop(one);
    assert_eq!(two.examine(Node::A)["mapping"], "APDM");
}

#[test]
fn a_lab_needs_no_root() {
    requires!(availability());
    let builder = Lab::builder().unprivileged().site(Site::A, Nat::symmetric());
    // Root may be denied what others may: in a chroot there are no user namespaces.
    requires!(builder.clone().build());
    let mut probed = Probed::new(builder);
    assert_eq!(probed.examine(Node::A)["mapping"], "APDM");
    probed.lab.reboot_nat(Node::NatA).unwrap();
    assert_eq!(probed.examine(Node::A)["mapping"], "APDM");
}

#[test]
fn dropping_a_lab_leaves_no_process() {
    requires!(availability());
    let lab = Lab::builder().site(Site::A, Nat::new()).build().unwrap();
    // A marker in the environment finds it, and what it forks, from outside.
    let marker = format!("THIRL_LAB_MARKER={}", std::process::id());
    let mut command = lab.command(Node::A, "sh");
    command
        .args(["-c", "sleep 1000 & echo started; wait"])
        .env("THIRL_LAB_MARKER", std::process::id().to_string());
    let mut program = Program::spawn(command).unwrap();
    program.wait_for_line("started", LIMIT).unwrap();
    assert!(processes_with(&marker) >= 3);
    drop(lab);
    assert!(!program.wait_for_end(LIMIT).unwrap().success());
    let deadline = Deadline::after(LIMIT);
    while processes_with(&marker) > 0 {
        assert!(!deadline.has_passed(), "processes of the lab are still there after {LIMIT:?}");
    }
}

#[test]
fn killing_a_command_ends_the_program_inside() {
    requires!(availability());
    let lab = Lab::builder().site(Site::A, Nat::new()).build().unwrap();
    // The server does not read its standard input, whose end would end others.
    let mut command = lab.command(Node::Srv, PROBER);
    command.args(["server", &SRV.to_string(), &SRV_ALTERNATE.to_string()]);
    let mut program = Program::spawn(command).unwrap();
    program.wait_for_line("ready", LIMIT).unwrap();
    let sockets = || {
        let output = lab.command(Node::Srv, "cat").arg("/proc/net/udp").output().unwrap();
        String::from_utf8_lossy(&output.stdout).lines().skip(1).count()
    };
    assert_eq!(sockets(), 4);
    drop(program);
    let deadline = Deadline::after(LIMIT);
    while sockets() > 0 {
        assert!(!deadline.has_passed(), "the sockets of the killed program are still there");
    }
}

#[test]
fn commands_pass_status_streams_and_directory_through() {
    requires!(availability());
    let lab = Lab::builder().site(Site::A, Nat::new()).build().unwrap();
    let output =
        lab.command(Node::A, "sh").args(["-c", "pwd -P; echo $0; exit 7", "with space"]).output().unwrap();
    assert_eq!(output.status.code(), Some(7));
    let expected = format!("{}\nwith space\n", std::env::current_dir().unwrap().display());
    assert_eq!(String::from_utf8_lossy(&output.stdout), expected);
}

#[test]
fn a_lab_that_cannot_be_is_refused() {
    let preserving = Nat::symmetric().allocation(PortAllocation::Preserving);
    let refused = [
        Network::behind(preserving),
        Network::behind(Nat::new()).clients(3),
        Network::behind(Nat::new()).behind_cgn().ipv6(Ipv6::Open),
        Network::behind(Nat::new()).mtu(1000).ipv6(Ipv6::Open),
        Network::behind(Nat::new()).without_ipv4(),
        Network::public().behind_cgn(),
        Network::behind(Nat::new().udp_timeout(Duration::ZERO)),
    ];
    for network in refused {
        assert!(
            matches!(Lab::builder().site(Site::A, network).build(), Err(LabError::Spec(_))),
            "{network:?}"
        );
    }
}

/// How many processes of this machine have `marker` in their environment.
fn processes_with(marker: &str) -> usize {
    let has_marker = |path: &Path| {
        let environment = fs::read(path.join("environ")).unwrap_or_default();
        environment.split(|&byte| byte == 0).any(|entry| entry == marker.as_bytes())
    };
    fs::read_dir("/proc")
        .unwrap()
        .filter(|entry| entry.as_ref().is_ok_and(|entry| has_marker(&entry.path())))
        .count()
}

/// The prober is a program of this crate: without it nothing here says anything.
#[test]
fn the_prober_refuses_nonsense() {
    let output = Command::new(PROBER).arg("nonsense").output().unwrap();
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("usage"));
}
